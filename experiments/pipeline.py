"""The whole way, one function per verb: each reads its predecessor's artefact and carries on where it was killed.

recipe.toml → train → profile and score → fit → search → query, export, compare
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from experiments import fitting
from experiments.borrowing import Lenders, borrow
from experiments.bundle import find_architecture, write_bundle
from experiments.cascade import cascade_run
from experiments.comparing import compare_run
from experiments.earlier import learn_from, lent_scores
from experiments.goals import goals
from experiments.known import Known
from experiments.levels import chosen_levels, write_levels
from experiments.measuring import block_profiles
from experiments.measuring.campaign import measure_again, measured_values, run_campaign
from experiments.measuring.measure import measure_architectures, profilers
from experiments.measuring.quantized import compare_precisions
from experiments.measuring.remote import runnable
from experiments.plans import initial_plan, refuse_pruning, search_plans
from experiments.progress import Reporter
from experiments.pruned import deliver
from experiments.repeating import Repeat, compare_repeats
from experiments.rounds import Focus, Rounds
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.searching import front_of_run, settle
from experiments.settings.training import PruningSettings
from experiments.training.background import baselines_in_background
from experiments.training.beginning import check_beginning, check_whole_way
from experiments.training.finetuning import LR_SHARE, TunedScorer, Tuning, tune
from experiments.training.phases import highest_rate
from experiments.training.train import load_first_weights, train_supernet
from experiments.verifying import Budget
from hardware.device_changes import explain_earlier
from predictors.stopping import Goal
from supernet.architecture import Architecture
from supernet.files import write_json
from supernet.training import World, join

__all__ = [
    "cascade", "compare", "export", "export_levels", "finetune", "fit", "profile", "profile_again", "profile_blocks",
    "profile_campaign", "run", "score", "search", "train",
]  # fmt: skip


def train(run: RunFolder, report: Reporter, world: World) -> None:
    """Train the supernet, on all processes of `world`: ``checkpoints/``, then ``supernet.safetensors``."""
    if world.share(lambda: b"done" if run.weights.exists() else None):
        report.say("train: done already")
        return
    report.say("train")
    for line in run.data.description():
        report.say(f"  {line}")
    train_supernet(run, report, world)


def profile(run: RunFolder, report: Reporter, device: str | None = None) -> None:
    """Measure the latency of every planned sub-network on every device, or on one: ``store.sqlite``."""
    report.say("profile")
    _say_what_changed(run, report, device)
    if measure_architectures(run, _planned(run, device), report, device) == 0:
        report.say("  everything planned is measured")
    _say_what_is_doubtful(run, report, device)
    compare_precisions(run, report)


def profile_again(run: RunFolder, report: Reporter, device: str | None = None) -> None:
    """Measure what there is a doubt about, or everything, in a new session: ``store.sqlite``."""
    report.say("profile again")
    _say_what_changed(run, report, device)
    measure_again(run, _planned(run, device), report, device)
    _say_what_is_doubtful(run, report, device)


def profile_campaign(
    run: RunFolder, device: str | None, n: int | None, minutes: float | None, until: Goal | None, report: Reporter
) -> None:
    """Measure more sub-networks than the search needs, so many or for so long, or as many as a predictor needs to be
    as good as it should be: ``store.sqlite``.
    """
    report.say("profile")
    _say_what_changed(run, report, device)
    run_campaign(run, report, device=device, n=n, minutes=minutes, until=until)
    _say_what_is_doubtful(run, report, device)


def profile_blocks(
    run: RunFolder, key: str | None, device: str | None, minutes: float | None, report: Reporter
) -> None:
    """Measure every block alone: ``store.sqlite``, ``blocks.json`` and a picture of where the time goes."""
    report.say("profile blocks")
    _say_what_changed(run, report, device)
    arch = None if key is None else find_architecture(run, key)
    block_profiles.profile_blocks(run, report, device=device, minutes=minutes, arch=arch)


def score(run: RunFolder, report: Reporter, device: str | None = None, world: World | None = None) -> None:
    """Recalibrate every planned sub-network and evaluate it on the validation split: ``store.sqlite``.

    The processes of `world` share the work; the first one knows the plans and keeps the scores.
    """
    report.say("score")
    scorer = Scorer(run, world)
    planned = scorer.world.share(lambda: json.dumps([arch.to_dict() for arch in _planned(run, device)]).encode())
    scorer.score([Architecture.from_dict(arch) for arch in json.loads(planned or b"[]")], "validation", report)


def fit(run: RunFolder, report: Reporter, device: str | None = None) -> None:
    """Fit a predictor of every quantity that the run's goals are about, with their error cards: ``predictors/``.

    With a device, which may be one that was added, only for its goal, from what it has measured so far.
    """
    report.say("fit")
    planned = _planned(run, device)
    # A network scores the same on every device: one that learns from others has all scores of the run to learn from.
    others = _planned(run) if run.plan("transfer", device=device) is not None else ()
    scored = list(dict.fromkeys([*planned, *others]))
    lent = list(dict.fromkeys([*scored, *lent_scores(run)]))
    known = Known(run, Scorer(run), report)
    for quantity in dict.fromkeys(one for goal in goals(run, device) for one in goal.quantities if one.kind.learned):
        if quantity.kind.source == "session":
            learned, values, level = measured_values(run, known, quantity, planned, report)
        else:
            learned = scored if quantity.device is not None else lent  # earlier runs have not scored files in int8
            values, level = known.column(quantity, learned).values.tolist(), ""
        report.say(fitting.fit_and_save(run, quantity, learned, values, device=device, level=level))


def search(
    run: RunFolder,
    report: Reporter,
    device: str | None = None,
    focus: Focus | None = None,
    lenders: Lenders | None = None,
    archives: Sequence[RunFolder] = (),
) -> None:
    """Rounds of search on the predictors; what they propose is measured and scored; then all that may be on a front is
    measured side by side: ``front.json``.

    With a device that was added, only for that one. What a round proposes has to be measured there before the next:
    until it is, this ends with a ValueError that says how, and carries on from there when it is called again.

    Args:
        focus: all rounds are for the best within some limits, instead of for the fronts.
        lenders: devices that an added one learns from, so that it has ten sub-networks to measure and one round.
        archives: earlier runs of the same space, whose fronts the search begins with, and from whose scores it learns.
    """
    if archives:
        report.say("learning from earlier runs")
        learn_from(run, archives, report)
        fit(run, report, device if device in run.added_devices() else None)
    if lenders is not None:
        report.say("learning from other devices")
        borrow(run, device, lenders, report)
    of_recipe = device is not None and device in {settings.name for settings in run.recipe.devices}
    if of_recipe and focus is None:
        raise ValueError(f"{device!r} is searched together with the other devices of the recipe: leave out --device")
    device = None if of_recipe else device  # its plans are those of all
    if device is not None:
        fit(run, report, device)
    rounds = Rounds(run, report, device, focus, archives)
    while rounds.next() is not None:
        for verb in (profile, score, fit):
            with rounds.cost.of(verb.__name__):
                verb(run, report, device)
    report.say("search, final measuring")
    scorer = Scorer(run)
    settle(run, scorer, report, device)
    fit(run, report, device)
    write_json(run.front, front_of_run(run, scorer, report, device))


def export(
    run: RunFolder,
    key: str,
    device: str | None,
    out: Path,
    report: Reporter,
    any_batch: bool = False,
    budget: Budget | None = None,
) -> dict[str, Any]:
    """Write the bundle of one sub-network: ONNX, weights, architecture and a card."""
    return write_bundle(run, find_architecture(run, key), device, out, report, any_batch, budget=budget)


def export_levels(
    run: RunFolder, keys: Sequence[str], n: int | None, device: str | None, out: Path, report: Reporter
) -> dict[str, Any]:
    """Write several sub-networks as levels that share their weights: those named, or the `n` that go best together."""
    archs = [find_architecture(run, key) for key in keys] if n is None else chosen_levels(run, device, n)
    return write_levels(run, archs, device, out, report)


def cascade(
    run: RunFolder, device: str | None, budget: float | None, out: Path | None, report: Reporter
) -> dict[str, Any]:
    """Two networks of a front one after the other, beside the front: ``cascade.json``; the best within a budget as a
    folder of levels."""
    return cascade_run(run, device, report, budget, out)


def finetune(
    run: RunFolder,
    key: str,
    device: str | None,
    out: Path,
    report: Reporter,
    *,
    epochs: int,
    peak_lr: float | None = None,
    any_batch: bool = False,
) -> dict[str, Any]:
    """Train one sub-network alone for a few epochs, taught by the largest, and write its bundle: ``finetuned/``."""
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} exists and is not empty; give a new folder with --out")
    arch = find_architecture(run, key)
    report.say("finetune")
    tuning = Tuning(epochs, peak_lr or float(f"{LR_SHARE * highest_rate(run.recipe, run.untrained_supernet):.3g}"))
    weights = tune(run, arch, tuning, report)
    name = run.task.metric.name
    before = {
        split: Scorer(run).score([arch], split, report)[arch.id].metrics[name] for split in ("validation", "test")
    }
    tuned = {**asdict(tuning), "before": before}
    return write_bundle(run, arch, device, out, report, any_batch, scorer=TunedScorer(run, arch, weights), tuned=tuned)


def compare(run: RunFolder, report: Reporter, seeds: int = 1) -> None:
    """Measure the baselines, read the test split, and write ``comparison.json``, ``tables/``, ``front.png`` and
    ``report.html``.

    Args:
        seeds: searches that are compared: more than one repeats the search with other seeds and the same weights.
    """
    from experiments.report import write_front_picture, write_report, write_tables  # loads matplotlib

    run.require(run.front, "search")
    report.say("compare")
    comparison = compare_run(run, report)
    write_json(run.comparison, comparison)
    if seeds > 1:
        comparison["repeats"] = compare_repeats(run, seeds, _searched_again, report)
        write_json(run.comparison, comparison)
    write_tables(comparison, run.path / "tables", quote(str(run.path)))
    write_front_picture(comparison, run.path / "front.png")
    write_report(comparison, run.report)


def _searched_again(repeat: Repeat, report: Reporter) -> dict[str, Any]:
    """The search of another seed, and what it is compared with."""
    for verb in (profile, score, fit, search):
        verb(repeat, report)
    return compare_run(repeat, report)


def run(run: RunFolder, report: Reporter) -> None:
    """Everything, from the recipe to the report."""
    if not run.weights.exists():
        check_beginning(run)
        check_whole_way(run)
        load_first_weights(run, run.new_supernet())
    prunes = isinstance(run.recipe.training, PruningSettings)  # it is compared with the whole network alone
    with join() as world, nullcontext() if prunes else baselines_in_background(run, report):
        train(run, report, world)
    if prunes:
        deliver(run, report)
        return
    initial_plan(run)
    for verb in (profile, score, fit, search, compare):
        verb(run, report)


def _say_what_changed(run: RunFolder, report: Reporter, device: str | None) -> None:
    """What was measured before the machine or the runtime changed is never mixed with the rest, and never silently."""
    with run.store() as store:
        for profiler in profilers(run, device):
            for line in explain_earlier(store, profiler.device):
                report.say(f"  {line}")


def _say_what_is_doubtful(run: RunFolder, report: Reporter, device: str | None) -> None:
    """Devices that are slower than they were, and what no tie between sessions can mend."""
    with run.store() as store:
        for profiler in profilers(run, device):
            for line in store.measurements(profiler.device).notes:
                report.say(f"  {line}")


def _planned(run: RunFolder, device: str | None = None) -> Sequence[Architecture]:
    """What is to be measured and scored; for an added device with its own rounds, without what it cannot run."""
    refuse_pruning(run)
    initial_plan(run)
    archs = [arch for plan in search_plans(run, device) for arch in plan.archs]
    return runnable(run, device, archs) if device in run.added_devices() else archs
