"""What may be changed in the recipe of a run that has begun, and what is made anew after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.settings.recipe import WITHOUT_EFFECT, Recipe
from supernet.files import read_json, write_json

__all__ = ["binding", "changes", "forget", "has_effect"]

_FREE = ("title", "devices", "measure", "score", "fit", "search", "baselines")
"""Sections that the trained weights do not depend on."""
_FREE_KEYS = {"engine.validate_every", "data.on_damaged"}
_BINDING_OF_TASK = {"task.loss", "task.n_outputs"}


def changes(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """Every key that differs, such as ``search.evaluations``, with both values; None where there is none."""
    old, new = dict(_flat(before.model_dump(mode="json"))), dict(_flat(after.model_dump(mode="json")))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def has_effect(key: str) -> bool:
    """Whether a key changes any result."""
    section, _, name = key.partition(".")
    return key != "title" and name.partition(".")[0] not in WITHOUT_EFFECT.get(section, ())


def binding(key: str) -> bool:
    """Whether the trained weights depend on a key, so that a run that has begun is bound to it."""
    section = key.partition(".")[0]
    if not has_effect(key) or key in _FREE_KEYS or section in _FREE:
        return False
    return section != "task" or key in _BINDING_OF_TASK


def forget(run: Path, changed: Mapping[str, tuple[Any, Any]], added_devices: set[str]) -> list[str]:
    """Remove what follows from changed keys and is to be made anew; what was trained, measured and scored stays.

    Returns what was removed, for people.
    """
    keys = [key for key in changed if has_effect(key)]
    sections = {key.partition(".")[0] for key in keys}
    gone = []
    if keys:
        gone += _removed(run, "report.html", "comparison.json", "front.png", "tables", "repeats")
        gone += _removed(run, *(f"plans/{path.name}" for path in _plans_of_controls(run)))
        gone += _fronts_of_recipe(run, added_devices)
    if "fit" in sections:  # what other devices have lent to one stays
        fitted = [path for path in (run / "predictors").rglob("*.json") if "known" not in path.parts]
        gone += ["predictors"] if _removed(run, *(str(path.relative_to(run)) for path in fitted)) else []
    if {"measure.n_architectures", "score.n_architectures"} & set(keys):
        gone += _removed(run, "plans/initial.json")  # a longer design begins with the shorter one
    if {"baselines.epochs", "baselines.peak_lr"} & set(keys):
        gone += _removed(run, "baselines")
    return gone


def _plans_of_controls(run: Path) -> list[Path]:
    """What depends on how much a search evaluated."""
    return [path for kind in ("random", "filtered", "local") for path in sorted((run / "plans").glob(f"{kind}*.json"))]


def _fronts_of_recipe(run: Path, added_devices: set[str]) -> list[str]:
    """Remove the fronts of the recipe's goals; those of added devices are about nothing in the recipe."""
    path = run / "front.json"
    if not path.exists():
        return []
    content = read_json(path)
    kept = {name: goal for name, goal in content["goals"].items() if set(goal["devices"]) & added_devices}
    if not kept:
        return _removed(run, "front.json")
    write_json(path, {**content, "goals": kept})
    return ["front.json"]


def _removed(run: Path, *names: str) -> list[str]:
    there = [name for name in names if (run / name).exists()]
    for name in there:
        if (run / name).is_dir():
            shutil.rmtree(run / name)
        else:
            (run / name).unlink()
    return there


def _flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Keys with their path; devices, which have names, by these."""
    if isinstance(data, dict) and (data or not prefix):
        for name, value in data.items():
            yield from _flat(value, f"{prefix}.{name}" if prefix else name)
    elif prefix == "devices":
        for device in data:
            yield from _flat(
                {key: value for key, value in device.items() if key != "name"}, f"devices.{device['name']}"
            )
    else:
        yield prefix, data
