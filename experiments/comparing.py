"""Baselines on the same devices and the same images, and everything the report shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from experiments.files import read_json, write_json
from experiments.measuring.measure import (
    Networks,
    Setup,
    architectures,
    measure_side_by_side,
    measured_architectures,
    models,
    profilers,
)
from experiments.measuring.remote import StoredProfiler
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.run_folder import Plan, RunFolder
from experiments.scoring.scorer import Scorer
from experiments.searching import AXES, changed_places, front_of_run, possible_members
from experiments.training.train import course_of_training, train_baseline
from hardware.counting import count_macs, count_parameters
from hardware.device import Device
from hardware.device_changes import differences
from hardware.measurement import Measurement, Measurements
from hardware.profiling import Profiler
from hardware.store import Score
from search.front import Candidate, ParetoFront, hypervolume
from supernet.architecture import Architecture
from supernet.calibration import evaluate
from supernet.space import SearchSpace

__all__ = ["compare_run", "uniform_architectures"]

Point = dict[str, Any]


def compare_run(run: RunFolder, report: Reporter) -> dict[str, Any]:
    """The content of ``comparison.json``; measures, scores and trains what is missing, and writes ``front.json`` anew.

    Everything that is compared on a device is measured side by side, in one session, and every series is chosen from
    that session's latencies by one rule. Only here the test split is read: every series is chosen on the validation
    split and reported on the test split.

    Raises:
        ValueError: a device of the recipe has no front yet, or is another one since.
    """
    before = read_json(run.front)["devices"]
    if unsearched := [device.name for device in run.recipe.devices if device.name not in before]:
        raise ValueError(f"{run.path} has no front for {', '.join(unsearched)} yet: `supernet search {run.path}`")
    for profiler in profilers(run):
        _check_unchanged(run, Device.from_dict(before[profiler.device.name]["device"]), profiler.device)
    scorer = Scorer(run)
    random, uniform = _random_plan(run), _uniform_plan(run)
    scorer.score([*random.archs, *uniform.archs], "validation", report)
    found = {f"timm:{name}": train_baseline(run, name, report) for name in run.recipe.baselines.timm_models}
    for profiler in profilers(run):
        _measure_all(run, profiler, (random.archs, uniform.archs), models(run, found), scorer, report)
    results = front_of_run(run, scorer, report)
    write_json(run.front, results)
    for name in (device.name for device in run.recipe.devices):
        fronts = [ParetoFront(_searched(run, one[name]), AXES) for one in (before, results["devices"])]
        report.say(f"  {name}: {changed_places(*([c.arch.id for c in front] for front in fronts))}")
    scores = {key: _score_model(run, key, model) for key, model in found.items()}
    plans = {plan.name: plan.archs for plan in (random, uniform)}
    devices = [
        _device_entry(run, profiler.device, results["devices"][profiler.device.name], plans, scores, scorer, report)
        for profiler in profilers(run)
    ]
    space = run.supernet.space
    ends = scorer.score([space.smallest, space.largest], "test", report)
    return {
        "title": run.recipe.title,
        "provenance": run.provenance,
        "data": {
            "name": run.recipe.data.source,
            "n_classes": run.data.n_classes,
            **{split: run.data.n_images(split) for split in ("train", "validation", "test")},
        },
        "space": {"size": f"{space.size:.3g}", "text": str(space)},
        "training": course_of_training(run.checkpoints),
        "spread": {
            "smallest": ends[space.smallest.id].metrics["accuracy"],
            "largest": ends[space.largest.id].metrics["accuracy"],
        },
        "devices": devices,
        "notes": _notes(run, random),
    }


def _measure_all(
    run: RunFolder,
    profiler: Profiler | StoredProfiler,
    baselines: Sequence[Sequence[Architecture]],
    others: Networks,
    scorer: Scorer,
    report: Reporter,
) -> None:
    """All baselines and all searched sub-networks that may be on a front, side by side on one device.

    Where they are too many for one session, the baselines are measured in several first, and then those of every series
    that may be on its front in one.
    """
    searched = [arch for plan in search_plans(run) for arch in plan.archs]
    ends = [run.supernet.space.smallest, run.supernet.space.largest]
    scores = scorer.score([*searched, *ends, *(arch for archs in baselines for arch in archs)], "validation", report)
    accuracy = {key: score.metrics["accuracy"] for key, score in scores.items()}
    with run.store() as store:

        def members(archs: Sequence[Architecture]) -> list[Architecture]:
            return possible_members(measured_architectures(store.measurements(profiler.device), archs), accuracy)

        everything = [*members(searched), *ends, *(arch for archs in baselines for arch in archs)]
        networks, setup = architectures(run, list(dict.fromkeys(everything))), Setup.of(run)
        if measure_side_by_side(setup, store, profiler, networks + others, report) is None:
            chosen = [*members(searched), *ends, *(arch for archs in baselines for arch in members(archs))]
            networks = architectures(run, list(dict.fromkeys(chosen)))
            report.say(f"  {profiler.device.name}: too many for one session; now those that may be on a front")
            if measure_side_by_side(setup, store, profiler, networks + others, report) is None:
                report.say(f"  {profiler.device.name}: still too many: they are compared over several tied sessions")


def _check_unchanged(run: RunFolder, before: Device, now: Device) -> None:
    if changed := differences(before, now):
        raise ValueError(
            f"the front of {now.name} was measured before this changed: {'; '.join(changed)}; baselines measured now "
            f"cannot be compared with it: search again with `supernet search {run.path}`"
        )


def _random_plan(run: RunFolder) -> Plan:
    """As many architectures as the search measured, drawn at random: the control."""
    found = run.plan("random")
    if found is not None:
        return found
    n = sum(len(plan.archs) for plan in search_plans(run))
    space, rng = run.untrained_supernet.space, np.random.default_rng(run.recipe.seed)
    drawn: dict[Architecture, None] = {}
    while len(drawn) < min(n, space.size):
        drawn.update(dict.fromkeys(space.sample(n, rng)))
    archs = list(drawn)[:n]
    return run.write_plan("random", archs, [{"origin": "random search"}] * len(archs))


def _uniform_plan(run: RunFolder) -> Plan:
    """The same depth and width everywhere, at the largest kernel and resolution: scaling by hand."""
    space = run.untrained_supernet.space
    archs = uniform_architectures(space)
    return run.plan("uniform") or run.write_plan("uniform", archs, [{"origin": "uniform scaling"}] * len(archs))


def uniform_architectures(space: SearchSpace) -> list[Architecture]:
    """One architecture for every pair of a depth level and a width level that all stages and blocks share."""

    widths = {gene.name for gene in space.genes} - {"resolution", "depth", "kernel"}
    n_depths = max(len(stage.depths) for stage in space.stages)
    n_widths = max((len(gene.choices) for gene in space.genes if gene.name in widths), default=1)
    archs = []
    for depth, width in itertools.product(range(n_depths), range(n_widths)):
        genes = space.encode([space.largest])
        for column, gene in enumerate(space.genes):
            if gene.name == "depth" or gene.name in widths:
                level = depth if gene.name == "depth" else width
                genes[:, column] = min(level, len(gene.choices) - 1)
        archs += space.decode(genes[space.holds(genes)])
    return list(dict.fromkeys(archs))


def _score_model(run: RunFolder, key: str, model: nn.Module) -> dict[str, float]:
    """Accuracy of an ordinary network on both splits, made once; and what it costs."""
    name = key.removeprefix("timm:")
    digest = json.dumps([run.recipe.digest, name])
    found = {}
    with run.store() as store:
        for split in ("validation", "test"):
            if not store.has_score(key, digest, split):
                images = run.data.evaluation_batches(split, run.recipe.score.batch_size)
                result = evaluate(model, images)
                metrics = {"accuracy": result.accuracy, "loss": result.loss, "n_images": result.n_images}
                store.add_score(Score(key, digest, split, metrics))
            found[split] = store.score(key, digest, split).metrics["accuracy"]
    shape = (1, run.data.in_channels, run.data.resolution, run.data.resolution)
    return {**found, "macs": count_macs(model, shape), "parameters": count_parameters(model)}


def _device_entry(
    run: RunFolder,
    device: Device,
    results: Mapping[str, Any],
    plans: Mapping[str, Sequence[Architecture]],
    models: Mapping[str, Mapping[str, float]],
    scorer: Scorer,
    report: Reporter,
) -> dict[str, Any]:
    """Everything the report shows of one device. Random search and the search show their fronts, chosen alike."""
    validation = scorer.score([arch for archs in plans.values() for arch in archs], "validation", report)
    known = {found.arch: found for found in map(Candidate.from_dict, results["candidates"])}
    candidates = _searched(run, results)
    with run.store() as store:
        measurements = store.measurements(device)

    def measured(archs: Sequence[Architecture]) -> list[Candidate]:
        return [
            known.get(arch)
            or Candidate(
                arch,
                {"accuracy": validation[arch.id].metrics["accuracy"], "latency": measurement.latency},
                {"latency_interval": list(measurement.interval)},
            )
            for arch, measurement in measured_architectures(measurements, archs).items()
        ]

    space, resolution = run.supernet.space, run.data.resolution
    fronts: dict[str, Sequence[Candidate]] = {
        "searched front": ParetoFront(candidates, AXES),
        "random search": ParetoFront(measured(plans["random"]), AXES),
        "uniform scaling": ParetoFront(measured(plans["uniform"]), AXES),
        "smallest": measured([space.smallest]),
        "largest": measured([space.largest]),
    }
    timm = {key: measurements[key, resolution] for key in models if (key, resolution) in measurements}
    tested = scorer.score([c.arch for points in fronts.values() for c in points], "test", report)
    series = {name: _points(run, points, tested) for name, points in fronts.items()}
    subnets = [point for points in series.values() for point in points]
    reference = {
        "latency": max(point["latency"] for point in subnets),
        "accuracy": min(point["accuracy_test"] for point in subnets),
    }
    volumes = {
        name: _hypervolume(series[name], reference) for name in ("searched front", "random search", "uniform scaling")
    }
    series["measured sub-networks"] = _points(run, candidates, {})
    for key, measurement in timm.items():
        series[f"timm: {key.removeprefix('timm:')}"] = [_model_point(key, measurement, models[key])]
    predicted = [(p["predicted_latency"], p["latency"]) for p in series["searched front"] if p["predicted_latency"]]
    names = {"latency": f"latency-{device.name}", "accuracy": "accuracy"}
    return {
        "name": device.name,
        "description": str(device).partition(": ")[2],
        "fingerprint": {"fingerprint": device.fingerprint, **device.to_dict()},
        "batch_size": device.batch_size,
        "series": [{"name": name, "points": points} for name, points in series.items()],
        "hypervolume": [
            {"series": name, "value": value, "relative": value / volumes["searched front"]}
            for name, value in volumes.items()
        ],
        "reference": reference,
        "error_cards": {kind: read_json(run.predictors / f"{name}.card.json")["card"] for kind, name in names.items()},
        "sessions": [_session_entry(measurements, number) for number in range(len(measurements.sessions))],
        "doubts": measurements.notes,
        "front_within_10_percent": sum(abs(a / b - 1) <= 0.1 for a, b in predicted) / max(1, len(predicted)),
    }


def _searched(run: RunFolder, results: Mapping[str, Any]) -> list[Candidate]:
    """Those of a device in ``front.json`` that the search found, without the baselines."""
    of_search = {arch for plan in search_plans(run) for arch in plan.archs}
    return [found for found in map(Candidate.from_dict, results["candidates"]) if found.arch in of_search]


def _session_entry(measurements: Measurements, number: int) -> dict[str, Any]:
    """What the report shows of a session: how the machine's speed moved, and how well networks are known."""
    session, tie = measurements.sessions[number], measurements.tie
    widths = session.fit.half_widths()
    columns = session.started[:, session.counted].T
    started = [None if np.isnan(column).all() else float(np.nanmin(column)) for column in columns]
    shift = tie.shifts[number]
    return {
        "id": session.id,
        "purpose": session.purpose,
        "began": session.began,
        "n_networks": len(session.measured),
        "n_turns": session.n_turns,
        "n_discarded": int((~session.counted).sum()),
        "is_level": session is measurements.at,
        "started": started,
        "speed": np.exp(session.fit.turns).tolist(),
        "latencies": np.exp(session.fit.levels).tolist(),
        "half_widths": widths.tolist(),
        "slower": None if np.isnan(shift) else float(np.exp(shift)),
        "change": None if np.isnan(shift) else float(tie.changes[number]),
        "notes": list(session.notes),
    }


