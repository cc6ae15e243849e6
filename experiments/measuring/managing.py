"""Devices of a run, managed: one of this machine added to its recipe, and added ones renamed and removed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from typing import Any

from experiments.measuring.devices import create_profiler
from experiments.measuring.kits import forget_renamed, remember_renamed
from experiments.measuring.remote import check_name
from experiments.run_folder import RunFolder
from experiments.settings.recipe import Recipe
from supernet.files import read_json, write_json

__all__ = ["add_local_device", "device_text", "remove_device", "rename_device"]


def add_local_device(run: RunFolder, settings: Mapping[str, Any]) -> RunFolder:
    """The run with one more device of this machine in its recipe; what was trained, measured and scored is kept.

    Args:
        settings: keys of a section ``[[devices]]``, see `DeviceSettings` of `experiments.settings.devices`.

    Raises:
        ValueError: settings that are not possible, a name that is taken, or a device that this machine does not have.
    """
    name = settings["name"]
    if name in run.added_devices():
        raise ValueError(f"{run.path} has an added device {name!r}; give another name, or rename that one")
    text = (run.path / "recipe.toml").read_text(encoding="utf-8-sig")
    if re.search(r"^\s*devices\s*=", text, re.MULTILINE):
        raise ValueError(f"devices are written as one list in {run.path / 'recipe.toml'}; add it there by hand")

    def is_here(recipe: Recipe) -> None:
        create_profiler(next(device for device in recipe.devices if device.name == name)).device  # noqa: B018

    return run.with_recipe(f"{text.rstrip()}\n\n{device_text(settings)}", is_here)


def device_text(settings: Mapping[str, Any]) -> str:
    """A section of a recipe, as one would write it."""
    rows = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]  # TOML writes these as JSON does
    return "\n".join(["[[devices]]", *rows, ""])


def rename_device(run: RunFolder, old: str, new: str) -> None:
    """Give an added device another name, in plans and measurements as well. Predictors and the front that have its name
    in them are removed: a search makes them again without measuring anything.

    Done again after a kill, it goes on.

    Raises:
        ValueError: there is no such added device, the name is taken or none, or a goal of the recipe is about it.
    """
    check_name(run, new)
    _check_free_of_goals(run, old)
    device = run.added_device(old)
    there = run.added_devices().get(new)
    if there is not None and there != device:
        raise ValueError(f"{run.path} has a device {new!r} already: {there}; give another name")
    _forget_results(run, old)
    with run.store() as store:
        store.rename(device, new)
    for plan in run.all_plans():
        if plan.device == old:
            run.write_plan(plan.kind, plan.archs, plan.notes, number=plan.number, device=new)
            run.plan_file(plan.kind, number=plan.number, device=old).unlink()
    if (run.predictors / old).is_dir():  # what others have lent to it
        shutil.rmtree(run.predictors / new, ignore_errors=True)
        (run.predictors / old).rename(run.predictors / new)
    remember_renamed(run, old, new)
    write_json(run.devices / f"{new}.json", {**device.to_dict(), "name": new})
    (run.devices / f"{old}.json").unlink()  # last: until then the same command goes on


def remove_device(run: RunFolder, name: str) -> int:
    """Forget an added device with its plans, predictors and front; the name is free then.

    What was measured stays in the store, and is there again for an equal device under any name. Returns how many
    networks that are.

    Raises:
        ValueError: there is no such added device, or a goal of the recipe is about it.
    """
    _check_free_of_goals(run, name)
    device = run.added_device(name)
    _forget_results(run, name)
    shutil.rmtree(run.predictors / name, ignore_errors=True)
    for plan in run.all_plans():
        if plan.device == name:
            run.plan_file(plan.kind, number=plan.number, device=name).unlink()
    forget_renamed(run, name)
    with run.store() as store:
        n = len(store.measured(device))
    (run.devices / f"{name}.json").unlink()
    return n


def _check_free_of_goals(run: RunFolder, name: str) -> None:
    if name in {device.name for device in run.recipe.devices}:
        raise ValueError(
            f"{name!r} is a device of the recipe: change it there, then `supernet run RECIPE --out {run.path}` again"
        )
    search = run.recipe.search
    if about := [text for text in (*search.objectives, *search.constraints) if f"@{name}" in text]:
        raise ValueError(f"search of the recipe is about {name!r} ({about[0]}); change that first")


def _forget_results(run: RunFolder, name: str) -> None:
    """Remove predictors and fronts that have a device in them."""
    if (run.predictors / name).is_dir():
        for path in (run.predictors / name).glob("*.json"):
            path.unlink()
    if run.front.exists():
        content = read_json(run.front)
        kept = {goal: found for goal, found in content["goals"].items() if name not in found["devices"]}
        if not kept:
            run.front.unlink()
        elif len(kept) < len(content["goals"]):
            write_json(run.front, {**content, "goals": kept})
