"""Baselines on the same devices and the same images, and everything the report shows."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from experiments.files import read_json
from experiments.measuring.measure import measure_architectures, measure_models, measured_architectures, profilers
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.run_folder import Plan, RunFolder
from experiments.scoring.scorer import Scorer
from experiments.searching import AXES
from experiments.training.train import course_of_training, train_baseline
from hardware.counting import count_macs, count_parameters
from hardware.device import Device
from hardware.device_changes import differences
from hardware.measurement import Measurement
from hardware.store import Score
from search.front import Candidate, ParetoFront, hypervolume
from supernet.architecture import Architecture
from supernet.calibration import evaluate
from supernet.space import SearchSpace

__all__ = ["compare_run", "uniform_architectures"]

Point = dict[str, Any]


def compare_run(run: RunFolder, report: Reporter) -> dict[str, Any]:
    """The content of ``comparison.json``; measures, scores and trains what is missing.

    Only here the test split is read. Every series is chosen on the validation split and reported on the test split.
    """
    results = read_json(run.front)["devices"]
    for profiler in profilers(run):
        _check_unchanged(run, Device.from_dict(results[profiler.device.name]["device"]), profiler.device)
    random, uniform = _random_plan(run), _uniform_plan(run)
    archs = [*random.archs, *uniform.archs]
    measure_architectures(run, archs, report)
    scorer = Scorer(run)
    scorer.score(archs, "validation", report)
    models = {f"timm:{name}": train_baseline(run, name, report) for name in run.recipe.baselines.timm_models}
    measure_models(run, models, report)
    scores = {key: _score_model(run, key, model) for key, model in models.items()}
    if unsearched := [device.name for device in run.recipe.devices if device.name not in results]:
        raise ValueError(f"{run.path} has no front for {', '.join(unsearched)} yet: `supernet search {run.path}`")
    plans = {plan.name: plan.archs for plan in (random, uniform)}
    devices = [
        _device_entry(run, profiler.device, results[profiler.device.name], plans, scores, scorer, report)
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
    candidates = [Candidate.from_dict(candidate) for candidate in results["candidates"]]
    known = {candidate.arch: candidate for candidate in candidates}
    with run.store() as store:

        def measured(archs: Sequence[Architecture]) -> list[Candidate]:
            found = measured_architectures(store, archs, device)
            return [
                known.get(arch)
                or Candidate(
                    arch,
                    {"accuracy": validation[arch.id].metrics["accuracy"], "latency": measurement.median},
                    {"latency_interval": list(measurement.interval)},
                )
                for arch, measurement in found.items()
            ]

        space = run.supernet.space
        fronts: dict[str, Sequence[Candidate]] = {
            "searched front": ParetoFront.from_dict(results["front"]),
            "random search": ParetoFront(measured(plans["random"]), AXES),
            "uniform scaling": measured(plans["uniform"]),
            "smallest": measured([space.smallest]),
            "largest": measured([space.largest]),
        }
        resolution = run.data.resolution
        timm = {
            key: store.measurement(key, resolution, device)
            for key in models
            if (key, resolution) in store.measured(device)
        }
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
        "front_within_10_percent": sum(abs(a / b - 1) <= 0.1 for a, b in predicted) / max(1, len(predicted)),
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
        "latency": measurement.median,
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
        "Every series was chosen by validation accuracy and measured latency; the accuracies shown are of the test "
        "split, which nothing was chosen by.",
        "timm models were trained alone, with the same data, optimiser and number of epochs as the supernet's whole "
        "training" + (f" (here: {run.recipe.baselines.epochs})." if run.recipe.baselines.epochs else "."),
    ]
