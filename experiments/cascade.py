"""Two networks one after the other: the small one answers where it is sure enough, the large one where it is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.data.image_data import EvaluationSplit
from experiments.levels import write_levels
from experiments.progress import Reporter
from experiments.querying import goal_results, objectives
from experiments.run_folder import RunFolder
from experiments.scoring.onnx_module import fast_evaluator
from experiments.scoring.scorer import Scorer
from supernet.architecture import Architecture
from supernet.files import write_json
from supernet.scoring.images import resize

__all__ = ["Answers", "Cascade", "best_cascades", "cascade_run", "judged"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What networks say of the images of a split."""

    confidence: Values  # (n_networks, n_images) the largest softmax
    right: NDArray[np.bool_]  # (n_networks, n_images)


@dataclass(frozen=True)
class Cascade:
    """The network `small` answers where its confidence is at least `threshold`, else `large` does; by their places."""

    small: int
    large: int
    threshold: float


@dataclass(frozen=True)
class Judgement:
    """What a cascade is worth on a split."""

    accuracy: float
    passed_on: float  # share of the images that both networks see
    seconds: float  # expected for an image


def judged(cascade: Cascade, answers: Answers, seconds: Values) -> Judgement:
    """On a split, with latencies (n_networks,) of one image."""
    sure = answers.confidence[cascade.small] >= cascade.threshold
    right = np.where(sure, answers.right[cascade.small], answers.right[cascade.large])
    passed_on = float(1 - sure.mean())
    return Judgement(float(right.mean()), passed_on, float(seconds[cascade.small] + passed_on * seconds[cascade.large]))


def best_cascades(answers: Answers, seconds: Values) -> list[Cascade]:
    """All cascades that no other one beats in accuracy and expected latency, the fastest first (Mowst, Zeng et al.
    2024, with a threshold in the place of a learned gate).

    Over every pair and every threshold that makes a difference: images in the order of the small network's confidence,
    running sums of what either has right. So the front is exact, on these images.

    Args:
        answers: on the images that thresholds are chosen on.
        seconds: (n_networks,) the measured latency of one image.
    """
    n = answers.right.shape[1]
    rows: list[Values] = []
    for small in range(len(seconds)):
        order = np.argsort(-answers.confidence[small], kind="stable")
        sure, right = answers.confidence[small][order], answers.right[:, order]
        sums = np.cumsum(right, axis=1)[:, :-1]  # after the first, second, ... image
        cuts = np.flatnonzero(sure[:-1] > sure[1:])
        thresholds = (sure[cuts] + sure[cuts + 1]) / 2
        for large in np.flatnonzero(seconds > seconds[small]):
            accuracy = (sums[small, cuts] + right[large].sum() - sums[large, cuts]) / n
            spent = seconds[small] + (n - 1 - cuts) / n * seconds[large]
            ends = np.full((2, len(cuts)), [[small], [large]])
            rows.append(_front(np.stack([spent, accuracy, *ends, thresholds], axis=1)))
    if not rows:
        return []
    front = _front(np.concatenate(rows))
    return [Cascade(int(small), int(large), float(threshold)) for _, _, small, large, threshold in front]


