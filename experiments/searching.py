"""The front of a search: measuring side by side what may be on it, and ``front.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import fitting
from experiments.beliefs import Beliefs
from experiments.goals import Goal, goals
from experiments.known import Column, Known
from experiments.measuring.measure import Setup, architectures, measure_side_by_side, profilers
from experiments.measuring.remote import StoredProfiler
from experiments.optima import optima_of
from experiments.plans import baseline_plans, search_plans
from experiments.progress import Reporter
from experiments.quantities import Kind, Quantity
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from search.contenders import contenders
from search.front import Candidate, ParetoFront
from supernet.architecture import Architecture
from supernet.files import read_json

__all__ = ["changed_places", "front_of_run", "holding", "possible_members", "settle", "shown"]

_QUANTILES = np.linspace(0, 1, 41)  # of the repeats, kept with a candidate to answer how often it holds a budget

Values = NDArray[np.float64]


# -- what is final ----------------------------------------------------------------------------------------------------


def settle(run: RunFolder, scorer: Scorer, report: Reporter, device: str | None = None) -> None:
    """Measure what may be on a front side by side, before the front is final: per device one session.

    Until then candidates were measured in several sessions, and the tie of these is unsure. What is chosen from one
    session is chosen by what the networks are.
    """
    archs = list(dict.fromkeys(arch for plan in search_plans(run, device) for arch in plan.archs))
    before = Known(run, scorer, report)
    wanted = goals(run, device)
    fronts = {goal.name: _front_ids(goal, before, archs) for goal in wanted}
    setup = Setup.of(run)
    with run.store() as store:
        for profiler in profilers(run, device):
            name = profiler.device.name
            about = [goal for goal in wanted if name in goal.devices]
            chosen = list(dict.fromkeys(arch for goal in about for arch in possible_members(goal, before, archs)))
            if not chosen:
                continue
            plan = run.plan("final", device=name)
            if plan is None or not set(plan.archs).issuperset(chosen):
                if plan is not None and isinstance(profiler, StoredProfiler):
                    # Somebody carries it: who was looked at stays, lest the last measuring ask for another for ever.
                    chosen = list(dict.fromkeys([*plan.archs, *chosen]))
                notes = [{"origin": "final measuring"}] * len(chosen)
                plan = run.write_plan("final", chosen, notes, device=name)
            measure_side_by_side(setup, store, profiler, architectures(run, plan.archs), report)
    after = Known(run, scorer, report)
    for goal in wanted:
        report.say(f"  {goal.name}: {changed_places(fronts[goal.name], _front_ids(goal, after, archs))}")


def possible_members(goal: Goal, known: Known, archs: Sequence[Architecture]) -> list[Architecture]:
    """Those that may be on the front of a goal: its members, and runners-up within their uncertainty."""
    there, columns = _complete(goal, known, archs)
    if not there:
        return []
    kept = np.ones(len(there), dtype=bool)
    for one in goal.limits:
        values, deviations = columns[one.quantity]
        slack = 1 + 2 * deviations if one.upper else 1 - 2 * deviations
        kept &= values <= one.value * slack if one.upper else values >= one.value * slack
    losses = np.stack([_loss(one, columns[one][0]) for one in goal.objectives], axis=1)[kept]
    deviations = np.stack([columns[one][1] for one in goal.objectives], axis=1)[kept]
    there = [arch for arch, held in zip(there, kept, strict=True) if held]
    return [arch for arch, member in zip(there, contenders(losses, deviations), strict=True) if member]


def holding(goal: Goal, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates that keep every limit of a goal."""
    return [c for c in candidates if all(one.holds(c.values[one.quantity.name]) for one in goal.limits)]


def changed_places(before: Sequence[str], after: Sequence[str]) -> str:
    """What a measuring side by side did to a front, in one line."""
    lost, won = [key for key in before if key not in after], [key for key in after if key not in before]
    if not lost and not won:
        return f"measured side by side, all {len(after)} keep their place on the front"
    parts = [
        f"{text} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})"
        for text, keys in (
            (f"{len(lost)} lost {'its' if len(lost) == 1 else 'their'} place", lost),
            (f"{len(won)} came on it", won),
        )
        if keys
    ]
    return f"measured side by side, {' and '.join(parts)}; the front has {len(after)}"


