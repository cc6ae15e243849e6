"""Rounds of search: predict, propose, measure, fit again; and the front of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import fitting
from experiments.files import read_json
from experiments.measuring.measure import Setup, architectures, measure_side_by_side, measured_architectures, profilers
from experiments.plans import baseline_plans, final_name, round_name, search_plans
from experiments.progress import Reporter
from experiments.run_folder import Plan, RunFolder
from experiments.scoring.scorer import Scorer
from hardware.measurement import Measurement, Measurements
from search.contenders import contenders
from search.front import Axis, Candidate, ParetoFront
from search.nsga2 import run_nsga2
from search.objectives import Objective
from search.spread import select_spread
from supernet.architecture import Architecture

__all__ = ["ACCURACY", "AXES", "LATENCY", "changed_places", "front_of_run", "possible_members", "propose", "settle"]

ACCURACY = Axis("accuracy", "", maximize=True)
LATENCY = Axis("latency", "s", maximize=False)
AXES = (ACCURACY, LATENCY)
_QUANTILES = np.linspace(0, 1, 41)  # of the repeats, kept with a candidate to answer how often it holds a budget


def propose(run: RunFolder, number: int, report: Reporter, device: str | None = None) -> Plan:
    """The plan of round `number`: per device some of the predicted front, well spread, that no plan has yet.

    With an added device, for that one only.
    """
    settings, space = run.recipe.search, run.untrained_supernet.space
    known = {arch for plan in search_plans(run, device) for arch in plan.archs}
    accuracy = fitting.load(run, "accuracy").predictor
    names = [settings.name for settings in run.recipe.devices] if device is None else [device]
    fitted = {name: fitting.load(run, f"latency-{name}") for name in names}
    latencies = {name: found.predictor for name, found in fitted.items()}
    chosen: dict[Architecture, dict[str, Any]] = {}
    for name, latency in latencies.items():
        result = run_nsga2(
            space,
            [
                Objective(ACCURACY.name, ACCURACY.unit, ACCURACY.maximize, evaluate=accuracy.predict),
                Objective(LATENCY.name, LATENCY.unit, LATENCY.maximize, evaluate=latency.predict),
            ],
            budget=min(settings.evaluations, space.size),
            seed=run.recipe.seed + number,
            population=settings.population,
        )
        exclude = space.encode([*known, *chosen])
        for arch in space.decode(select_spread(result, settings.candidates, exclude=exclude)):
            chosen[arch] = {"origin": f"search round {number}", "proposed_for": name, "evaluated": result.n_evaluated}
        report.say(
            f"  {name}: {result.n_evaluated:,} architectures predicted in {result.seconds:.1f} s, "
            f"{len(result.front)} on the predicted front"
        )
    if chosen:
        genes = space.encode(list(chosen))
        predicted = {f"latency-{name}": latency.predict(genes) for name, latency in latencies.items()}
        predicted["accuracy"] = accuracy.predict(genes)
        for i, notes in enumerate(chosen.values()):
            notes["predicted"] = {name: float(values[i]) for name, values in predicted.items()}
            notes["levels"] = {f"latency-{name}": found.level for name, found in fitted.items()}
    return run.write_plan(round_name(number, device), list(chosen), list(chosen.values()))


def settle(run: RunFolder, scorer: Scorer, report: Reporter, device: str | None = None) -> None:
    """Measure what may be on a front side by side, before the front is final: per device one session.

    Until then candidates were measured in several sessions, and the tie of these is unsure. What is chosen from one
    session is chosen by what the networks are.
    """
    archs = [arch for plan in search_plans(run, device) for arch in plan.archs]
    scores = scorer.score(archs, "validation", report)
    accuracy = {key: score.metrics["accuracy"] for key, score in scores.items()}
    added = device is not None and device in run.added_devices()
    with run.store() as store:
        for profiler in profilers(run, device):
            name = profiler.device.name
            plan = run.plan(final_name(name, added))
            known = set(plan.archs if plan else ())
            measured = measured_architectures(store.measurements(profiler.device), archs)
            chosen = possible_members(measured, accuracy)
            if plan is None or not known.issuperset(chosen):
                plan = run.write_plan(final_name(name, added), chosen, [{"origin": "final measuring"}] * len(chosen))
            before = _front_ids(measured, accuracy)
            measure_side_by_side(Setup.of(run), store, profiler, architectures(run, plan.archs), report)
            after = _front_ids(measured_architectures(store.measurements(profiler.device), archs), accuracy)
            report.say(f"  {name}: {changed_places(before, after)}")


def possible_members(measured: Mapping[Architecture, Measurement], accuracy: Mapping[str, float]) -> list[Architecture]:
    """Those that may be on the front of accuracy and latency: its members, and runners-up within their uncertainty."""
    archs = list(measured)
    losses = np.array([[-accuracy[arch.id], np.log(measured[arch].latency)] for arch in archs]).reshape(-1, 2)
    deviations = np.array([[0.0, measured[arch].deviation] for arch in archs]).reshape(-1, 2)
    return [arch for arch, kept in zip(archs, contenders(losses, deviations), strict=True) if kept]


def changed_places(before: Sequence[str], after: Sequence[str]) -> str:
    """What a measuring side by side did to a front, in one line."""
    lost, won = [key for key in before if key not in after], [key for key in after if key not in before]
    if not lost and not won:
        return f"measured side by side, all {len(after)} keep their place on the front"
    parts = [f"{what} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''})" for what, keys in
             ((f"{len(lost)} lost their place", lost), (f"{len(won)} came on it", won)) if keys]  # fmt: skip
    return f"measured side by side, {' and '.join(parts)}; the front has {len(after)}"


def _front_ids(measured: Mapping[Architecture, Measurement], accuracy: Mapping[str, float]) -> list[str]:
    candidates = [
        Candidate(arch, {"accuracy": accuracy[arch.id], "latency": found.latency}) for arch, found in measured.items()
    ]
    return [candidate.arch.id for candidate in ParetoFront(candidates, AXES)]


@dataclass(frozen=True)
class _Known:
    """What is known of the architectures of some plans, by id."""

    accuracy: Mapping[str, float]
    notes: Mapping[str, Mapping[str, Any]]
    macs: Mapping[str, int]
    parameters: Mapping[str, int]


def front_of_run(run: RunFolder, scorer: Scorer, report: Reporter, device: str | None = None) -> dict[str, Any]:
    """``front.json``: per device all measured candidates, their Pareto front and its hypervolume.

    Candidates are what the search found and, once they were compared, the baselines as well: whoever asks for a
    sub-network gets the best that is known. Fronts of other devices that are in the file, of the same scores, stay.
    """
    plans = [*baseline_plans(run), *search_plans(run, device)]  # an architecture of both is the search's
    archs = list(dict.fromkeys(arch for plan in plans for arch in plan.archs))
    space = run.untrained_supernet.space
    genes = space.encode(archs)
    scores = scorer.score(archs, "validation", report)
    known = _Known(
        {key: score.metrics["accuracy"] for key, score in scores.items()},
        {arch.id: notes for plan in plans for arch, notes in zip(plan.archs, plan.notes, strict=True)},
        {arch.id: int(n) for arch, n in zip(archs, run.untrained_supernet.macs(genes), strict=True)},
        {arch.id: int(n) for arch, n in zip(archs, run.untrained_supernet.n_parameters(genes), strict=True)},
    )
    accuracy = fitting.load(run, "accuracy")
    before = read_json(run.front) if run.front.exists() else {"scores": scorer.digest, "devices": {}}
    devices = before["devices"] if before["scores"] == scorer.digest else {}
    with run.store() as store:
        for profiler in profilers(run, device):
            name = profiler.device.name
            latency = fitting.load(run, f"latency-{name}")
            measurements = store.measurements(profiler.device)
            candidates = [
                _candidate(arch, measurement, measurements, known, accuracy, latency)
                for arch, measurement in measured_architectures(measurements, archs).items()
            ]
            front = ParetoFront(candidates, AXES)
            reference = {
                "accuracy": min(c.values["accuracy"] for c in candidates),
                "latency": max(c.values["latency"] for c in candidates),
            }
            devices[name] = {
                "device": profiler.device.to_dict(),
                "fingerprint": profiler.device.fingerprint,
                "front": front.to_dict(),
                "candidates": [candidate.to_dict() for candidate in candidates],
                "session": measurements.at.id,
                "notes": measurements.notes,
                "reference": reference,
                "hypervolume": front.hypervolume(reference),
            }
    return {"provenance": run.provenance, "scores": scorer.digest, "seed": run.recipe.seed, "devices": devices}


def _candidate(
    arch: Architecture,
    measurement: Measurement,
    measurements: Measurements,
    known: _Known,
    accuracy: fitting.Fitted,
    latency: fitting.Fitted,
) -> Candidate:
    notes = known.notes[arch.id]
    predicted = notes.get("predicted", {})
    # What was predicted before it was measured; for the first sample, by a model that had not seen it. Predictions are
    # on the level of the session that their model learned from.
    name = f"latency-{measurements.device.name}"
    if name in predicted:
        seconds, level = predicted[name], notes["levels"][name]
    else:
        seconds, level = latency.out_of_fold.get(arch.id), latency.level
    extras = {
        "origin": notes["origin"],
        "macs": known.macs[arch.id],
        "parameters": known.parameters[arch.id],
        "latency_interval": list(measurement.interval),
        "latency_deviation": measurement.deviation,
        "latency_quantiles": np.quantile(measurement.repeats, _QUANTILES).tolist(),
        "warnings": list(measurement.warnings),
        "costs": dict(measurement.extras),
        "predicted_latency": None if seconds is None else measurements.brought(seconds, level),
        "predicted_accuracy": predicted.get("accuracy", accuracy.out_of_fold.get(arch.id)),
    }
    return Candidate(arch, {"accuracy": known.accuracy[arch.id], "latency": measurement.latency}, extras)
