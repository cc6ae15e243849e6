"""One training step: the gradients of its sub-networks, summed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Literal

import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.calibration import batch_norms, batch_statistics
from supernet.images import resize
from supernet.training.losses import Loss

__all__ = ["accumulate_gradients", "freeze"]


def accumulate_gradients(
    supernet: nn.Module,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    loss: Loss,
    progress: float = 0.0,
    teacher: nn.Module | None = None,
    regularise: Literal["all", "largest"] = "all",
) -> Tensor:
    """Add the gradients of every architecture's loss to the parameters; returns the losses (n_archs,), detached.

    The gradients are summed and not divided by the number of architectures, as published (Once-for-All, Cai et al.
    2020; AttentiveNAS, Wang et al. 2021), so that the effective learning rate grows with it. Blocks that no
    architecture of the step ran keep a gradient of None; the optimiser skips them, their weight decay and momentum too.

    Args:
        supernet: `supernet(images, arch)` gives logits (n, n_classes).
        images: (n, channels, height, width); resized to each architecture's resolution.
        labels: (n,) integers.
        archs: the architectures of the step, in order; the first is the in-place teacher where `loss` wants one.
        loss: see `Loss`.
        progress: share of the phase that is done.
        teacher: a network from `freeze`, for losses that want a frozen one; it is fed the same images.
        regularise: "largest" trains all architectures but the first without dropout.
    """
    inputs: dict[int, tuple[Tensor, Tensor | None]] = {}  # by resolution: sub-networks of a step often share it
    in_place: Tensor | None = None
    losses = []
    with ExitStack() as without_dropout:
        for i, arch in enumerate(archs):
            if i == 1 and regularise == "largest":
                without_dropout.enter_context(batch_statistics(supernet))
            if arch.resolution not in inputs:
                resized = resize(images, arch.resolution)
                with torch.no_grad():
                    inputs[arch.resolution] = resized, None if teacher is None else teacher(resized)
            resized, frozen = inputs[arch.resolution]
            logits = supernet(resized, arch)
            value = loss(logits, labels, in_place if loss.teacher == "in place" else frozen, progress)
            value.backward()
            losses.append(value.detach())
            if i == 0:
                in_place = logits.detach()
    return torch.stack(losses)


def freeze(module: nn.Module) -> nn.Module:
    """Make `module` a teacher, in place: no gradients, no dropout, and BatchNorms that use the statistics of the batch.

    Published teachers run in train mode. Their running statistics are left alone: nothing here reads or writes them.
    """
    module.requires_grad_(False).eval()
    for norm in batch_norms(module):
        norm.training = True
        norm.track_running_stats = False
    return module
