"""Masks: images of one batch on different sub-networks, computed in one pass over what any of them needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.scoring.calibration import batch_norms
from supernet.space import SearchSpace

__all__ = ["MaskedLayerNorm", "first", "forward_of_many", "union"]


class MaskedLayerNorm(nn.LayerNorm):
    """A LayerNorm over the last dimension, of which some channels can be absent, others for every image (ViT-ResNAS,
    Liao et al. 2021).

    Mean and second moment are those of the active channels alone, so that these get what a LayerNorm of the slice would
    give them; the others get 0. Without a mask it is torch's own.
    """

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Of input (batch, ..., channels), with a mask of 0 and 1 that can be broadcast to it."""
        if mask is None:
            return super().forward(input)
        x = input if input.dtype == torch.float64 else input.float()
        n = mask.sum(dim=-1, keepdim=True)
        centred = (x - (x * mask).sum(dim=-1, keepdim=True) / n) * mask
        normed = centred * torch.rsqrt(centred.square().sum(dim=-1, keepdim=True) / n + self.eps)
        return ((normed * self.weight + self.bias) * mask).to(input.dtype)


def first(counts: Sequence[int], size: int, like: Tensor) -> Tensor:
    """Masks (batch, size), 1 for the first so many of every image; device and type are those of `like`."""
    ends = torch.tensor(counts, device=like.device)
    return (torch.arange(size, device=like.device) < ends[:, None]).to(like.dtype)


def union(space: SearchSpace, archs: Sequence[Architecture]) -> Architecture:
    """The smallest architecture in which all of `archs` lie; all have one resolution.

    Raises:
        ValueError: there are several resolutions.
    """
    if len({arch.resolution for arch in archs}) != 1:
        sizes = ", ".join(map(str, sorted({arch.resolution for arch in archs}))) or "none"
        raise ValueError(f"the architectures of one batch need one resolution, not {sizes}")
    return space.decode(space.encode(archs).max(axis=0, keepdims=True))[0]


def forward_of_many(supernet: nn.Module) -> Callable[[Tensor, Sequence[Architecture]], Tensor]:
    """The member `forward_many` of a supernet: logits of images (batch, ...) of which each has its own architecture.

    Raises:
        ValueError: there is none, or there are BatchNorms, whose statistics would be over images some of which do not
            have the channel.
    """
    if norms := batch_norms(supernet):
        raise ValueError(
            f"architectures cannot share a batch in a network with BatchNorm (it has {len(norms)}): its statistics "
            "would be over images of other widths; remove multi_architecture, or use LayerNorm"
        )
    many: Any = getattr(supernet, "forward_many", None)
    if many is None:
        raise ValueError(
            f"a {type(supernet).__name__} has no forward_many(images, archs), so its architectures cannot share a "
            "batch; remove multi_architecture, or take 'multi_stage_vit'"
        )
    return many
