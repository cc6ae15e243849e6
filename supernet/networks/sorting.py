"""Put channels, heads and neurons in order of importance, so that narrow sub-networks keep what matters most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from supernet.networks.importance import Importance, scores_of

__all__ = ["descending", "permute", "sort_between"]


def descending(scores: Tensor, trained_widths: Iterable[int] = ()) -> Tensor:
    """Indices (n,) of scores (n,) from high to low, each segment between the trained widths sorted on its own."""
    bounds = sorted({0, *trained_widths, len(scores)})
    segments = [
        start + torch.argsort(scores[start:stop], descending=True, stable=True) for start, stop in pairwise(bounds)
    ]
    return torch.cat(segments)


def permute(tensor: Any, order: Tensor, dim: int = 0) -> None:
    """Reorder a parameter or buffer along one dimension, in place, and with it the gradient that it may have."""
    tensor.copy_(tensor.index_select(dim, order))
    if isinstance(tensor, nn.Parameter) and tensor.grad is not None:
        tensor.grad.copy_(tensor.grad.index_select(dim, order))


def sort_between(
    writers: Sequence[Any],
    readers: Sequence[Any],
    importance: Importance,
    trained_widths: Iterable[int] = (),
) -> None:
    """Sort the channels that run from `writers` to `readers`; what the network computes stays the same.

    Args:
        writers: convolutions (their filters move) and BatchNorms.
        readers: convolutions and linear layers (their inputs move). The scores of a channel are added over them.
        importance: scores (n_inputs,) of the inputs of a reader's weight, or of the scales of the norms.
        trained_widths: only channels between two neighbours of these widths change places.
    """
    norms = [writer.weight for writer in writers if writer.weight is not None and writer.weight.ndim == 1]
    scores = scores_of(importance, [reader.weight for reader in readers], norms)
    order = descending(scores, trained_widths)
    for writer in writers:
        tensors = (writer.weight, writer.bias, *(writer._buffers.get(name) for name in ("running_mean", "running_var")))
        for tensor in tensors:
            if tensor is not None:
                permute(tensor, order)
    for reader in readers:
        permute(reader.weight, order, dim=1)
