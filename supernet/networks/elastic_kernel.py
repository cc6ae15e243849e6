"""Elastic kernel sizes: smaller kernels are learned linear maps of the centre of the larger ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["KernelTransform", "keep_absent_transforms"]


class KernelTransform(nn.Module):
    """Turns a weight of the largest kernel size into one of a smaller size (Cai et al. 2020, section 3.3).

    The steps are chained, 7 → 5 → 3: the centre of the larger kernel, flattened row by row, is multiplied by a square
    matrix that all channels of the layer share (published for depth-wise ones). The matrices start as the identity,
    hence as plain centre crops.
    """

    def __init__(self, kernels: Sequence[int]) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        for large, small in pairwise(self.kernels):
            self.register_parameter(f"{large}to{small}_matrix", nn.Parameter(torch.eye(small**2)))

    def forward(self, weight: Tensor, kernel: int) -> Tensor:
        """Weight (outputs, inputs, kernel, kernel) out of one (outputs, inputs, largest, largest)."""
        for large, small in pairwise(self.kernels):
            if large <= kernel:
                break
            crop = (large - small) // 2
            centre = weight[:, :, crop : large - crop, crop : large - crop]
            matrix = self.get_parameter(f"{large}to{small}_matrix")
            weight = (centre.reshape(-1, small**2) @ matrix.T).view(*weight.shape[:2], small, small)
        return weight


def keep_absent_transforms(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Hook before loading: a state dict of timm has no kernel matrices; loading it keeps those there are."""
    own = {
        f"{prefix}kernel_transforms.{k}": v for k, v in cast(nn.Module, module.kernel_transforms).state_dict().items()
    }
    if not own.keys() & state.keys():
        state.update(own)
