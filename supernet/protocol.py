"""What a network must offer to be trained, measured and searched: three members; and what a run adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from supernet.architecture import Architecture
from supernet.space import Genes, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

    from supernet.networks.counting import Costs

__all__ = ["ENTRY_POINTS", "FACTORIES", "KnowsCosts", "Supernet"]

ENTRY_POINTS = "supernet.supernets"
"""The group in which an installed package registers supernets of its own."""

FACTORIES = {"stitched": "supernet.stitching:stitched"}
"""Supernets of ours that have the three members alone, by name: made like those of one's own."""


class Supernet(Protocol):
    """An elastic network: every architecture of `space` runs with the same weights."""

    @property
    def space(self) -> SearchSpace:
        """All architectures that can be run and extracted."""
        ...

    def __call__(self, images: Tensor, arch: Architecture, /) -> Tensor:
        """Logits (batch, n_classes), or outputs (batch, ...) of another task, of the sub-network `arch` on images
        (batch, channels, height, width).

        The architecture is an argument and never a state: two sub-networks can run in one backward pass, in two
        threads, and after an exception, without knowing of each other.
        """
        ...

    def extract(self, arch: Architecture, /) -> nn.Module:
        """The sub-network alone, with weights of its own, computing exactly what the call computes in eval mode."""
        ...


@runtime_checkable
class KnowsCosts(Protocol):
    """What a run asks of a supernet beside the three members.

    A supernet that does not have them gets them by measuring what it extracts: see `supernet.networks.measured`.
    """

    @property
    def definition(self) -> Mapping[str, Any] | None:
        """Plain data from which `supernet.registry.open_supernet` makes the network again; None if nothing can."""
        ...

    def costs(self, genes: Genes, /) -> Costs:
        """What every part of the sub-networks of canonical genes (n_archs, n_genes) costs for one image."""
        ...

    def macs(self, genes: Genes, /) -> Genes:
        """Multiply-accumulates (n_archs,) for one image."""
        ...

    def n_parameters(self, genes: Genes, /) -> Genes:
        """Numbers of parameters (n_archs,) of the extracted networks."""
        ...
