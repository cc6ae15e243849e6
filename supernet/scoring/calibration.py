"""BatchNorm statistics of a sub-network, and what it then scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from supernet.scoring.evaluating import evaluating
from supernet.scoring.images import resize
from supernet.task import CLASSIFICATION, Task

__all__ = ["Evaluation", "batch_norms", "batch_statistics", "evaluate", "evaluate_all", "recalibrate"]

_M = TypeVar("_M", bound=nn.Module)


@dataclass(frozen=True)
class Evaluation:
    """The metric and the mean loss of a task over `n_images`: top-1 accuracy in [0, 1] and cross-entropy in nats."""

    value: float
    loss: float
    n_images: int


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Every BatchNorm inside `module`, timm's `BatchNormAct2d` included."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


@contextmanager
def batch_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, BatchNorms normalise with the statistics of the batch and everything else (dropout) is in eval mode.

    The training flags are afterwards what they were.
    """
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    for norm in batch_norms(module):
        norm.training = True  # not norm.train(): the dropout that timm keeps inside its norms stays off
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training


@torch.no_grad()
def recalibrate(module: _M, batches: Iterable[Tensor | tuple[Tensor, Tensor]], resolution: int | None = None) -> _M:
    """Set the running statistics of every BatchNorm in `module` from images; in place, returns `module`.

    The published rule (Once-for-All, Cai et al. 2020): every BatchNorm normalises with the current batch's mean and
    biased variance, and its running statistics become the averages of these over the batches, weighted by images.
    Meant for what `Supernet.extract` returned; the statistics tracked while a supernet trains belong to no sub-network.

    Args:
        module: a network; without BatchNorm it is returned as it is.
        batches: images (n, channels, height, width), or pairs of images and labels, as in training.
        resolution: resize the images to it. Statistics of another resolution than the one used later are wrong.

    Raises:
        ValueError: there is no batch, or a batch leaves some BatchNorm a single value per channel. The running
            statistics are then what they were.
    """
    norms = [norm for norm in batch_norms(module) if norm.track_running_stats and norm.running_mean is not None]
    if not norms:
        return module
    averages = [_Average(norm) for norm in norms]
    try:
        with batch_statistics(module):
            for batch in batches:
                images = batch if isinstance(batch, Tensor) else batch[0]
                images = images.to(averages[0].mean.device)
                module(images if resolution is None else resize(images, resolution))
        if not any(average.n_images for average in averages):
            raise ValueError("recalibrating BatchNorm needs at least one batch of images; got none")
        for average in averages:
            average.keep()
    finally:
        for average in averages:
            average.close()
    return module


def evaluate(
    module: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    resolution: int | None = None,
    task: Task = CLASSIFICATION,
) -> Evaluation:
    """Score of `module` in eval mode on batches of images (n, channels, height, width) and labels (n,), or whatever
    targets (n, ...) the task has.

    Raises:
        ValueError: there is no image.
    """
    return evaluate_all([module], batches, resolution, task)[0]


@torch.inference_mode()
def evaluate_all(
    modules: Sequence[nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    resolution: int | None = None,
    task: Task = CLASSIFICATION,
) -> list[Evaluation]:
    """The same for several modules on one device, which share the reading and resizing of the images.

    Raises:
        ValueError: there is no image.
    """
    device = next((p.device for module in modules for p in module.parameters()), torch.device("cpu"))
    rows: list[list[Tensor]] = [[] for _ in modules]
    loss = torch.zeros(len(modules), device=device)
    n_images = 0
    with evaluating(*modules):
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            images = images if resolution is None else resize(images, resolution)
            n_images += len(labels)
            for number, module in enumerate(modules):
                outputs = module(images)
                rows[number].append(task.metric.rows(outputs, labels))
                loss[number] += task.loss(outputs, labels) * len(labels)
    if not n_images:
        raise ValueError("evaluating needs at least one batch of images; got none")
    values = [float(task.metric.summary(torch.cat(found).cpu())) for found in rows]
    return [Evaluation(value, of / n_images, n_images) for value, of in zip(values, loss.tolist(), strict=True)]


class _Average:
    """Image-weighted averages of what one BatchNorm sees, taken from the statistics that its forward computes anyway.

    With momentum 1 the running statistics after a batch are those of the batch; torch's variance is the unbiased one.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        assert norm.running_mean is not None and norm.running_var is not None
        self.norm, self.n_images = norm, 0
        self.mean, self.variance = torch.zeros_like(norm.running_mean), torch.zeros_like(norm.running_var)
        self._before = norm.momentum, {name: b.clone() for name, b in norm._buffers.items() if b is not None}
        norm.reset_running_stats()  # 0 × what was there must be 0, also where training has diverged
        norm.momentum = 1.0
        self._hooks = (norm.register_forward_pre_hook(self._check), norm.register_forward_hook(self._add))

    @staticmethod
    def _check(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        shape = tuple(inputs[0].shape)
        if inputs[0].numel() == shape[1]:
            raise ValueError(
                f"a calibration batch reaches a BatchNorm as {shape}: one value per channel has no variance; "
                "use batches of at least 2 images"
            )

    def _add(self, norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        n, values = inputs[0].shape[0], inputs[0].numel() // inputs[0].shape[1]
        self.n_images += n
        weight = n / self.n_images
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        self.mean.lerp_(self.norm.running_mean, weight)
        self.variance.lerp_(self.norm.running_var * ((values - 1) / values), weight)

    def keep(self) -> None:
        """Make the averages the running statistics; a BatchNorm that never ran keeps its own."""
        if self.n_images:
            self._before[1].update(running_mean=self.mean, running_var=self.variance)

    def close(self) -> None:
        """Undo what was changed for the measurement."""
        for hook in self._hooks:
            hook.remove()
        self.norm.momentum, buffers = self._before
        for name, value in buffers.items():
            getattr(self.norm, name).copy_(value)