def _points(run: RunFolder, candidates: Sequence[Candidate], accuracy_test: Mapping[str, Score]) -> list[Point]:
    """What the report shows of sub-networks; those without a test score have None there."""
    genes = run.supernet.space.encode([candidate.arch for candidate in candidates])
    macs, parameters = run.supernet.macs(genes), run.supernet.n_parameters(genes)
    points = []
    for i, candidate in enumerate(candidates):
        tested = accuracy_test.get(candidate.arch.id)
        points.append(
            {
                "id": candidate.arch.id,
                "label": str(candidate.arch),
                "latency": candidate.values["latency"],
                "latency_interval": candidate.extras["latency_interval"],
                "accuracy_validation": candidate.values["accuracy"],
                "accuracy_test": None if tested is None else tested.metrics["accuracy"],
                "macs": int(macs[i]),
                "parameters": int(parameters[i]),
                "predicted_latency": candidate.extras.get("predicted_latency"),
                "predicted_accuracy": candidate.extras.get("predicted_accuracy"),
            }
        )
    return points


def _model_point(key: str, measurement: Measurement, scores: Mapping[str, float]) -> Point:
    return {
        "id": key,
        "label": key.removeprefix("timm:"),
        "latency": measurement.latency,
        "latency_interval": list(measurement.interval),
        "accuracy_validation": scores["validation"],
        "accuracy_test": scores["test"],
        "macs": int(scores["macs"]),
        "parameters": int(scores["parameters"]),
        "predicted_latency": None,
        "predicted_accuracy": None,
    }


def _hypervolume(points: Sequence[Point], reference: Mapping[str, float]) -> float:
    losses = np.array([[-point["accuracy_test"], point["latency"]] for point in points])
    return hypervolume(losses, np.array([-reference["accuracy"], reference["latency"]]))


def _notes(run: RunFolder, random: Plan) -> list[str]:
    return [
        f"The search measured and scored {len(random.archs)} sub-networks; random search had the same number, drawn "
        "uniformly over the genes.",
        "Everything shown on a device was measured there side by side in one session, and every series was chosen from "
        "that session's latencies and validation accuracy by one rule: time decided nothing between them. The "
        "accuracies shown are of the test split, which nothing was chosen by.",
        "front.json, from which query and export answer, is chosen from all of these sub-networks, those of random "
        "search and uniform scaling as well: whoever asks gets the best that is known.",
        "timm models were trained alone, with the same data, optimiser and number of epochs as the supernet's whole "
        "training" + (f" (here: {run.recipe.baselines.epochs})." if run.recipe.baselines.epochs else "."),
    ]
