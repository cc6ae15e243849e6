"""Questions to a stored front: needs neither torch nor the supernet, so the answer comes at once."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.quantities import Kind, Limit, Quantity, kinds_with, limit, quantity
from hardware.device import Device
from hardware.device_changes import changed_here
from search.front import Candidate, ParetoFront
from search.optima import Optima
from supernet.files import read_json

__all__ = ["answer", "as_csv", "front_rows", "goal_results", "kinds", "objectives", "optimum", "what_changed"]


def goal_results(run: Path, name: str | None, device: str | None = None) -> tuple[str, dict[str, Any]]:
    """Name and results of a goal in ``front.json``; without a name, of the only one, or the only one about a device.

    Raises:
        ValueError: no search was done, or there is no such goal; the message names those there are.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not a folder; give the folder of a run, such as runs/digits")
    if not (run / "front.json").exists():
        raise ValueError(f"{run} has no front.json; search first: `supernet search {run}`")
    found: dict[str, dict[str, Any]] = read_json(run / "front.json")["goals"]
    if name is not None:
        if name not in found:
            raise ValueError(f"no goal {name!r} in {run}; there are {'; '.join(found)}")
        return name, found[name]
    if device is None:
        if len(found) > 1:
            raise ValueError(f"{run} has {len(found)} goals; name one with --device or --goal: {'; '.join(found)}")
        return next(iter(found.items()))
    if device in found:
        return device, found[device]
    about = {goal: results for goal, results in found.items() if device in results["devices"]}
    if len(about) == 1:
        return next(iter(about.items()))
    if not about:
        devices = dict.fromkeys(one for results in found.values() for one in results["devices"])
        raise ValueError(f"no device {device!r} in {run}; there are {', '.join(devices)}")
    raise ValueError(f"{len(about)} goals of {run} are about {device!r}; name one with --goal: {'; '.join(about)}")


def what_changed(run: Path, results: Mapping[str, Any]) -> list[str]:
    """What is no longer as it was when the devices of a goal were measured; devices elsewhere are not looked at."""
    return [
        text
        for name, found in results["devices"].items()
        if not (run / "devices" / f"{name}.json").exists()
        for text in changed_here(Device.from_dict(found["device"]))
    ]


def kinds(results: Mapping[str, Any]) -> dict[str, Kind]:
    """The quantities that there are for a goal: with the metric of a task of one's own, if that is what it is about."""
    return kinds_with(results.get("metric"))


def objectives(results: Mapping[str, Any]) -> list[Quantity]:
    """What a goal trades."""
    return [quantity(name, results["devices"], kinds(results)) for name in results["objectives"]]


def answer(results: Mapping[str, Any], limits: Sequence[Limit], top: int) -> list[dict[str, Any]]:
    """The `top` sub-networks that keep every limit, best in the goal's first objective first, as plain data.

    Where there is a prediction beside the measured value, best is what it is believed to be (``posterior``).

    With a limit on a latency, ``share_of_runs_within`` has for it the share of the measured runs that took no longer.

    Raises:
        ValueError: nothing keeps the limits; the message says what comes nearest. Or something is not known.
    """
    everything = [Candidate.from_dict(candidate) for candidate in results["candidates"]]
    for one in limits:
        if not any(one.quantity.name in candidate.values for candidate in everything):
            raise ValueError(
                f"{one.quantity} was not measured here; the costs of [[devices]] in a recipe say what is measured "
                f"beside the latency, on {' and '.join(results['devices'])}"
            )
    candidates = [c for c in everything if all(one.quantity.name in c.values for one in limits)]
    holding = [c for c in candidates if all(one.holds(c.values[one.quantity.name]) for one in limits)]
    if not holding:
        raise ValueError(_nothing_fits(candidates, limits))
    wanted = objectives(results)
    front = {candidate.arch for candidate in ParetoFront(holding, [one.axis for one in wanted])}

    def order(candidate: Candidate) -> tuple[Any, ...]:
        # Of equals in the first objective, what is on the front of those that keep the limits. What it is believed to
        # be decides, not what it was scored: the best of many scores is lucky.
        first, *others = (one.axis.loss(candidate.values[one.name]) for one in wanted)
        belief = candidate.extras.get("posterior", {}).get(wanted[0].name)
        believed = first if belief is None else wanted[0].axis.loss(belief["value"])
        return (believed, candidate.arch not in front, first, *others)

    chances = results.get("posterior", {}).get("membership", {})
    return [
        {**_row(candidate, limits), "membership": chances.get(candidate.arch.id, 0.0) if chances else None}
        for candidate in sorted(holding, key=order)[:top]
    ]


