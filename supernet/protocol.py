"""What a network must offer to be trained, measured and searched: three members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from supernet.architecture import Architecture
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["Supernet"]


class Supernet(Protocol):
    """An elastic network: every architecture of `space` runs with the same weights."""

    @property
    def space(self) -> SearchSpace:
        """All architectures that can be run and extracted."""
        ...

    def __call__(self, images: Tensor, arch: Architecture, /) -> Tensor:
        """Logits (batch, n_classes) of the sub-network `arch` on images (batch, channels, height, width).

        The architecture is an argument and never a state: two sub-networks can run in one backward pass, in two
        threads, and after an exception, without knowing of each other.
        """
        ...

    def extract(self, arch: Architecture, /) -> nn.Module:
        """The sub-network alone, with weights of its own, computing exactly what the call computes in eval mode."""
        ...
