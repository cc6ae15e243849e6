"""Rounds of search: predict, propose, measure, fit again; and the front of what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments import fitting
from experiments.files import read_json
from experiments.measuring.measure import measured_architectures, profilers
from experiments.plans import round_name, search_plans
from experiments.progress import Reporter
from experiments.run_folder import Plan, RunFolder
from experiments.scoring.scorer import Scorer
from hardware.measurement import Measurement
from search.front import Axis, Candidate, ParetoFront
from search.nsga2 import run_nsga2
from search.objectives import Objective
from search.spread import select_spread
from supernet.architecture import Architecture

__all__ = ["ACCURACY", "AXES", "LATENCY", "front_of_run", "propose"]

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
    latencies = {name: fitting.load(run, f"latency-{name}").predictor for name in names}
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
    return run.write_plan(round_name(number, device), list(chosen), list(chosen.values()))


@dataclass(frozen=True)
class _Known:
    """What is known of the architectures of some plans, by id."""

    accuracy: Mapping[str, float]
    notes: Mapping[str, Mapping[str, Any]]
    macs: Mapping[str, int]
    parameters: Mapping[str, int]


def front_of_run(run: RunFolder, scorer: Scorer, report: Reporter, device: str | None = None) -> dict[str, Any]:
    """``front.json``: per device all measured candidates of the search, their Pareto front and its hypervolume.

    Fronts of other devices that are in the file, of the same scores, stay there.
    """
    plans = search_plans(run, device)
    archs = [arch for plan in plans for arch in plan.archs]
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
            candidates = [
                _candidate(arch, measurement, name, known, accuracy, latency)
                for arch, measurement in measured_architectures(store, archs, profiler.device).items()
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
                "reference": reference,
                "hypervolume": front.hypervolume(reference),
            }
    return {"provenance": run.provenance, "scores": scorer.digest, "seed": run.recipe.seed, "devices": devices}


def _candidate(
    arch: Architecture,
    measurement: Measurement,
    device: str,
    known: _Known,
    accuracy: fitting.Fitted,
    latency: fitting.Fitted,
) -> Candidate:
    notes = known.notes[arch.id]
    predicted = notes.get("predicted", {})
    extras = {
        "origin": notes["origin"],
        "macs": known.macs[arch.id],
        "parameters": known.parameters[arch.id],
        "latency_interval": list(measurement.interval),
        "latency_quantiles": np.quantile(measurement.seconds, _QUANTILES).tolist(),
        "warnings": list(measurement.warnings),
        "costs": dict(measurement.extras),
        # What was predicted before it was measured; for the first sample, by a model that had not seen it.
        "predicted_latency": predicted.get(f"latency-{device}", latency.out_of_fold.get(arch.id)),
        "predicted_accuracy": predicted.get("accuracy", accuracy.out_of_fold.get(arch.id)),
    }
    return Candidate(arch, {"accuracy": known.accuracy[arch.id], "latency": measurement.median}, extras)
