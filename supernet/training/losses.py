"""Losses: what a sub-network learns from the labels, or a task's own targets, and from its teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from supernet.training.attention import AttentionRelation
from supernet.training.imitation import AlphaDivergence, Imitation, SoftLabels

if TYPE_CHECKING:  # recipes make losses to check themselves, and must not wait for torch
    from torch import Tensor

__all__ = [
    "LABEL_SMOOTHING",
    "OF_THE_STEP",
    "CrossEntropy",
    "Distillation",
    "InPlaceDistillation",
    "Loss",
    "OnlineTeacher",
    "OwnLoss",
    "Teacher",
]

LABEL_SMOOTHING = 0.1

Teacher = Literal["none", "frozen", "in place", "next larger", "average"]
"""Nobody; the largest network as it was before the first phase that asks for it; the largest network of the step; the
sub-network before it in the step; the largest network with the average of the weights (`Engine.ema`)."""

OnlineTeacher = Literal["in place", "next larger", "average"]
"""Those that learn along with their students (online distillation)."""

OF_THE_STEP: frozenset[Teacher] = frozenset(("in place", "next larger"))
"""Teachers that are trained in the same step, on the same images."""


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
            labels: (n,) integers, or (n, n_classes) probabilities as mixed images have; for a task of one's own
                whatever its targets are, (n, ...), and then logits are whatever its networks return.
            teacher: (n, n_classes) logits without gradient; None without one, and for the in-place teacher itself.
            progress: share of the phase that is done, in [0, 1).
        """
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """The labels only."""

    label_smoothing: float = LABEL_SMOOTHING

    @property
    def teacher(self) -> Teacher:
        return "none"

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        return _cross_entropy(logits, labels, self.label_smoothing)


@dataclass(frozen=True)
class OwnLoss:
    """The targets of a task of one's own only; in `Distillation` and `InPlaceDistillation` it stands for the labels.

    Attributes:
        name: says which it is, in checkpoints.
        function: of outputs (n, ...) and targets (n, ...): the mean over the batch, a scalar.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor] = field(compare=False)

    @property
    def teacher(self) -> Teacher:
        return "none"

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        return self.function(logits, labels)


@dataclass(frozen=True)
class Distillation:
    """The labels plus `weight` times the imitation of a teacher.

    With a frozen teacher this is how once-for-all networks shrink (Cai et al. 2020: weight 1, soft labels; the
    published alternative is `MeanSquare`). With the teacher in place it is how a supernet is fine-tuned (InstaTune,
    Sarah et al. 2023).
    """

    weight: float = 1.0
    label_smoothing: float = LABEL_SMOOTHING
    teacher: Literal["frozen", "in place"] = "frozen"
    imitation: Imitation = field(default_factory=SoftLabels)
    own: OwnLoss | None = None  # in the place of the cross-entropy with the labels
    relation: AttentionRelation | None = None  # on top, from the last attention of both; the engine adds it

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)
        if not self.weight > 0:
            raise ValueError(f"distillation weight {self.weight} is not above 0; without teacher use CrossEntropy")
        if isinstance(self.imitation, AlphaDivergence):
            if self.teacher == "frozen":
                raise ValueError(
                    "an α-divergence from a frozen teacher explodes on small sub-networks, which are far from it at "
                    "first; imitate soft labels, or take the teacher in place"
                )
            if self.weight != 1:
                raise ValueError(
                    f"distillation weight {self.weight:g} beside an α-divergence, whose safe range depends on its own "
                    "weight: set that, and leave this at 1"
                )

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        loss = _of_targets(self, logits, labels, progress)
        return loss if teacher is None else loss + self.weight * self.imitation(logits, teacher)


@dataclass(frozen=True)
class InPlaceDistillation:
    """The labels for the largest network of the step; for the others its logits, mixed with the labels at first.

    In-place distillation (Yu & Huang 2019; BigNAS, Yu et al. 2020) uses soft labels only, ``label_weight=(0, 0)``. In a
    short training from scratch the teacher is poor at first, and labels serve better: the loss of the others is
    w · labels + (1 − w) · imitation, with w going linearly from the first to the second number over the phase.

    The teacher may also be the sub-network before it in a step from large to small (progressive knowledge transfer:
    Scala, Zhang et al. 2024), or the largest network with the average of the weights over the last steps (mean teacher,
    Tarvainen & Valpola 2017), which then teaches the largest network, too.
    """

    label_weight: tuple[float, float] = (1.0, 0.0)
    label_smoothing: float = LABEL_SMOOTHING
    imitation: Imitation = field(default_factory=SoftLabels)
    teacher: OnlineTeacher = "in place"
    own: OwnLoss | None = None  # in the place of the cross-entropy with the labels
    relation: AttentionRelation | None = None  # on top, from the last attention of both; the engine adds it

    def __post_init__(self) -> None:
        _check_share("label smoothing", self.label_smoothing)
        for weight in self.label_weight:
            _check_share("label weight", weight)

    def __call__(self, logits: Tensor, labels: Tensor, teacher: Tensor | None, progress: float) -> Tensor:
        start, end = self.label_weight
        weight = 1.0 if teacher is None else start + (end - start) * progress
        # A term of weight 0 is not computed: it costs time, and 0 × infinity is not 0.
        hard = _of_targets(self, logits, labels, progress) if weight else None
        soft = self.imitation(logits, teacher) if teacher is not None and weight < 1 else None
        if hard is None or soft is None:
            loss = soft if hard is None else hard
            assert loss is not None
            return loss
        return weight * hard + (1 - weight) * soft


def _of_targets(loss: Distillation | InPlaceDistillation, logits: Tensor, labels: Tensor, progress: float) -> Tensor:
    if loss.own is not None:
        return loss.own(logits, labels, None, progress)
    return _cross_entropy(logits, labels, loss.label_smoothing)


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    from torch.nn import functional as F

    return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} {value} is not in [0, 1]")
