"""What makes a channel, a head or a neuron important: one registry, for sorting before shrinking and for pruning.

A criterion looks at vectors of weights and, where it needs them, of gradients, one of each per unit, so it does not
know what a unit is. For sorting a unit's vector is what reads it, for pruning all that belongs to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from supernet.plugins import nearest

__all__ = [
    "BLENDED", "IMPORTANCES", "Criterion", "Importance", "blend", "gradients_of", "importance_named", "l1_importance",
    "scores_of",
]  # fmt: skip

Importance = Callable[[Tensor], Tensor]
"""Scores (n_inputs,) of the inputs of a projection weight (n_outputs, n_inputs, ...): what is high is kept longest."""


@dataclass(frozen=True)
class Criterion:
    """A criterion by name, which is an `Importance`, too.

    Attributes:
        name: in the registry.
        judge: scores (n_units,) from weights (n_units, n_values) and gradients of the same shape, or None.
        needs_gradients: whether it can do without.
        of_norms: whether the scales of norms that see the units are judged instead of what reads them.
    """

    name: str
    judge: Callable[[Tensor, Tensor | None], Tensor]
    needs_gradients: bool = False
    of_norms: bool = False

    def __call__(self, weight: Tensor) -> Tensor:
        """Scores (n_inputs,) of the inputs of a weight (n_outputs, n_inputs, ...), by its ``grad`` where one is needed.

        Raises:
            ValueError: the weight has no gradient, and the criterion needs one.
        """
        gradient = weight.grad if weight.is_leaf else None
        return self.units(_columns(weight.detach()), None if gradient is None else _columns(gradient))

    def units(self, weights: Tensor, gradients: Tensor | None) -> Tensor:
        """Scores (n_units,) from weights and gradients (n_units, n_values).

        Raises:
            ValueError: there are no gradients, and the criterion needs them.
        """
        if self.needs_gradients and gradients is None:
            raise ValueError(
                f"importance {self.name!r} needs gradients; sort inside `with gradients_of(network, batches):`, "
                "or take l1, l2 or norm_scale"
            )
        return self.judge(weights, gradients)


def _cosine(weights: Tensor, gradients: Tensor | None) -> Tensor:
    assert gradients is not None
    return nn.functional.cosine_similarity(weights, gradients, dim=1) + 1


def _first_order(weights: Tensor, gradients: Tensor | None) -> Tensor:
    assert gradients is not None
    return (weights * gradients).sum(dim=1).abs()


def _second_order(weights: Tensor, gradients: Tensor | None) -> Tensor:
    assert gradients is not None
    return (weights * gradients).sum(dim=1).square() / 2


def _per_value(weights: Tensor, _: Tensor | None) -> Tensor:
    return weights.norm(dim=1) / weights.shape[1]


def _blended(weights: Tensor, gradients: Tensor | None) -> Tensor:
    return blend([IMPORTANCES[name].units(weights, gradients) for name in BLENDED])


IMPORTANCES = {
    one.name: one
    for one in (
        Criterion("l1", lambda weights, _: weights.abs().sum(dim=1)),  # Once-for-All, Cai et al. 2020
        Criterion("l2", lambda weights, _: weights.norm(dim=1)),
        Criterion("l2_per_value", _per_value),
        Criterion("norm_scale", lambda weights, _: weights.abs().sum(dim=1), of_norms=True),  # Liu et al. 2017
        Criterion("cosine", _cosine, needs_gradients=True),
        Criterion("taylor1", _first_order, needs_gradients=True),  # Molchanov et al. 2019
        Criterion("taylor2", _second_order, needs_gradients=True),
        Criterion("blended", _blended, needs_gradients=True),  # HESSO, Chen et al. 2024
    )
}
"""By name: sums of absolute weights (the published order of Once-for-All), Euclidean norms, scales of the norms that
see a unit (network slimming), the angle between weights and gradients, Taylor's first and second order (what the loss
changes by without a unit), and the mean of norm, norm per value, cosine and both orders, each over its own length."""


l1_importance = IMPORTANCES["l1"]

BLENDED = ("l2", "l2_per_value", "cosine", "taylor1", "taylor2")
"""What is blended, in equal shares."""


def blend(scores: Sequence[Tensor]) -> Tensor:
    """The mean of scores (n_units,) by several criteria, each over its own length."""
    return sum((score / score.norm().clamp_min(1e-12) for score in scores), torch.zeros_like(scores[0])) / len(scores)


def importance_named(name: str) -> Criterion:
    """A criterion of the registry.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in IMPORTANCES:
        known = ", ".join(IMPORTANCES)
        raise ValueError(f"no importance {name!r}{nearest(name, list(IMPORTANCES))}; there are {known}")
    return IMPORTANCES[name]


def scores_of(importance: Importance, readers: Sequence[Tensor], norms: Sequence[Tensor | None] = ()) -> Tensor:
    """Scores (n_inputs,) of what some weights read, summed over these; or of what some norms scale (n_inputs,).

    Where a criterion judges norms and nothing normalises the units, it judges what reads them.
    """
    scales = [norm for norm in norms if norm is not None]
    if isinstance(importance, Criterion) and importance.of_norms and scales:
        return torch.stack([importance(scale[None]) for scale in scales]).sum(dim=0)
    return torch.stack([importance(reader) for reader in readers]).sum(dim=0)


@contextmanager
def gradients_of(
    network: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    loss: Callable[[Any, Tensor], Tensor] = nn.functional.cross_entropy,
    call: Callable[[Any], Any] | None = None,
) -> Iterator[None]:
    """Inside, the parameters of a network have the gradients of the mean loss over some batches, in eval mode.

    Args:
        network: whose parameters they are; a supernet goes with `call`.
        batches: inputs and labels.
        loss: of outputs and labels.
        call: what runs the network; default: the network itself.

    Raises:
        ValueError: there are no batches.
    """
    was_training, n = network.training, 0
    network.eval()
    network.zero_grad(set_to_none=True)
    try:
        for inputs, labels in batches:
            with torch.enable_grad():
                loss((call or network)(inputs), labels).backward()
            n += 1
        if not n:
            raise ValueError("there are no images to take gradients of")
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad /= n
        yield
    finally:
        network.zero_grad(set_to_none=True)
        network.train(was_training)


def _columns(weight: Tensor) -> Tensor:
    return weight.transpose(0, 1).flatten(1)
