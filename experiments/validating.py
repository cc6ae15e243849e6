"""How the smallest, the middle and the largest sub-network do on validation images after every epoch of a training."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from experiments.run_folder import RunFolder
from supernet.architecture import Architecture
from supernet.calibration import evaluate, recalibrate
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from collections.abc import Callable

    from supernet.protocol import Supernet
    from supernet.space import Genes

__all__ = ["EpochValidation", "middle_architecture"]

_MOST_IMAGES = 10_000  # of either kind: this runs after every epoch, scores proper come from `supernet score`
_DRAWN = 1000


class EpochValidation:
    """Call it with a supernet: accuracies in [0, 1] by name, each sub-network recalibrated as scores are.

    Sub-networks of networks without BatchNorm are evaluated as they are. Images are read when first needed and kept.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        supernet = run.untrained_supernet
        space = supernet.space
        middle = middle_architecture(space, supernet.macs, run.recipe.seed)
        self.archs: dict[str, Architecture] = {"smallest": space.smallest, "middle": middle, "largest": space.largest}

    def __call__(self, supernet: Supernet) -> dict[str, float]:
        return {name: self.accuracy(supernet, arch) for name, arch in self.archs.items()}

    def accuracy(self, supernet: Supernet, arch: Architecture) -> float:
        """Accuracy of one recalibrated sub-network."""
        subnet = recalibrate(supernet.extract(arch), self._calibration, arch.resolution).eval()
        return evaluate(subnet, self._images, arch.resolution).accuracy

    @cached_property
    def _calibration(self) -> list[Tensor]:
        settings = self.run.recipe.score
        n_images = min(settings.calibration_images, _MOST_IMAGES)
        return list(self.run.data.calibration_batches(n_images, settings.batch_size))

    @cached_property
    def _images(self) -> list[tuple[Tensor, Tensor]]:
        batch_size = self.run.recipe.score.batch_size
        batches = self.run.data.evaluation_batches("validation", batch_size)
        with torch.no_grad():
            return list(islice(batches, -(-_MOST_IMAGES // batch_size)))


def middle_architecture(space: SearchSpace, macs: Callable[[Genes], Genes], seed: int) -> Architecture:
    """Of some random architectures the one whose MACs are nearest to half way between smallest and largest."""
    genes = space.sample_genes(_DRAWN, np.random.default_rng(seed))
    ends = macs(space.encode([space.smallest, space.largest]))
    return space.decode(genes[[np.abs(macs(genes) - ends.mean()).argmin()]])[0]
