"""Counts that need no device: multiply-accumulates and parameters of any network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from supernet.scoring.evaluating import evaluating

__all__ = ["count_macs", "count_parameters"]


def count_macs(module: nn.Module, input_shape: Sequence[int]) -> int:
    """Multiply-accumulates of one forward pass of (batch, channels, height, width) in eval mode.

    Those of convolutions, matrix products and attention, as is usual; element-wise work is not counted.
    """
    weight = next(module.parameters(), torch.empty(0))
    images = torch.zeros(tuple(input_shape), dtype=weight.dtype, device=weight.device)
    with evaluating(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(images)
    return counter.get_total_flops() // 2


def count_parameters(module: nn.Module) -> int:
    """Number of trainable and frozen parameters, each counted once even where it is shared."""
    return sum(parameter.numel() for parameter in module.parameters())