def optimum(results: Mapping[str, Any], limits: Sequence[Limit]) -> dict[str, Any] | None:
    """What the models say is the best network of the whole space within the limits, as plain data, with its proof.

    None where the models of the goal are no sums over stages, a limit is not on its objectives, or nothing keeps them.
    ``bound`` is what no network that keeps the limit of the second objective exceeds, by the same models; it follows
    from duality and not from the search for the best one (`search.exact`).
    """
    wanted = objectives(results)
    held = [*limits, *(limit(text, results["devices"], kinds(results)) for text in results["limits"])]
    if results.get("optima") is None or any(one.quantity not in wanted for one in held):
        return None
    optima = Optima.from_dict(results["optima"])
    most = [np.inf, np.inf]  # losses
    for one in held:
        if one.upper == one.quantity.kind.maximize:
            return None  # the worst that there is, which nobody looks for
        place = wanted.index(one.quantity)
        most[place] = min(most[place], float(one.quantity.axis.loss(one.value)))
    found = optima.best(most[1], most[0])
    if found is None:
        return None
    arch = optima.space.decode(found.genes[None])[0]
    return {
        "id": arch.id,
        "settings": str(arch),
        "architecture": arch.to_dict(),
        "predicted": {one.name: float(value) for one, value in zip(wanted, found.values, strict=True)},
        "bound": {wanted[0].name: found.bound},
    }


def front_rows(results: Mapping[str, Any], limits: Sequence[Limit]) -> list[dict[str, Any]]:
    """Every member of the front that keeps the limits, in its order, as rows of `answer`.

    Raises:
        ValueError: none does, or something is not known.
    """
    rows = {row["id"]: row for row in answer(results, limits, top=len(results["candidates"]))}
    kept = [rows[one["id"]] for one in results["front"]["candidates"] if one["id"] in rows]
    if not kept:
        raise ValueError(f"no member of the front keeps {' and '.join(map(str, limits))}; without --front others may")
    return kept


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table of rows of `answer`: the id, every value with its interval where there is one, and the settings."""
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    sure = list(dict.fromkeys(name for row in rows for name in row["intervals"]))
    believed = list(dict.fromkeys(name for row in rows for name in row["posterior"]))
    header = ["id"]
    for name in names:
        header += [name, *([f"{name} posterior"] if name in believed else [])]
        header += [f"{name} low", f"{name} high"] if name in sure else []
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow([*header, "membership", "origin", "settings"])
    for row in rows:
        cells: list[Any] = [row["id"]]
        for name in names:
            cells.append(row["values"].get(name, ""))
            if name in believed:
                cells.append(row["posterior"].get(name, {}).get("value", ""))
            if name in sure:
                cells += row["intervals"].get(name, ("", ""))
        out.writerow([*cells, row["membership"], row["origin"], row["settings"]])
    return text.getvalue()


def _nothing_fits(candidates: Sequence[Candidate], limits: Sequence[Limit]) -> str:
    wanted = [f"{one.quantity} {'≤' if one.upper else '≥'} {one.quantity.format(one.value)}" for one in limits]
    parts = []
    for one in limits:
        name = one.quantity.name
        best = (min if one.upper else max)(candidates, key=lambda candidate: candidate.values[name])
        which = one.quantity.kind.superlative if one.upper != one.quantity.kind.maximize else "largest"
        verb = "needs" if one.upper else "has"
        parts.append(f"the {which} sub-network {verb} {one.quantity.format(best.values[name])} ({best.arch.id})")
    return f"no measured sub-network has {' and '.join(wanted)}: {'; '.join(dict.fromkeys(parts))}"


def _row(candidate: Candidate, limits: Sequence[Limit]) -> dict[str, Any]:
    extras = candidate.extras
    row = {
        "id": candidate.arch.id,
        "settings": str(candidate.arch),
        "architecture": candidate.arch.to_dict(),
        "values": dict(candidate.values),
        "intervals": extras["intervals"],
        "predicted": extras["predicted"],
        "posterior": extras.get("posterior", {}),
        "origin": extras["origin"],
        "warnings": extras["warnings"],
    }
    within = {}
    for one in limits:
        quantiles = extras["quantiles"].get(one.quantity.name)
        if quantiles is not None and one.upper:
            shares = np.linspace(0, 1, len(quantiles))
            within[one.quantity.name] = float(np.interp(one.value, quantiles, shares, 0.0, 1.0))
    return row | ({"share_of_runs_within": within} if within else {})
