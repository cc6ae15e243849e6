"""Baselines on the same devices and the same images, and everything the report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from experiments.controls import controls
from experiments.goals import Goal, goals
from experiments.known import Known
from experiments.measuring.measure import (
    Networks,
    Setup,
    architectures,
    measure_side_by_side,
    models,
    profilers,
)
from experiments.measuring.quantized import file_score, quantized_model
from experiments.measuring.remote import StoredProfiler
from experiments.own_files import OwnFile, file_networks, own_files, score_file
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.quantities import KINDS, Quantity, quality
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.searching import changed_places, front_of_run, holding, possible_members, shown
from experiments.training.train import course_of_training, train_baseline
from experiments.volumes import hypervolumes, optimism
from hardware.counting import count_macs, count_parameters
from hardware.device import Device
from hardware.device_changes import differences
from hardware.loop.measurement import Measurements
from hardware.loop.session import Network
from hardware.profiling import Profiler
from hardware.store.store import Score
from search.front import Candidate, ParetoFront
from supernet.architecture import Architecture
from supernet.files import read_json, write_json
from supernet.scoring.calibration import evaluate

__all__ = ["compare_run"]

Point = dict[str, Any]


def compare_run(run: RunFolder, report: Reporter) -> dict[str, Any]:
    """The content of ``comparison.json``; measures, scores and trains what is missing, and writes ``front.json`` anew.

    Everything that is compared on a device is measured side by side, in one session, and every series is chosen from
    that session's latencies by one rule. Only here the test split is read: every series is chosen on the validation
    split and reported on the test split.

    Raises:
        ValueError: a goal of the run has no front yet, or a device is another one since.
    """
    before, wanted = read_json(run.front)["goals"], goals(run)
    if unsearched := [goal.name for goal in wanted if goal.name not in before]:
        raise ValueError(f"{run.path} has no front for {', '.join(unsearched)} yet: `supernet search {run.path}`")
    everywhere = [one for one in profilers(run) if any(one.device.name in goal.devices for goal in wanted)]
    for profiler in everywhere:
        for goal in wanted:
            if (found := before[goal.name]["devices"].get(profiler.device.name)) is not None:
                _check_unchanged(run, Device.from_dict(found["device"]), profiler.device)
    files, scorer = own_files(run), Scorer(run)
    plans = controls(run, wanted, scorer, report)
    trained = {f"timm:{name}": train_baseline(run, name, report) for name in run.recipe.baselines.timm_models}
    alone = models(run, trained) + file_networks(run, files)
    for profiler in everywhere:
        _measure_all(run, profiler, wanted, list(plans.values()), alone, scorer, report)
    results = front_of_run(run, scorer, report)
    write_json(run.front, results)
    for goal in wanted:
        fronts = [_front(goal, _searched(run, one[goal.name])) for one in (before, results["goals"])]
        report.say(f"  {goal.name}: {changed_places(*([c.arch.id for c in front] for front in fronts))}")
    known = Known(run, scorer, report)
    entries = [_goal_entry(run, goal, results["goals"][goal.name], plans, trained, files, known) for goal in wanted]
    space = run.untrained_supernet.space
    ends = scorer.score([space.smallest, space.largest], "test", report)
    return {
        "title": run.recipe.title,
        "provenance": run.provenance,
        "metric": None if run.recipe.task is None else run.recipe.task.told,
        "data": {
            "name": run.recipe.data.source,
            "n_classes": run.data.n_classes if run.recipe.task is None else None,
            **{split: run.data.n_images(split) for split in ("train", "validation", "test")},
        },
        "space": {"size": f"{space.size:.3g}", "text": str(space)},
        "training": course_of_training(run.checkpoints),
        "spread": {
            "smallest": ends[space.smallest.id].metrics[run.task.metric.name],
            "largest": ends[space.largest.id].metrics[run.task.metric.name],
        },
        "goals": entries,
        "devices": [_device_entry(known, profiler.device) for profiler in everywhere],
        "notes": _notes(run, len(plans["random search"])),
    }


def _measure_all(
    run: RunFolder,
    profiler: Profiler | StoredProfiler,
    wanted: Sequence[Goal],
    baselines: Sequence[Sequence[Architecture]],
    others: Networks,
    scorer: Scorer,
    report: Reporter,
) -> None:
    """All baselines and all searched sub-networks that may be on a front, side by side on one device.

    Where they are too many for one session, the baselines are measured in several first, and then those of every series
    that may be on its front in one.
    """
    name, setup = profiler.device.name, Setup.of(run)
    about = [goal for goal in wanted if name in goal.devices]
    searched = list(dict.fromkeys(arch for plan in search_plans(run) for arch in plan.archs))
    ends = [run.untrained_supernet.space.smallest, run.supernet.space.largest]

    def members(archs: Sequence[Architecture]) -> list[Architecture]:
        known = Known(run, scorer, report)
        return [arch for goal in about for arch in possible_members(goal, known, archs)]

    everything = dict.fromkeys([*members(searched), *ends, *(arch for archs in baselines for arch in archs)])
    with run.store() as store:
        networks = architectures(run, list(everything))
        if measure_side_by_side(setup, store, profiler, networks + others, report) is None:
            report.say(f"  {name}: too many for one session; now those that may be on a front")
            found = [members(archs) for archs in (searched, *baselines)]
            networks = architectures(run, list(dict.fromkeys([*ends, *(arch for archs in found for arch in archs)])))
            if measure_side_by_side(setup, store, profiler, networks + others, report) is None:
                report.say(f"  {name}: still too many: they are compared over several tied sessions")


def _check_unchanged(run: RunFolder, before: Device, now: Device) -> None:
    if changed := differences(before, now):
        raise ValueError(
            f"the front of {now.name} was measured before this changed: {'; '.join(changed)}; baselines measured now "
            f"cannot be compared with it: search again with `supernet search {run.path}`"
        )


def _score_model(run: RunFolder, key: str, model: nn.Module, int8_batch_size: int | None) -> dict[str, float]:
    """What an ordinary network scores on both splits, or its int8 file with a batch size of one; and what it costs.

    Made once.
    """
    name, task = key.removeprefix("timm:"), run.task
    said = [run.recipe.digest, name, *(["int8"] if int8_batch_size is not None else [])]
    digest = json.dumps([*said, *([task.digest] if task.digest else [])])
    found = {}
    with run.store() as store:
        for split in ("validation", "test"):
            if not store.has_score(key, digest, split):
                if int8_batch_size is not None:
                    file = quantized_model(run, model.eval(), run.data.resolution, int8_batch_size)
                    metrics = {task.metric.name: file_score(run, file, run.data.resolution, split)}
                else:
                    batches = run.data.evaluation_batches(split, run.recipe.score.batch_size)
                    result = evaluate(model, batches, task=task)
                    value = task.metric.checked(result.value, f"{name} on {split}")
                    metrics = {task.metric.name: value, "loss": result.loss, "n_images": result.n_images}
                store.add_score(Score(key, digest, split, metrics))
            found[split] = store.score(key, digest, split).metrics[task.metric.name]
    shape = (1, run.data.in_channels, run.data.resolution, run.data.resolution)
    return {**found, "macs": count_macs(model, shape), "parameters": count_parameters(model)}


def _goal_entry(
    run: RunFolder,
    goal: Goal,
    results: Mapping[str, Any],
    plans: Mapping[str, Sequence[Architecture]],
    trained: Mapping[str, nn.Module],
    files: Sequence[OwnFile],
    known: Known,
) -> dict[str, Any]:
    """Everything the report shows of one goal. Random search and the search show their fronts, chosen alike."""
    candidates = {found.arch: found for found in map(Candidate.from_dict, results["candidates"])}
    searched, space = _searched(run, results), run.untrained_supernet.space

    def of(archs: Sequence[Architecture]) -> list[Candidate]:
        return [candidates[arch] for arch in dict.fromkeys(archs) if arch in candidates]

    chosen: dict[str, Sequence[Candidate]] = {"searched front": _front(goal, searched)}
    chosen |= {name: _front(goal, of(archs)) for name, archs in plans.items()}
    chosen |= {"smallest": of([space.smallest]), "largest": of([space.largest])}
    good, costs = goal.roles
    shown_by = good or quality(run.recipe.kinds)
    scored = list(dict.fromkeys(candidate.arch for points in chosen.values() for candidate in points))
    values = known.scores(shown_by, scored, "test").tolist()
    tested = {arch.id: value for arch, value in zip(scored, values, strict=True)}
    series = {name: _points(points, shown_by, tested) for name, points in chosen.items()}
    subnets = [point for points in series.values() for point in points]
    reference = {one.name: max(point["values"][one.name] for point in subnets) for one in costs}
    if good is not None:
        worst = min if good.kind.maximize else max
        reference[good.name] = worst(point["test"] for point in subnets)
    volumes = hypervolumes(run, goal, {name: series[name] for name in ("searched front", *plans)}, reference)
    lucky = optimism(run, shown_by, {name: series[name] for name in ("searched front", *plans)})
    series["measured sub-networks"] = _points(searched, shown_by, {})
    for key, model in trained.items():
        found = _score_model(run, key, model, known.int8_batch_size(shown_by))
        name = key.removeprefix("timm:")
        series[f"timm: {name}"] = _model_points(goal, (key, run.data.resolution), name, shown_by, found, known)
    for one in files:
        series[f"file: {one.name}"] = _model_points(goal, one.network, one.name, shown_by, score_file(run, one), known)
    within = [
        abs(point["predicted"][one.name] / point["values"][one.name] - 1) <= 0.1
        for one in costs
        for point in series["searched front"]
        if one.kind.is_time and point["predicted"].get(one.name)
    ]
    learned = [one for one in goal.quantities if one.kind.learned is not None]
    cards = {one.name: read_json(run.predictors / f"{one.name}.card.json")["card"] for one in learned}
    return {
        "name": goal.name,
        "objectives": [_told(one) for one in goal.objectives],
        "limits": [str(one) for one in goal.limits],
        "quality": None if good is None else good.name,
        "costs": [_told(one) for one in costs],
        "shown": [_told(one) for one in shown(goal, run.recipe.kinds) if one not in goal.objectives],
        "devices": list(goal.devices),
        "series": [{"name": name, "points": points} for name, points in series.items()],
        "hypervolume": volumes,
        "optimism": lucky,
        "reference": reference,
        "error_cards": cards,
        "front_within_10_percent": sum(within) / len(within) if within else None,
    }


def _told(quantity: Quantity) -> dict[str, Any]:
    kind = quantity.kind
    scored = kind.source == "score"
    return {"name": quantity.name, "kind": kind.name, "unit": kind.unit, "words": kind.words, "scored": scored}


def _front(goal: Goal, candidates: Sequence[Candidate]) -> ParetoFront:
    return ParetoFront(holding(goal, candidates), [one.axis for one in goal.objectives])


def _searched(run: RunFolder, results: Mapping[str, Any]) -> list[Candidate]:
    """Those of a goal in ``front.json`` that the search found, without the baselines."""
    of_search = {arch for plan in search_plans(run) for arch in plan.archs}
    return [found for found in map(Candidate.from_dict, results["candidates"]) if found.arch in of_search]


def _device_entry(known: Known, device: Device) -> dict[str, Any]:
    """How a device was measured on."""
    measurements = known.measurements(device.name)
    return {
        "name": device.name,
        "description": str(device).partition(": ")[2],
        "fingerprint": {"fingerprint": device.fingerprint, **device.to_dict()},
        "batch_size": device.batch_size,
        "sessions": [_session_entry(measurements, number) for number in range(len(measurements.sessions))],
        "doubts": measurements.notes,
    }


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


def _points(candidates: Sequence[Candidate], good: Quantity, tested: Mapping[str, float]) -> list[Point]:
    """What the report shows of sub-networks, by the quality that they are judged by; None where it was not tested."""
    return [
        {
            "id": candidate.arch.id,
            "label": str(candidate.arch),
            "values": dict(candidate.values),
            "intervals": candidate.extras["intervals"],
            "predicted": candidate.extras["predicted"],
            "validation": candidate.values[good.name],
            "test": tested.get(candidate.arch.id),
        }
        for candidate in candidates
    ]


def _model_points(
    goal: Goal, network: Network, label: str, good: Quantity, scores: Mapping[str, float], known: Known
) -> list[Point]:
    """A model that was trained alone, if everything is known of it that the goal trades."""
    values = {good.name: scores["validation"], "macs": scores["macs"], "parameters": scores["parameters"]}
    intervals = {}
    for name in goal.devices:
        found = known.measurements(name).get(network)
        if found is not None:
            values[f"latency@{name}"], intervals[f"latency@{name}"] = found.latency, list(found.interval)
            extras = {kind.name: found.extras[kind.extra] for kind in KINDS.values() if kind.extra in found.extras}
            values |= {f"{kind}@{name}": value for kind, value in extras.items()} | extras
    if not all(one.name in values for one in goal.roles[1]):
        return []
    point = {"id": network[0], "label": label, "values": values, "intervals": intervals, "predicted": {}}
    return [point | {"validation": scores["validation"], "test": scores["test"]}]


def _notes(run: RunFolder, n: int) -> list[str]:
    words = quality(run.recipe.kinds).kind.words
    return [
        f"The search measured and scored {n} sub-networks; random search had the same number, drawn "
        "uniformly over the genes.",
        *_notes_of_controls(run),
        "Everything shown on a device was measured there side by side in one session, and every series was chosen from "
        f"that session's latencies and validation {words} by one rule: time decided nothing between them. The {words} "
        "shown is that on the test split, which nothing was chosen by.",
        "Intervals of hypervolumes are of 90 %: what the number of test images and the intervals of the latencies "
        "leave open, for the networks that were found; another search or another training would find others.",
        "front.json, from which query and export answer, is chosen from all of these sub-networks, those of random "
        "search and uniform scaling as well: whoever asks gets the best that is known.",
        *_notes_of_models(run),
    ]


def _notes_of_controls(run: RunFolder) -> list[str]:
    notes = {
        "random search, filtered": "Random search, filtered: the search's first design, and those of random "
        "sub-networks that predictors fitted to it say add most, as many as the search had in all.",
        "local search": "Local search evaluated as many sub-networks as the search: random ones, then such as differ "
        "in one choice from its front.",
    }
    return [notes[name] for name in run.recipe.baselines.controls]


def _notes_of_models(run: RunFolder) -> list[str]:
    files = "Files were measured and scored as they are, on the same images as this run prepares them."
    if not run.recipe.baselines.timm_models:
        return [files] if run.recipe.baselines.onnx else []
    epochs = run.recipe.baselines.epochs
    long = f"for {epochs} epochs" if epochs else "for as many epochs as the supernet's whole training"
    told = f"timm models were trained alone, {long}, with the same data and optimiser."
    return [told, files] if run.recipe.baselines.onnx else [told]
