"""One ordinary network in the shape of a supernet, so that baselines are trained in the same way."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from supernet.architecture import Architecture, Block
from supernet.space import SearchSpace, Stage

__all__ = ["Static"]


class Static(nn.Module):
    """A network as a supernet whose space has exactly one architecture.

    Args:
        model: any module from images (n, channels, height, width) to logits (n, n_classes); it is trained in place.
        resolution: height and width of the images it is trained on.
    """

    def __init__(self, model: nn.Module, resolution: int) -> None:
        super().__init__()
        self.model = model
        self.arch = Architecture(resolution, ((Block(),),))
        self.space = SearchSpace((resolution,), (Stage.uniform((1,)),))

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (n, n_classes).

        Raises:
            ValueError: `arch` is not the one architecture that there is.
        """
        self._check(arch)
        return self.model(images)

    def extract(self, arch: Architecture) -> nn.Module:
        """A copy of the network; raises ValueError as `forward` does."""
        self._check(arch)
        return copy.deepcopy(self.model)

    def _check(self, arch: Architecture) -> None:
        if arch != self.arch:
            raise ValueError(f"a static network has one architecture, {self.arch}; got {arch}")
