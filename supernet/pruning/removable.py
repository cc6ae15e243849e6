"""What can be driven to zero while a network trains and cut out afterwards: its numbers, scores, sums and factors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from supernet.families.traced import TracedSupernet
from supernet.networks.importance import BLENDED, IMPORTANCES, blend, importance_named
from supernet.pruning.costs import Cost

__all__ = ["Removable"]

Writer = tuple[str, int, Tensor, Tensor]
"""A parameter, one of its axes, positions along it and the number of what each belongs to."""


class Removable(ABC):
    """Units or whole operators of a supernet's largest network, by numbers from 0 to `n`.

    Attributes:
        supernet: the network.
        n: how many there are.
        n_sets: how many sets they fall into, of which each keeps something.
        names: the parameters that they are written by.
    """

    supernet: TracedSupernet
    n: int
    n_sets: int

    def __init__(self, supernet: TracedSupernet, writers: list[Writer]) -> None:
        self.supernet, self._writers = supernet, writers
        self.names = sorted({name for name, *_ in writers})

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The same, by name."""
        known = dict(self.supernet.named_parameters())
        return {name: known[name] for name in self.names}

    @property
    def zero(self) -> Tensor:
        """(n,) bool, what is written by nothing but zeros: what a training has pruned."""
        return self.sums(self.parameters) == 0

    # -- looking ------------------------------------------------------------------------------------------------------

    def sums(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n,) sums over what writes each of the products of two tensors (default: squares) of each parameter."""
        found = torch.zeros(self.n)
        for name, axis, positions, numbers in self._writers:
            product = tensors[name] * (tensors if others is None else others)[name]
            rows = product.detach().movedim(axis, 0).reshape(tensors[name].shape[axis], -1).sum(1).cpu()
            found.index_add_(0, numbers, rows[positions])
        return found

    def scores(self, importance: str, gradients: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n,) importance by a criterion of the registry; "blended" compares units of all sets.

        Raises:
            ValueError: there is no such criterion, or it needs gradients and there are none.
        """
        if importance == "blended":
            return blend([self.scores(name, gradients) for name in BLENDED])
        criterion = importance_named(importance)
        weights = self._matrices(self.parameters, criterion is IMPORTANCES["norm_scale"])
        slopes = [None] * len(weights) if gradients is None else self._matrices(gradients, False)
        return torch.cat([criterion.units(*pair) for pair in zip(weights, slopes, strict=True)])

    @abstractmethod
    def _matrices(self, tensors: Mapping[str, Tensor], norms: bool) -> list[Tensor]:
        """(n_units, n_values) all that writes the units of each set; or the scales of their norms, where there are."""

    def priced(self, cost: Cost, gone: Tensor) -> float:
        """What the network costs without these (n,)."""
        return float(cost(*self.left(gone)))

    @abstractmethod
    def left(self, gone: Tensor) -> tuple[list[int], dict[str, float]]:
        """How many units of every group of the graph stay, and which modules do not (0), as a `Cost` takes them."""

    @abstractmethod
    def least(self, scores: Tensor, gone: Tensor, missing: Callable[[Tensor], float]) -> Tensor:
        """(n,) of what is gone already and of the least important of the rest until that is enough.

        Args:
            scores: (n,) of importance.
            gone: (n,) bool.
            missing: the share of the whole that has still to go when these (n,) are gone; enough is 0 or less.
        """

    # -- acting -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def scale(self, tensors: Mapping[str, Tensor], factors: Tensor) -> None:
        """Multiply what writes each by factors (n,), in place; 0 sets to zero, whatever was there."""
        for name, axis, positions, numbers in self._writers:
            tensor = tensors[name]
            row = torch.ones(tensor.shape[axis])
            row[positions] = factors[numbers]
            row = row.to(tensor.device, tensor.dtype).view([-1 if a == axis else 1 for a in range(tensor.ndim)])
            tensor.mul_(row)
            if bool((factors == 0).any()):
                tensor.masked_fill_(row == 0, 0)  # 0 times what is not finite is not 0

    @torch.no_grad()
    def add(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor], factors: Tensor) -> None:
        """Add the other tensors times factors (n,) to what writes each, in place."""
        for name, axis, positions, numbers in self._writers:
            tensor = tensors[name]
            row = torch.zeros(tensor.shape[axis])
            row[positions] = factors[numbers]
            row = row.to(tensor.device, tensor.dtype).view([-1 if a == axis else 1 for a in range(tensor.ndim)])
            tensor.add_(others[name] * row)

    @abstractmethod
    def without(self, gone: Tensor) -> Any:
        """The network without what is gone: an ordinary module of its class, with weights of its own.

        The supernet stays as it is. Where what writes these is zero, both compute the same.
        """
