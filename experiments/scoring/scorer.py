"""Scores of sub-networks: each recalibrated and evaluated once, by as many processes as there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
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
from hardware.store.store import Score
from supernet.architecture import Architecture
from supernet.scoring.calibration import evaluate_all, recalibrate
from supernet.scoring.correction import correct
from supernet.training import World
from supernet.training.memory import keep_freed_memory

__all__ = ["Scorer"]

_GROUP = 16  # sub-networks that share one reading of images that do not fit into memory

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
        text += f" corrected on {settings.correction_images}" if settings.correction_images else ""
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subnet(self, arch: Architecture) -> nn.Module:
        """The sub-network with its own BatchNorm statistics, in eval mode, on the CPU."""
        return self._calibrated(arch).to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]

    def score(self, archs: Sequence[Architecture], split: EvaluationSplit, report: Reporter) -> dict[str, Score]:
        """Scores by id of all `archs`, the same on every process; those that are not in the store are made and added.

        A kill loses what was being evaluated: one sub-network per process, or a group of 16 where the images do not
        fit into memory.

        Raises:
            ValueError: a metric is not finite.
        """
        metric = self.run.task.metric
        missing = self._missing(archs, split)
        size = 1 if self._images(split).fits else _GROUP
        groups = [group for part in _by_resolution(missing) for group in _chunks(part, size)]
        with report.bar(f"scoring on {split}", len(missing)) as advance, keep_freed_memory():
            done = 0
            for turn in _chunks(groups, self.world.size):
                mine = turn[self.world.rank] if self.world.rank < len(turn) else []
                found = self._add(turn, self._score_group(mine, split), size, split)
                done += len(found)
                advance(done, quality(self.run.recipe.kinds).format(found[-1].metrics[metric.name]))
        if missing:
            report.say(f"  {len(missing)} sub-networks scored on {split}")
        return self._stored(archs, split)

    # -- computing ----------------------------------------------------------------------------------------------------

    def _score_group(self, archs: Sequence[Architecture], split: EvaluationSplit) -> list[Metrics]:
        """Metric, loss and number of images of sub-networks of one resolution, evaluated side by side."""
        if not archs:
            return []
        resolution, task = archs[0].resolution, self.run.task
        evaluators = [fast_evaluator(self._calibrated(arch), self.run.data.in_channels, resolution) for arch in archs]
        scores = evaluate_all(evaluators, self._images(split).at(resolution), task=task)
        return [
            {
                task.metric.name: task.metric.checked(score.value, f"sub-network {arch.id} on {split}"),
                "loss": score.loss,
                "n_images": score.n_images,
            }
            for arch, score in zip(archs, scores, strict=True)
        ]

    def _calibrated(self, arch: Architecture) -> nn.Module:
        images = self._calibration.at(arch.resolution)
        if self._correction_images:
            n_batches = -(-self._correction_images // self.run.recipe.score.batch_size)
            few = torch.cat([batch for batch, _ in islice(images, n_batches)])[: self._correction_images]
            subnet = correct(self.run.supernet, arch, [few])
            return subnet.to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        subnet = self._extracted(arch).to(self.world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return recalibrate(subnet, (batch for batch, _ in images)).eval()

    @property
    def _correction_images(self) -> int:
        return self.run.recipe.score.correction_images

    def _extracted(self, arch: Architecture) -> nn.Module:
        return self.run.supernet.extract(arch)

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

    def _missing(self, archs: Sequence[Architecture], split: str) -> list[Architecture]:
        """Those without a score, in an order in which neighbours cost about the same."""

        def places() -> bytes:
            with self.run.store() as store:
                known = [store.has_score(arch.id, self.digest, split) for arch in archs]
            return json.dumps([place for place, is_known in enumerate(known) if not is_known]).encode()

        missing = list(dict.fromkeys(archs[place] for place in json.loads(self.world.share(places) or b"[]")))
        if not missing:
            return []
        supernet = self.run.untrained_supernet
        order = np.argsort(supernet.macs(supernet.space.encode(missing)), kind="stable")
        return [missing[place] for place in order.tolist()]

    def _add(
        self, turn: Sequence[Sequence[Architecture]], metrics: Sequence[Metrics], size: int, split: str
    ) -> list[Score]:
        """Scores of all processes' groups, stored by the first."""
        numbers = torch.zeros(size, 3, dtype=torch.float64, device=self.world.device)
        for row, values in enumerate(metrics):
            numbers[row] = torch.tensor(list(values.values()), dtype=torch.float64)
        names = (self.run.task.metric.name, "loss", "n_images")
        scores = [
            Score(arch.id, self.digest, split, dict(zip(names, values, strict=True)))
            for group, rows in zip(turn, self.world.gather(numbers).tolist(), strict=False)
            for arch, values in zip(group, rows, strict=False)
        ]
        if self.world.is_first:
            with self.run.store() as store:
                for score in scores:
                    store.add_score(score)
        return scores

    def _stored(self, archs: Sequence[Architecture], split: str) -> dict[str, Score]:
        def scores() -> bytes:
            with self.run.store() as store:
                known = {score.key: dict(score.metrics) for score in store.scores(self.digest, split)}
            return json.dumps([[arch.id, known[arch.id]] for arch in archs if arch.id in known]).encode()

        shared = json.loads(self.world.share(scores) or b"[]")
        return {key: Score(key, self.digest, split, metrics) for key, metrics in shared}


def _by_resolution(archs: Sequence[Architecture]) -> list[list[Architecture]]:
    return [[a for a in archs if a.resolution == r] for r in sorted({arch.resolution for arch in archs})]


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
