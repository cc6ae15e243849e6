"""Losses: what a sub-network learns from the labels and from its teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor
from torch.nn import functional as F

__all__ = ["CrossEntropy", "Distillation", "InPlaceDistillation", "Loss", "Teacher", "soft_cross_entropy"]

Teacher = Literal["none", "frozen", "in place"]
"""Nobody; the largest network as it was before the first phase that asks for it; the largest network of the step."""


class Loss(Protocol):
    """A training loss; it has no state."""

    @property
    def teacher(self) -> Teacher:
        """Whose logits the loss is given."""
        ...

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        """Mean loss over the batch, a scalar.

        Args:
            logits: (n, n_classes) of the sub-network.
            labels: (n,) integers.
            teacher: (n, n_classes) logits without gradient; None without one, and for the in-place teacher itself.
            progress: share of the phase that is done, in [0, 1).
        """
        ...


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of logits (n, n_classes) against the softmax of the teacher's, at temperature 1; mean over n."""
    return F.cross_entropy(logits, teacher.softmax(dim=1))


@dataclass(frozen=True)
class CrossEntropy:
    """The labels only."""

    label_smoothing: float = 0.1

    @property
    def teacher(self) -> Teacher:
        return "none"

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)


@dataclass(frozen=True)
class Distillation:
    """The labels plus `weight` times the soft labels of a frozen teacher (Once-for-All, Cai et al. 2020: weight 1)."""

    weight: float = 1.0
    label_smoothing: float = 0.1

    @property
    def teacher(self) -> Teacher:
        return "frozen"

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)
        if not self.weight > 0:
            raise ValueError(f"distillation weight {self.weight} is not above 0; without teacher use CrossEntropy")

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return loss if teacher is None else loss + self.weight * soft_cross_entropy(logits, teacher)


@dataclass(frozen=True)
class InPlaceDistillation:
    """The labels for the largest network of the step; for the others its logits, mixed with the labels at first.

    In-place distillation (Yu & Huang 2019; BigNAS, Yu et al. 2020) uses soft labels only, ``label_weight=(0, 0)``. In a
    short training from scratch the teacher is poor at first, and labels serve better: the loss of the others is
    w · labels + (1 − w) · soft labels, with w going linearly from the first to the second number over the phase.
    """

    label_weight: tuple[float, float] = (1.0, 0.0)
    label_smoothing: float = 0.1

    @property
    def teacher(self) -> Teacher:
        return "in place"

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)
        for weight in self.label_weight:
            _check_share("label weight", weight)

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        start, end = self.label_weight
        weight = 1.0 if teacher is None else start + (end - start) * progress
        # A term of weight 0 is not computed: it costs time, and 0 × infinity is not 0.
        hard = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing) if weight else None
        soft = soft_cross_entropy(logits, teacher) if teacher is not None and weight < 1 else None
        if hard is None or soft is None:
            loss = soft if hard is None else hard
            assert loss is not None
            return loss
        return weight * hard + (1 - weight) * soft


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not in [0, 1]")
