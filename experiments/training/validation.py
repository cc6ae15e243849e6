"""Validation while training: how the smallest, a middle and the largest sub-network do after an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.data.image_data import ImageData
from supernet.architecture import Architecture
from supernet.protocol import KnowsCosts, Supernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.task import CLASSIFICATION, Task
from supernet.training import World

__all__ = ["Validation", "validated_archs"]

_N_DRAWN = 101


@dataclass(frozen=True)
class Validation:
    """Accuracy in [0, 1], or the metric of the task, of sub-networks on the validation split, each extracted and
    recalibrated; by name.

    Attributes:
        archs: the sub-networks.
        data: the images.
        calibration_images: training images that set the BatchNorm statistics.
        batch_size: images per batch of calibration and evaluation.
        world: the processes that share out the sub-networks: a call returns those of this process.
        task: what they are judged by.
    """

    archs: Mapping[str, Architecture]
    data: ImageData
    calibration_images: int
    batch_size: int
    world: World
    task: Task = CLASSIFICATION

    def __call__(self, supernet: Supernet) -> dict[str, float]:
        names = list(self.archs)[self.world.rank :: self.world.size]
        return {name: self._value(supernet, self.archs[name]) for name in names}

    def _value(self, supernet: Supernet, arch: Architecture) -> float:
        subnet = supernet.extract(arch)
        recalibrate(
            subnet, self.data.calibration_batches(self.calibration_images, self.batch_size), resolution=arch.resolution
        )
        batches = self.data.evaluation_batches("validation", self.batch_size)
        return evaluate(subnet, batches, arch.resolution, self.task).value


def validated_archs(supernet: Supernet) -> dict[str, Architecture]:
    """The largest, a middle and the smallest sub-network; the largest alone where there is no other.

    The middle one has the median MACs of some that are drawn, always the same.
    """
    space = supernet.space
    if space.size == 1 or not isinstance(supernet, KnowsCosts):
        return {"largest": space.largest}
    drawn = space.sample(_N_DRAWN, np.random.default_rng(0))
    order = np.argsort(supernet.macs(space.encode(drawn)), kind="stable")
    return {"largest": space.largest, "middle": drawn[order[_N_DRAWN // 2]], "smallest": space.smallest}
