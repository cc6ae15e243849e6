"""How near a sub-network is to its teacher: the part of a distillation loss that does not see the labels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # as in losses.py
    from torch import Tensor

__all__ = ["AlphaDivergence", "Imitation", "MeanSquare", "SoftLabels", "alpha_divergence", "soft_cross_entropy"]

_SAFE_CLAMP, _SAFE_WEIGHT = 1.0, 0.3
_LARGEST_EXPONENT = 60.0  # a value that is not finite would be taken for a collapse


class Imitation(Protocol):
    """A scalar, the mean over the batch, of logits and a teacher's logits (n, n_classes); it has no state."""

    def __call__(self, logits: Tensor, teacher: Tensor, /) -> Tensor: ...


def soft_cross_entropy(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of logits (n, n_classes) against the softmax of the teacher's, at temperature 1; mean over n."""
    from torch.nn import functional as F

    return F.cross_entropy(logits, teacher.softmax(dim=1))


def alpha_divergence(logits: Tensor, teacher: Tensor, alpha: float, clamp: float = math.inf) -> Tensor:
    """α-divergence (n,) of the student's probabilities q (logits: (n, n_classes)) from the teacher's p.

    D_α(p‖q) = Σ q ((p/q)^α − 1) / (α (α − 1)), and KL(p‖q) for α = 1. Negative α punishes a student that is sure where
    its teacher is not (AlphaNet, Wang et al. 2021). The gradient is that of the paper, −(1/α) Σ q (p/q)^α ∇log q, with
    (p/q)^α limited to `clamp`; without a limit it is the gradient of D_α. For α = 1 nothing is limited. The value is
    never limited, so that one knows which of two divergences is the larger.

    Raises:
        ValueError: α = 0, where the formula has no value.
    """
    import torch

    if alpha == 0:
        raise ValueError("alpha 0 has no divergence of this form; take one of the other side, such as 0.01")
    log_p, log_q = teacher.log_softmax(dim=1), logits.log_softmax(dim=1)
    if alpha == 1:
        return (log_p.exp() * (log_p - log_q)).sum(dim=1)
    with torch.no_grad():
        q = log_q.exp()
        ratio = (alpha * (log_p - log_q)).clamp(max=_LARGEST_EXPONENT).exp()
        value = (q * (ratio - 1)).sum(dim=1) / (alpha * (alpha - 1))
    surrogate = -(q * ratio.clamp(max=clamp) * log_q).sum(dim=1) / alpha
    return value + surrogate - surrogate.detach()


@dataclass(frozen=True)
class SoftLabels:
    """The teacher's probabilities as labels, at temperature 1."""

    def __call__(self, logits: Tensor, teacher: Tensor, /) -> Tensor:
        return soft_cross_entropy(logits, teacher)


@dataclass(frozen=True)
class MeanSquare:
    """Mean square of the difference of logits, over the batch and the classes."""

    def __call__(self, logits: Tensor, teacher: Tensor, /) -> Tensor:
        from torch.nn import functional as F

        return F.mse_loss(logits, teacher)


@dataclass(frozen=True)
class AlphaDivergence:
    """The larger of two α-divergences, image by image (AlphaNet, Wang et al. 2021).

    Only settings that are safe: with the published limit 5 and weight 1 the gradients are up to five times as large as
    those of soft labels, and small batches collapse.

    Attributes:
        alphas: the two α.
        clamp: limit of (p/q)^α in the gradient.
        weight: factor of the divergence.
    """

    alphas: tuple[float, float] = (-1.0, 1.0)
    clamp: float = _SAFE_CLAMP
    weight: float = 1.0

    def __post_init__(self) -> None:
        if 0 in self.alphas:
            raise ValueError(f"alphas {list(self.alphas)} must not be 0")
        if not self.clamp > 0 or not self.weight > 0:
            raise ValueError(f"clamp {self.clamp} and weight {self.weight} of the α-divergence must be above 0")
        if self.clamp > _SAFE_CLAMP and self.weight > _SAFE_WEIGHT:
            raise ValueError(
                f"an α-divergence of clamp {self.clamp:g} and weight {self.weight:g} collapses with small batches; "
                f"take a clamp of at most {_SAFE_CLAMP:g}, or a weight of at most {_SAFE_WEIGHT:g}"
            )

    def __call__(self, logits: Tensor, teacher: Tensor, /) -> Tensor:
        import torch

        first, second = (alpha_divergence(logits, teacher, alpha, self.clamp) for alpha in self.alphas)
        return self.weight * torch.where(first.detach() > second.detach(), first, second).mean()
