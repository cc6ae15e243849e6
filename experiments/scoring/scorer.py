"""Scores of sub-networks: each recalibrated and evaluated once, by as many processes as there are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.data.image_data import EvaluationSplit
from experiments.progress import Reporter
from experiments.quantities import quality
from experiments.run_folder import RunFolder
from experiments.scoring.kept_images import KeptImages
from experiments.scoring.onnx_module import fast_evaluator
from hardware.store.store import Score, Store
from supernet.architecture import Architecture
from supernet.scoring.calibration import evaluate_all, recalibrate
from supernet.task import ACCURACY
from supernet.training import World
from supernet.training.memory import keep_freed_memory

__all__ = ["Scorer", "cannot_reach"]

_GROUP = 16  # sub-networks that share one reading of images that do not fit into memory
_RISK = 1e-3  # of stopping a sub-network early that would have reached its floor

Metrics = dict[str, float]


class Scorer:
    """Scores of sub-networks of the trained supernet, each recalibrated, with its weights as they are.

    A score is the accuracy, or the metric of a task of one's own, by its name; the loss; and the number of images.

    Calibrated in torch, a sub-network is evaluated with its BatchNorms folded into convolutions by ONNX Runtime; on a
    GPU by torch.

    Args:
        run: the run whose sub-networks are scored.
        world: the processes that share the work. The first one alone reads and writes the store.
    """

    def __init__(self, run: RunFolder, world: World | None = None) -> None:
        self.run = run
        self.world = world or World(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        self._evaluation: dict[str, KeptImages[Tensor]] = {}

    @cached_property
    def digest(self) -> str:
        """Names the weights, the data, the calibration and the metric: equal digests, equal scores."""
        settings, task = self.run.recipe.score, self.run.task.digest
        text = f"{self.run.weights_digest} {self.run.data.digest} {settings.calibration_images} {settings.batch_size}"
        text += f" {task}" if task else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subnet(self, arch: Architecture) -> nn.Module:
        """The sub-network with its own BatchNorm statistics, in eval mode, on the CPU."""
        return self._calibrated(arch).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def score(
        self,
        archs: Sequence[Architecture],
        split: EvaluationSplit,
        report: Reporter,
        floors: Mapping[str, float] | None = None,
    ) -> dict[str, Score]:
        """Scores by id of all `archs`, the same on every process; those that are not in the store are made and added.

        A kill loses what was being evaluated: one sub-network per process, or a group of 16 where the images do not
        fit into memory.

        With `floors`, accuracies by id, an architecture is given up as soon as it is clear (see `cannot_reach`) that on
        all images it would stay below its floor, such as the accuracy of one that is known and not slower. Its score
        then counts the images that it has seen, and is stored apart from whole ones.

        Raises:
            ValueError: a metric is not finite, or there are floors of something else than accuracy.
        """
        floors, metric = floors or {}, self.run.task.metric
        if floors and metric is not ACCURACY:
            raise ValueError(f"whether {metric.name} stays below a floor cannot be told early: score without floors")
        missing = self._missing(archs, split, floors)
        size = 1 if self._images(split).fits else _GROUP
        groups = [group for part in _by_resolution(missing) for group in _chunks(part, size)]
        with report.bar(f"scoring on {split}", len(missing)) as advance, keep_freed_memory():
            done = 0
            for turn in _chunks(groups, self.world.size):
                mine = turn[self.world.rank] if self.world.rank < len(turn) else []
                metrics = self._score_group(mine, split, [floors.get(arch.id) for arch in mine])
                found = self._add(turn, metrics, size, split, floors)
                done += len(found)
                advance(done, quality(self.run.recipe.kinds).format(found[-1].metrics[metric.name]))
        if missing:
            report.say(f"  {len(missing)} sub-networks scored on {split}")
        return self._stored(archs, split, floors)

    # -- computing ----------------------------------------------------------------------------------------------------

    def _score_group(
        self, archs: Sequence[Architecture], split: EvaluationSplit, floors: Sequence[float | None]
    ) -> list[Metrics]:
        """Metric, loss and number of images of sub-networks of one resolution, evaluated side by side."""
        if not archs:
            return []
        resolution, channels, total = archs[0].resolution, self.run.data.in_channels, self.run.data.n_images(split)
        n_looks = math.ceil(total / self.run.recipe.score.batch_size)

        def stop(number: int, correct: int, n_images: int) -> bool:
            floor = floors[number]
            return floor is not None and cannot_reach(floor, correct, n_images, total, _RISK / n_looks)

        evaluators = [fast_evaluator(self._calibrated(arch), channels, resolution) for arch in archs]
        stop_if_asked = stop if any(floor is not None for floor in floors) else None
        task = self.run.task
        scores = evaluate_all(evaluators, self._images(split).at(resolution), task=task, stop=stop_if_asked)
        return [
            {
                task.metric.name: task.metric.checked(score.value, f"sub-network {arch.id} on {split}"),
                "loss": score.loss,
                "n_images": score.n_images,
            }
            for arch, score in zip(archs, scores, strict=True)
        ]

    def _calibrated(self, arch: Architecture) -> nn.Module:
        subnet = self.run.supernet.extract(arch).to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = self._calibration.at(arch.resolution)
        return recalibrate(subnet, (batch for batch, _ in images)).eval()

    @cached_property
    def _calibration(self) -> KeptImages[None]:
        settings, data = self.run.recipe.score, self.run.data
        n_images = settings.calibration_images

        def read():
            return ((images, None) for images in data.calibration_batches(n_images, settings.batch_size))

        return KeptImages(read, n_images, data.in_channels, data.resolution, self.world.device)

    def _images(self, split: EvaluationSplit) -> KeptImages[Tensor]:
        if split not in self._evaluation:
            data, batch_size = self.run.data, self.run.recipe.score.batch_size
            self._evaluation[split] = KeptImages(
                lambda: data.evaluation_batches(split, batch_size),
                data.n_images(split),
                data.in_channels,
                data.resolution,
                self.world.device,
            )
        return self._evaluation[split]

    # -- what the first process keeps, and tells the others -----------------------------------------------------------

    def _missing(self, archs: Sequence[Architecture], split: str, floors: Mapping[str, float]) -> list[Architecture]:
        """Those without a score, in an order in which neighbours cost about the same."""

        def places() -> bytes:
            with self.run.store() as store:
                known = [self._find(store, arch.id, split, floors) is not None for arch in archs]
            return json.dumps([place for place, is_known in enumerate(known) if not is_known]).encode()

        missing = list(dict.fromkeys(archs[place] for place in json.loads(self.world.share(places) or b"[]")))
        if not missing:
            return []
        supernet = self.run.untrained_supernet
        order = np.argsort(supernet.macs(supernet.space.encode(missing)), kind="stable")
        return [missing[place] for place in order.tolist()]

    def _find(self, store: Store, key: str, split: str, floors: Mapping[str, float]) -> Score | None:
        """The whole score, else one that ended early below the same floor."""
        splits = [split] + ([_partial(split, floors[key])] if key in floors else [])
        return next((store.score(key, self.digest, s) for s in splits if store.has_score(key, self.digest, s)), None)

    def _add(
        self,
        turn: Sequence[Sequence[Architecture]],
        metrics: Sequence[Metrics],
        size: int,
        split: EvaluationSplit,
        floors: Mapping[str, float],
    ) -> list[Score]:
        """Scores of all processes' groups, stored by the first."""
        numbers = torch.zeros(size, 3, dtype=torch.float64, device=self.world.device)
        for row, values in enumerate(metrics):
            numbers[row] = torch.tensor(list(values.values()), dtype=torch.float64)
        scores = []
        for group, rows in zip(turn, self.world.gather(numbers).tolist(), strict=False):
            for arch, (value, loss, n_images) in zip(group, rows, strict=False):
                found = {self.run.task.metric.name: value, "loss": loss, "n_images": n_images}
                if n_images < self.run.data.n_images(split):
                    scores.append(Score(arch.id, self.digest, _partial(split, floors[arch.id]), found))
                else:
                    scores.append(Score(arch.id, self.digest, split, found))
        if self.world.is_first:
            with self.run.store() as store:
                for score in scores:
                    store.add_score(score)
        return scores

    def _stored(self, archs: Sequence[Architecture], split: str, floors: Mapping[str, float]) -> dict[str, Score]:
        def scores() -> bytes:
            with self.run.store() as store:
                found = [self._find(store, arch.id, split, floors) for arch in archs]
            return json.dumps([[s.key, s.split, dict(s.metrics)] for s in found if s is not None]).encode()

        shared = json.loads(self.world.share(scores) or b"[]")
        return {key: Score(key, self.digest, kind, metrics) for key, kind, metrics in shared}


def cannot_reach(floor: float, correct: int, n_images: int, total: int, risk: float) -> bool:
    """Whether a network with `correct` of `n_images` right is below the accuracy `floor` on all `total` images.

    The images seen must be drawn at random from all of them. A network that does reach the floor is taken for one that
    does not with a probability of at most `risk`: the exact bound of sampling without replacement (hypergeometric).
    """
    from scipy.stats import hypergeom

    needed = math.ceil(floor * total - 1e-9)
    return needed > 0 and bool(hypergeom.cdf(correct, total, min(needed, total), n_images) <= risk)


def _partial(split: str, floor: float) -> str:
    return f"{split}, stopped below {floor:.6f}"


def _by_resolution(archs: Sequence[Architecture]) -> list[list[Architecture]]:
    return [[a for a in archs if a.resolution == r] for r in sorted({arch.resolution for arch in archs})]


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