def _loss(quantity: Quantity, values: Values) -> Values:
    """Smaller is better; latencies as logarithms, whose errors are known."""
    return quantity.axis.loss(np.log(values) if quantity.kind.is_time else values)


def _complete(
    goal: Goal, known: Known, archs: Sequence[Architecture]
) -> tuple[list[Architecture], dict[Quantity, tuple[Values, Values]]]:
    """Those of which everything is known that a goal is about, and their values and deviations."""
    columns = {one: known.column(one, archs) for one in goal.quantities}
    there = np.all([np.isfinite(column.values) for column in columns.values()], axis=0)
    kept = {one: (column.values[there], column.deviations[there]) for one, column in columns.items()}
    return [arch for arch, complete in zip(archs, there, strict=True) if complete], kept


def _front_ids(goal: Goal, known: Known, archs: Sequence[Architecture]) -> list[str]:
    there, columns = _complete(goal, known, archs)
    candidates = [
        Candidate(arch, {one.name: float(columns[one][0][i]) for one in goal.quantities})
        for i, arch in enumerate(there)
    ]
    front = ParetoFront(holding(goal, candidates), [one.axis for one in goal.objectives])
    return [candidate.arch.id for candidate in front]


# -- front.json -------------------------------------------------------------------------------------------------------


def shown(goal: Goal, kinds: Mapping[str, Kind]) -> tuple[Quantity, ...]:
    """Every quantity of these kinds that is told of a goal's candidates where it is known: its own, and costs."""
    device = goal.devices[0] if goal.devices else None
    more = [
        Quantity(kind, device if kind.source == "session" else None) for kind in kinds.values() if not kind.quantile
    ]
    return tuple(dict.fromkeys((*goal.quantities, *(one for one in more if one.device or not one.kind.of_device))))


def _slow_calls(goal: Goal, kinds: Mapping[str, Kind]) -> list[Quantity]:
    """What is kept of the slow calls on every device of a goal, for limits on them."""
    return [Quantity(kind, device) for device in goal.devices for kind in kinds.values() if kind.quantile]


def front_of_run(run: RunFolder, scorer: Scorer, report: Reporter, device: str | None = None) -> dict[str, Any]:
    """``front.json``: per goal all measured candidates, their Pareto front and its hypervolume.

    Candidates are what the search found and, once they were compared, the baselines as well: whoever asks for a
    sub-network gets the best that is known. Goals that are in the file and not asked for, of the same scores, stay.
    """
    plans = [*baseline_plans(run), *search_plans(run, device)]  # an architecture of both is the search's
    notes = {arch.id: note for plan in plans for arch, note in zip(plan.archs, plan.notes, strict=True)}
    archs = list(dict.fromkeys(arch for plan in plans for arch in plan.archs))
    known = Known(run, scorer, report)
    before = read_json(run.front) if run.front.exists() else {"scores": scorer.digest, "goals": {}}
    found = dict(before["goals"]) if before["scores"] == scorer.digest else {}
    for goal in goals(run, device):
        found[goal.name] = _goal_entry(run, goal, known, archs, notes, report, device)
    return {"provenance": run.provenance, "scores": scorer.digest, "seed": run.recipe.seed, "goals": found}


