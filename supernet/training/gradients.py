"""One training step: the gradients of its sub-networks, summed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.networks.masking import forward_of_many
from supernet.scoring.calibration import batch_norms, batch_statistics
from supernet.scoring.images import resize
from supernet.training.attention import Attended
from supernet.training.attention_modes import RecordedAttention
from supernet.training.losses import OF_THE_STEP, Distillation, InPlaceDistillation, Loss

__all__ = ["accumulate_gradients", "freeze", "mean_losses", "seeded", "teaching"]


def accumulate_gradients(
    supernet: nn.Module,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    loss: Loss,
    progress: float = 0.0,
    teacher: Callable[[Tensor], Tensor] | None = None,
    regularise: Literal["all", "largest"] = "all",
    *,
    accumulation: int = 1,
    split_batch: bool = False,
    one_pass: bool = False,
    autocast: torch.dtype | None = None,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Tensor:
    """Add the gradients of every architecture's loss to the parameters; returns the losses (n_archs,), detached.

    The gradients are summed and not divided by the number of architectures, as published (Once-for-All, Cai et al.
    2020; AttentiveNAS, Wang et al. 2021), so that the effective learning rate grows with it. Blocks that no
    architecture of the step ran keep a gradient of None; the optimiser skips them, their weight decay and momentum too.

    Args:
        supernet: `supernet(images, arch)` gives logits (n, n_classes).
        images: (n, channels, height, width); resized to each architecture's resolution.
        labels: (n,) integers, or (n, n_classes) shares.
        archs: the architectures of the step, in order; where `loss` wants a teacher of the step it is the first of
            them, or the one before each.
        loss: see `Loss`.
        progress: share of the phase that is done.
        teacher: a network from `freeze` or `teaching`, for losses that want one that is not of the step; it is fed the
            same images.
        regularise: "largest" trains all architectures but the first without dropout.
        accumulation: the images are taken in so many equal parts, one after the other, and gradients averaged over
            them; every part has BatchNorm statistics of its own.
        split_batch: every architecture has its own equal share of the images, and the gradient is the mean over all of
            them (SortedNet, Valipour et al. 2023).
        one_pass: with `split_batch`: all of them in one forward and backward pass, by masks.
        autocast: type of the activations; None: that of the weights.
        backward: adds the gradients of a loss; `Tensor.backward`, or that after scaling.

    Raises:
        ValueError: the images cannot be shared out equally, or a loss wants the logits that a sub-network with other
            images has.
    """
    if split_batch and loss.teacher in OF_THE_STEP:
        raise ValueError("in-place distillation needs all sub-networks of a step on the same images; not split_batch")
    n_shares = accumulation * (len(archs) if split_batch else 1)
    if len(images) % n_shares:
        raise ValueError(
            f"a process has {len(images)} images per step, which cannot be shared out equally in {n_shares}: "
            f"data.batch_size must be a multiple of {n_shares} times the number of processes"
        )
    parts = zip(images.chunk(accumulation), labels.chunk(accumulation), strict=True)
    losses = [
        _together(supernet, part_images, part_labels, archs, loss, progress, teacher, n_shares, autocast, backward)
        if one_pass
        else _one_after_the_other(
            supernet, part_images, part_labels, archs, loss, progress, teacher, regularise, n_shares, split_batch,
            autocast, backward,
        )
        for part_images, part_labels in parts
    ]  # fmt: skip
    return torch.stack(losses).mean(0)


def _one_after_the_other(
    supernet: nn.Module,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    loss: Loss,
    progress: float,
    teacher: Callable[[Tensor], Tensor] | None,
    regularise: Literal["all", "largest"],
    n_shares: int,
    split_batch: bool,
    autocast: torch.dtype | None,
    backward: Callable[[Tensor], None],
) -> Tensor:
    """The gradients over one micro-batch, each divided by `n_shares`; returns the losses (n_archs,)."""
    relation = loss.relation if isinstance(loss, Distillation | InPlaceDistillation) else None
    outputs = partial(_outputs, autocast, relation is not None)
    inputs: dict[tuple[int, int], tuple[Tensor, _Outputs]] = {}  # sub-networks of a step often share a resolution
    before, losses = _Outputs(), []
    shares = list(zip(images.chunk(len(archs)), labels.chunk(len(archs)), strict=True)) if split_batch else None
    with ExitStack() as without_dropout:
        for i, arch in enumerate(archs):
            if i == 1 and regularise == "largest":
                without_dropout.enter_context(batch_statistics(supernet))
            share, (own_images, own_labels) = (i, shares[i]) if shares is not None else (0, (images, labels))
            key = share, arch.resolution
            if key not in inputs:
                resized = resize(own_images, arch.resolution)
                with torch.no_grad():
                    inputs[key] = resized, _Outputs() if teacher is None else outputs(teacher, resized)
            resized, frozen = inputs[key]
            logits, attended = outputs(supernet, resized, arch)
            assert logits is not None
            taught = before if loss.teacher in OF_THE_STEP else frozen
            value = loss(logits, own_labels, taught.logits, progress)
            if relation is not None and attended is not None and taught.attended is not None:
                value = value + relation(attended, taught.attended)
            backward(value / n_shares if n_shares > 1 else value)
            losses.append(value.detach())
            if i == 0 or loss.teacher == "next larger":
                before = _Outputs(logits.detach(), attended)  # whose gradient the relation leaves out
    return torch.stack(losses)


def _together(
    supernet: nn.Module,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    loss: Loss,
    progress: float,
    teacher: Callable[[Tensor], Tensor] | None,
    n_shares: int,
    autocast: torch.dtype | None,
    backward: Callable[[Tensor], None],
) -> Tensor:
    """The same of architectures with a share of the images each, in one pass of a supernet that has `forward_many`."""
    n, n_archs = len(images) // len(archs), len(archs)
    images = resize(images, archs[0].resolution)
    with torch.no_grad():
        taught = None if teacher is None else _logits(autocast, teacher, images)
    logits = _logits(autocast, forward_of_many(supernet), images, [arch for arch in archs for _ in range(n)])
    of_teacher = [None] * n_archs if taught is None else taught.chunk(n_archs)
    shares = zip(logits.chunk(n_archs), labels.chunk(n_archs), of_teacher, strict=True)
    losses = torch.stack([loss(own, own_labels, others, progress) for own, own_labels, others in shares])
    backward(losses.sum() / n_shares)
    return losses.detach()


@torch.no_grad()
def mean_losses(
    supernet: nn.Module,
    images: Tensor,
    labels: Tensor,
    archs: Sequence[Architecture],
    loss: Loss,
    progress: float = 0.0,
    teacher: Callable[[Tensor], Tensor] | None = None,
    *,
    accumulation: int = 1,
    autocast: torch.dtype | None = None,
) -> NDArray[np.float64]:
    """Losses (n_archs,) as `accumulate_gradients` would have them without dropout, with nothing trained by it.

    Where the teacher is the largest network of the step there is none yet: the loss is that of the labels.
    """
    totals = np.zeros(len(archs))
    buffers = list(supernet.buffers())
    before = [buffer.clone() for buffer in buffers]
    with batch_statistics(supernet):
        for part_images, part_labels in zip(images.chunk(accumulation), labels.chunk(accumulation), strict=True):
            for i, arch in enumerate(archs):
                resized = resize(part_images, arch.resolution)
                frozen = None if teacher is None else _logits(autocast, teacher, resized)
                totals[i] += float(loss(_logits(autocast, supernet, resized, arch), part_labels, frozen, progress))
    for buffer, value in zip(buffers, before, strict=True):  # running statistics, also those of norms of one's own
        buffer.copy_(value)
    return totals / accumulation


def freeze(module: nn.Module) -> nn.Module:
    """Make `module` a teacher, in place: no gradients, no dropout, and BatchNorms that use the statistics of the batch.

    Published teachers run in train mode. Their running statistics are left alone: nothing here reads or writes them.
    """
    module.requires_grad_(False).eval()
    for norm in batch_norms(module):
        norm.training = True
        norm.track_running_stats = False
    return module


def teaching(supernet: nn.Module, arch: Architecture) -> Callable[[Tensor], Tensor]:
    """A sub-network as a teacher as it is at every call, such as that of an average of the weights.

    Like a frozen one it has no dropout and the statistics of the batch, and the running statistics are left alone.
    """

    @torch.no_grad()
    def teacher(images: Tensor) -> Tensor:
        norms = [norm for norm in batch_norms(supernet) if norm.track_running_stats]
        with batch_statistics(supernet):
            for norm in norms:
                norm.track_running_stats = False
            try:
                return supernet(images, arch)
            finally:
                for norm in norms:
                    norm.track_running_stats = True

    return teacher


@contextmanager
def seeded(device: torch.device, *key: int) -> Iterator[None]:
    """Inside, torch's own random numbers (dropout) follow from the key; outside they go on as if nothing happened."""
    number = int(np.random.SeedSequence(key).generate_state(1)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield


class _Outputs(NamedTuple):
    """What a network says of images: logits (n, n_classes), and what it attended with where that is asked for."""

    logits: Tensor | None = None
    attended: Attended | None = None


def _outputs(
    autocast: torch.dtype | None,
    with_attention: bool,
    network: Callable[..., Tensor],
    images: Tensor,
    *arch: Architecture,
) -> _Outputs:
    """Raises ValueError where attention is asked for and there is none."""
    if not with_attention:
        return _Outputs(_logits(autocast, network, images, *arch))
    with RecordedAttention() as recorded:
        logits = _logits(autocast, network, images, *arch)
    if recorded.last is None:
        raise ValueError(f"relations are of attention, and {type(network).__name__} has none; remove `relation`")
    return _Outputs(logits, recorded.last)


def _logits(autocast: torch.dtype | None, network: Callable[..., Tensor], images: Tensor, *arch: Any) -> Tensor:
    """Logits (n, n_classes) in single precision at least, since losses are differences of large numbers."""
    if autocast is None:
        return network(images, *arch)
    with torch.autocast(images.device.type, autocast):
        return network(images, *arch).float()
