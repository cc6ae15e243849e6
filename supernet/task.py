"""What networks are for: the metric that they are judged by and the loss that they learn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ACCURACY", "CLASSIFICATION", "Metric", "Task"]


def _mean(rows: Tensor) -> Tensor:
    return rows.double().mean()


@dataclass(frozen=True)
class Metric:
    """How good networks are on a split.

    Batches give rows, one for every example, and the rows of all examples give one number: so it is the same for any
    batch size, and may be what no mean over batches is, such as an intersection over union or a recall.

    Attributes:
        name: for people and files.
        unit: "" for a plain number.
        larger_is_better: the direction.
        rows: of outputs (n, ...) and targets (n, ...) of a batch: (n,) or (n, k).
        summary: of the rows (n_examples,) or (n_examples, k) of a split: a number; default the mean.
    """

    name: str
    unit: str
    larger_is_better: bool
    rows: Callable[[Tensor, Tensor], Tensor]
    summary: Callable[[Tensor], Tensor | float] = _mean

    def checked(self, value: float, of: str) -> float:
        """The value; ValueError where it is not finite, since nothing can be ranked by it. `of` says of what it is."""
        if not math.isfinite(value):
            raise ValueError(f"{self.name} of {of} is {value}; a metric must be finite for every network")
        return value


@dataclass(frozen=True)
class Task:
    """What networks are trained for.

    Attributes:
        metric: what they are judged by.
        loss: of outputs (n, ...) and targets (n, ...): the mean over the batch, a scalar. Training adds to it what is
            learned from a teacher.
        digest: names the code of the metric, so that no score is taken for that of another; "" for classification.
    """

    metric: Metric
    loss: Callable[[Tensor, Tensor], Tensor]
    digest: str = ""


def _is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) whether the largest of logits (n, n_classes) is that of the label (n,)."""
    return torch.eq(logits.argmax(1), labels)


ACCURACY = Metric("accuracy", "", True, _is_right)
"""Top-1 accuracy in [0, 1] of logits (n, n_classes) on labels (n,)."""

CLASSIFICATION = Task(ACCURACY, F.cross_entropy)
"""The task of a recipe that names no other."""