def _goal_entry(
    run: RunFolder,
    goal: Goal,
    known: Known,
    archs: Sequence[Architecture],
    notes: Mapping[str, Mapping[str, Any]],
    report: Reporter,
    device: str | None,
) -> dict[str, Any]:
    there, _ = _complete(goal, known, archs)
    kinds = run.recipe.kinds
    kept = dict.fromkeys((*shown(goal, kinds), *_slow_calls(goal, kinds)))
    full = {one: known.column(one, there) for one in kept}
    columns = {one: column.values for one, column in full.items()}
    out_of_fold = {one: fitting.load(run, one, device) for one in goal.quantities if one.kind.learned is not None}
    beliefs = Beliefs(run, goal, known, there, full, out_of_fold)
    candidates = []
    for i, arch in enumerate(there):
        values = {one.name: float(column[i]) for one, column in columns.items() if np.isfinite(column[i])}
        measured = {name: found for name in goal.devices if (found := known.measurement(name, arch)) is not None}
        predicted = {
            one.name: value
            for one in goal.quantities
            if (value := _foretold(one, arch, notes[arch.id], out_of_fold.get(one), known)) is not None
        }
        extras = {
            "origin": notes[arch.id]["origin"],
            "intervals": _intervals(full, i) | {f"latency@{name}": list(m.interval) for name, m in measured.items()},
            "deviations": {f"latency@{name}": found.deviation for name, found in measured.items()},
            "quantiles": {
                f"latency@{name}": np.quantile(found.repeats, _QUANTILES).tolist() for name, found in measured.items()
            },
            "predicted": predicted,
            "posterior": beliefs.told(i),
            "warnings": list(dict.fromkeys(text for found in measured.values() for text in found.warnings)),
        }
        candidates.append(Candidate(arch, values, extras))
    holds = holding(goal, candidates)
    if candidates and not holds:
        report.say(f"  {goal.name}: no measured sub-network holds {' and '.join(map(str, goal.limits))}")
    front = ParetoFront(holds, [one.axis for one in goal.objectives])
    reference = {
        one.name: float((min if one.kind.maximize else max)(c.values[one.name] for c in candidates))
        for one in goal.objectives
    }  # fmt: skip
    keeping = {candidate.arch for candidate in holds}
    held = np.array([arch in keeping for arch in there], dtype=bool)
    return {
        "metric": None if run.recipe.task is None else run.recipe.task.told,
        "objectives": [one.name for one in goal.objectives],
        "limits": [str(one) for one in goal.limits],
        "devices": {name: _device_entry(known, name) for name in goal.devices},
        "front": front.to_dict(),
        "candidates": [candidate.to_dict() for candidate in candidates],
        "reference": reference,
        "hypervolume": front.hypervolume(reference),
        "posterior": beliefs.front(held, reference, run.recipe.seed),
        "optima": optima_of(run, goal, known, out_of_fold),
    }


def _intervals(columns: Mapping[Quantity, Column], i: int) -> dict[str, list[float]]:
    """Of 95 %, of what is said of the slow calls of an architecture."""
    found = {}
    for one, column in columns.items():
        value, reach = column.values[i], 1.96 * column.deviations[i]
        if one.kind.quantile is not None and np.isfinite(value):
            ends = (
                value * np.exp([-reach, reach]) if one.kind.is_time else np.clip([value - reach, value + reach], 0, 1)
            )
            found[one.name] = ends.tolist()
    return found


def _device_entry(known: Known, name: str) -> dict[str, Any]:
    """What it was measured on, and in which session the level is."""
    device, measurements = known.device(name), known.measurements(name)
    return {
        "device": device.to_dict(),
        "fingerprint": device.fingerprint,
        "session": measurements.at.id,
        "notes": measurements.notes,
    }


def _foretold(
    quantity: Quantity, arch: Architecture, notes: Mapping[str, Any], fitted: fitting.Fitted | None, known: Known
) -> float | None:
    """What was predicted before it was known; for the first sample, by a model that had not seen it.

    Latencies were predicted on the level of the session that their model learned from, and are brought to ours.
    """
    if quantity.name in notes.get("predicted", {}):
        value, level = notes["predicted"][quantity.name], notes["levels"].get(quantity.name, "")
    elif fitted is not None:
        value, level = fitted.out_of_fold.get(arch.id), fitted.level
    else:
        return None
    if value is not None and level and quantity.device is not None:
        return known.measurements(quantity.device).brought(value, level)
    return value
