"""The whole way, one function per verb: each reads its predecessor's artefact and carries on where it was killed.

recipe.toml → train → profile and score → fit → search → query, export, compare
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import fitting
from experiments.background import baselines_in_background
from experiments.bundle import find_architecture, write_bundle
from experiments.comparing import compare_run
from experiments.files import write_json
from experiments.measuring import measure_architectures, profilers
from experiments.progress import Reporter
from experiments.report import write_front_picture, write_report
from experiments.run_folder import RunFolder
from experiments.scoring import Scorer
from experiments.searching import front_of_run, initial_plan, propose, search_plans
from experiments.training import check_baselines, train_supernet
from supernet.architecture import Architecture
from supernet.training import World, join

__all__ = ["compare", "export", "fit", "is_finished", "profile", "run", "score", "search", "train"]


def train(run: RunFolder, report: Reporter, world: World) -> None:
    """Train the supernet, on all processes of `world`: ``checkpoints/``, then ``supernet.safetensors``."""
    if world.share(lambda: b"done" if run.weights.exists() else None):
        report.say("train: done already")
        return
    report.say("train")
    train_supernet(run, report, world)


def profile(run: RunFolder, report: Reporter) -> None:
    """Measure the latency of every planned sub-network on every device: ``store.sqlite``."""
    report.say("profile")
    if measure_architectures(run, _planned(run), report) == 0:
        report.say("  everything planned is measured")


def score(run: RunFolder, report: Reporter, world: World | None = None) -> None:
    """Recalibrate every planned sub-network and evaluate it on the validation split: ``store.sqlite``.

    The processes of `world` share the work; the first one knows the plans and keeps the scores.
    """
    report.say("score")
    scorer = Scorer(run, world)
    planned = scorer.world.share(lambda: json.dumps([arch.to_dict() for arch in _planned(run)]).encode())
    scorer.score([Architecture.from_dict(arch) for arch in json.loads(planned or b"[]")], "validation", report)


def fit(run: RunFolder, report: Reporter) -> None:
    """Fit a predictor of accuracy and one of latency per device, with their error cards: ``predictors/``."""
    report.say("fit")
    archs, scorer = _planned(run), Scorer(run)
    scores = scorer.score(archs, "validation", report)
    accuracies = [scores[arch.id].metrics["accuracy"] for arch in archs]
    report.say(fitting.fit_and_save(run, "accuracy", archs, accuracies, "value"))
    with run.store() as store:
        for profiler in profilers(run):
            device = profiler.device
            seconds = [store.measurement(arch.id, arch.resolution, device).median for arch in archs]
            report.say(fitting.fit_and_save(run, f"latency-{device.name}", archs, seconds, "relative"))


def search(run: RunFolder, report: Reporter) -> None:
    """Rounds of NSGA-II on the predictors; what they propose is measured and scored: ``front.json``."""
    for number in range(1, run.recipe.search.rounds + 1):
        report.say(f"search, round {number}")
        if run.plan(f"{number}-round") is None:
            propose(run, number, report)
        profile(run, report)
        score(run, report)
        fit(run, report)
    write_json(run.front, front_of_run(run, Scorer(run), report))


def export(run: RunFolder, key: str, device: str | None, out: Path, report: Reporter) -> dict[str, Any]:
    """Write the bundle of one sub-network: ONNX, weights, architecture and a card."""
    return write_bundle(run, find_architecture(run, key), device, out, report)


def compare(run: RunFolder, report: Reporter) -> None:
    """Measure the baselines, read the test split, and write ``comparison.json``, ``front.png`` and ``report.html``."""
    run.require(run.front, "search")
    report.say("compare")
    comparison = compare_run(run, report)
    write_json(run.comparison, comparison)
    write_front_picture(comparison, run.path / "front.png")
    write_report(comparison, run.report)


def run(run: RunFolder, report: Reporter) -> None:
    """Everything, from the recipe to the report."""
    check_baselines(run)
    with join() as world, baselines_in_background(run, report):
        train(run, report, world)
    initial_plan(run)
    for verb in (profile, score, fit, search, compare):
        verb(run, report)


def is_finished(run: RunFolder) -> bool:
    """Whether there is nothing left to do: the report is the last thing that is written."""
    return run.report.exists()


def _planned(run: RunFolder) -> Sequence[Architecture]:
    initial_plan(run)
    return [arch for plan in search_plans(run) for arch in plan.archs]