def cascade_run(
    run: RunFolder, device: str | None, report: Reporter, budget: float | None = None, out: Path | None = None
) -> dict[str, Any]:
    """The front of cascades of the networks on a device's front, beside that front: ``cascade.json``.

    Pairs and thresholds are chosen on the validation split, and shown on test with the share of the images that is
    passed on there. For every network of the front there is the cascade that is best within its latency.

    Args:
        budget: seconds; the best cascade within it alone.
        out: where to write that one as a folder of levels, whose dispatcher runs it.

    Raises:
        ValueError: no search was done, the run is no classification, the device has another batch size than 1 or the
            goal no latency, or no cascade is within the budget.
    """
    if run.recipe.task is not None:
        raise ValueError(f"{run.path} has a task of its own; a cascade needs classes, whose shares say how sure it is")
    name, results = goal_results(run.path, None, device)
    device = device or next(iter(results["devices"]), None)
    latency = f"latency@{device}"
    if latency not in [one.name for one in objectives(results)[1:]]:
        raise ValueError(f"the goal {name!r} does not trade a latency, which a cascade saves; name a --device")
    if (batch := results["devices"][device]["device"]["batch_size"]) != 1:
        raise ValueError(
            f"{device} runs {batch} images a call, a cascade one after the other; take a device of batch size 1"
        )
    members = sorted(results["front"]["candidates"], key=lambda one: one["values"][latency])
    archs = [Architecture.from_dict(one["architecture"] if "architecture" in one else one["arch"]) for one in members]
    seconds = np.array([one["values"][latency] for one in members])
    report.say(f"cascades of the {len(archs)} networks on the front of {device}")
    scorer = Scorer(run)
    known: dict[EvaluationSplit, Answers] = {
        split: answers_of(run, scorer, archs, split) for split in ("validation", "test")
    }
    front = best_cascades(known["validation"], seconds)
    validation = [judged(one, known["validation"], seconds) for one in front]

    def row(cascade: Cascade) -> dict[str, Any]:
        splits = {split: asdict(judged(cascade, known[split], seconds)) for split in known}
        return {
            "small": archs[cascade.small].id,
            "large": archs[cascade.large].id,
            "threshold": cascade.threshold,
            **splits,
        }

    def within(limit: float) -> Cascade | None:
        fitting = [place for place, found in enumerate(validation) if found.seconds <= limit]
        return front[fitting[-1]] if fitting else None

    beside = []
    for place, arch in enumerate(archs):
        alone = {split: float(known[split].right[place].mean()) for split in known}
        best = within(seconds[place])
        single = {"id": arch.id, "seconds": float(seconds[place]), **alone}
        beside.append({"single": single, "cascade": None if best is None else row(best)})
    found: dict[str, Any] = {
        "provenance": run.provenance,
        "device": device,
        "images": {split: len(known[split].right[0]) for split in known},
        "beside": beside,
        "front": [row(one) for one in front],
    }
    write_json(run.path / "cascade.json", found)
    if budget is not None:
        best = within(budget)
        if best is None:
            raise ValueError(
                f"no cascade takes {budget * 1e3:g} ms or less on {device}; the fastest takes "
                f"{min((one.seconds for one in validation), default=float('nan')) * 1e3:.3g} ms"
            )
        found["best"] = row(best)
        if out is not None:
            write_levels(run, [archs[best.small], archs[best.large]], device, out, report, cascade=found["best"])
    return found


def answers_of(run: RunFolder, scorer: Scorer, archs: Sequence[Architecture], split: EvaluationSplit) -> Answers:
    """What calibrated sub-networks say of a split, all of which see the same reading of it."""
    evaluators = [fast_evaluator(scorer.subnet(a).eval(), run.data.in_channels, a.resolution) for a in archs]
    confidence: list[torch.Tensor] = []
    right: list[torch.Tensor] = []
    with torch.inference_mode():
        for images, labels in run.data.evaluation_batches(split, run.recipe.score.batch_size):
            sizes = {arch.resolution: resize(images, arch.resolution) for arch in archs}
            shares = torch.stack(
                [made(sizes[arch.resolution]).softmax(1) for made, arch in zip(evaluators, archs, strict=True)]
            )
            confidence.append(shares.amax(2))
            right.append(shares.argmax(2) == labels)
    return Answers(torch.cat(confidence, 1).double().numpy(), torch.cat(right, 1).numpy())


def _front(rows: Values) -> Values:
    """Of rows (cost, value, ...) those that no other beats, the cheapest first."""
    rows = rows[np.lexsort((-rows[:, 1], rows[:, 0]))]
    before = np.maximum.accumulate(np.concatenate([[-np.inf], rows[:-1, 1]]))
    return rows[rows[:, 1] > before]
