"""The units of a traced supernet that can be driven to zero and removed without changing what the network computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from supernet.families.traced import TracedSupernet
from supernet.graph.costs import terms_of
from supernet.graph.groups import Group
from supernet.networks.counting import COUNTS
from supernet.networks.importance import BLENDED, IMPORTANCES, blend, importance_named

__all__ = ["Cost", "Units", "share_of_macs"]

_TOO_MUCH = 0.02  # of the whole, below what is wanted

Cost = Callable[[Sequence[int]], float]
"""What a network costs that keeps so many units of every group of the graph: MACs, or a predicted latency."""


@dataclass(frozen=True, eq=False)
class UnitSet:
    """Units that are chosen by number in all of some groups, since these are tied."""

    groups: tuple[Group, ...]
    first: int  # number of the first unit, of all units
    step: int  # units that go together, for the hardware

    @property
    def n(self) -> int:
        """Units."""
        return self.groups[0].n_units


class Units:
    """All units of a supernet's largest network that can go (minimal zero-invariant groups; OTO, Chen et al. 2023).

    Units have numbers from 0 to `n`, set after set. What is set to zero of a unit is what writes it: rows of weights,
    biases, scales and shifts of norms; what reads it then reads zeros. Units that a layer normalises together are left
    alone, since the others change without one.

    Args:
        supernet: a traced one (``elastic(model, family="traced")``), whose largest network is trained.
        outer: whether channels that residual connections hold together can go, too.

    Raises:
        ValueError: nothing can go.
    """

    def __init__(self, supernet: TracedSupernet, outer: bool = False) -> None:
        self.supernet = supernet
        together: dict[int, list[Group]] = {}
        for dial in supernet.dials:
            if dial.role in ("outer_width", "embedding") and not outer:
                continue
            for group in dial.groups:
                together.setdefault(dial.leaders.get(group.index, group).index, []).append(group)
        self.sets: list[UnitSet] = []
        self.n = 0
        for groups in together.values():
            if any(group.mixed for group in groups) or len({group.n_units for group in groups}) > 1:
                continue
            step = max(_step(group, supernet.multiple_of) for group in groups)
            if groups[0].n_units > step:
                self.sets.append(UnitSet(tuple(groups), self.n, step))
                self.n += groups[0].n_units
        if not self.sets:
            raise ValueError(
                f"nothing of a {type(supernet._template[0]).__name__} can be driven to zero: its units are normalised "
                "together, or hold together as one"
            )
        self._writers: list[tuple[str, int, Tensor, Tensor]] = []  # parameter, axis, positions, units
        parameters = dict(supernet.named_parameters())
        for one in self.sets:
            for group in one.groups:
                for (name, axis), where in group.spots.items():
                    if name in parameters and supernet.graph.readers.get(name) != axis:
                        positions = torch.from_numpy(where)
                        numbers = one.first + torch.arange(one.n)[:, None].expand_as(positions)
                        self._writers.append((name, axis, positions.flatten(), numbers.flatten()))
        self.names = sorted({name for name, *_ in self._writers})
        """The parameters that units are written by."""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The same, by name."""
        known = dict(self.supernet.named_parameters())
        return {name: known[name] for name in self.names}

    @property
    def zero(self) -> Tensor:
        """(n,) bool, units that are written by nothing but zeros: what a training has pruned."""
        return self.sums(self.parameters) == 0

    # -- looking ------------------------------------------------------------------------------------------------------

    def sums(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n,) sums over what writes each unit of the products of two tensors (default: squares) of each parameter."""
        found = torch.zeros(self.n)
        for name, axis, positions, numbers in self._writers:
            product = tensors[name] * (tensors if others is None else others)[name]
            rows = product.detach().movedim(axis, 0).reshape(tensors[name].shape[axis], -1).sum(1).cpu()
            found.index_add_(0, numbers, rows[positions])
        return found

    def scores(self, importance: str, gradients: Mapping[str, Tensor] | None = None) -> Tensor:
        """(n,) importance of the units by a criterion of the registry; "blended" compares units of all sets.

        Raises:
            ValueError: there is no such criterion, or it needs gradients and there are none.
        """
        if importance == "blended":
            return blend([self.scores(name, gradients) for name in BLENDED])
        criterion = importance_named(importance)
        parts = []
        for one in self.sets:
            weights, slopes = self._matrix(one, self.parameters), None
            if gradients is not None:
                slopes = self._matrix(one, gradients)
            if criterion is IMPORTANCES["norm_scale"]:
                weights = self._matrix(one, self.parameters, norms=True)
            parts.append(criterion.units(weights, slopes))
        return torch.cat(parts)

    def _matrix(self, one: UnitSet, tensors: Mapping[str, Tensor], norms: bool = False) -> Tensor:
        """(n_units, n_values) all that writes the units of a set; or the scales of their norms, where there are any."""
        columns, scales = [], []
        for group in one.groups:
            for (name, axis), where in group.spots.items():
                if name in tensors and self.supernet.graph.readers.get(name) != axis:
                    found = tensors[name].detach().movedim(axis, 0)[torch.from_numpy(where)].flatten(1).cpu()
                    columns.append(found)
                    if name.endswith("weight") and tensors[name].ndim == 1:
                        scales.append(found)
        return torch.cat(scales if norms and scales else columns, dim=1)

    # -- choosing -----------------------------------------------------------------------------------------------------

    def least(self, scores: Tensor, gone: Tensor, missing: Callable[[Tensor], float]) -> Tensor:
        """(n,) of units that are gone already and of the least important ones until that is enough.

        Whole steps go, and of every set at least one step stays. A step that would take far more than is wanted, such
        as one of a wide early layer at the end, is left for the case that nothing else is enough.

        Args:
            scores: (n,) of importance.
            gone: (n,) bool.
            missing: the share of the whole that has still to go when these units (n,) are gone; enough is 0 or less.
        """
        chunks: list[tuple[float, list[int]]] = []
        for one in self.sets:
            numbers = range(one.first, one.first + one.n)
            left = sorted((i for i in numbers if not gone[i]), key=lambda i: float(scores[i]))
            for start in range(0, len(left) - one.step, one.step):
                chunk = left[start : start + one.step]
                if len(left) - start - len(chunk) >= one.step:
                    chunks.append((float(scores[chunk].mean()), chunk))
        found = gone.clone()
        waiting = [chunk for _, chunk in sorted(chunks, key=lambda item: item[0])]
        for most in (_TOO_MUCH, float("inf")):
            passed = []
            for chunk in waiting:
                if missing(found) <= 0:
                    return found
                found[chunk] = True
                if missing(found) < -most:
                    found[chunk] = False
                    passed.append(chunk)
            waiting = passed
        return found

    def kept(self, gone: Tensor) -> list[int]:
        """How many units of every group of the graph stay."""
        kept = [group.n_units for group in self.supernet.graph.groups]
        for one in self.sets:
            for group in one.groups:
                kept[group.index] = one.n - int(gone[one.first : one.first + one.n].sum())
        return kept

    # -- acting -------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def scale(self, tensors: Mapping[str, Tensor], factors: Tensor) -> None:
        """Multiply what writes the units by factors (n,), in place; 0 sets to zero, whatever was there."""
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
        """Add the other tensors times factors (n,) of the units to what writes them, in place."""
        for name, axis, positions, numbers in self._writers:
            tensor = tensors[name]
            row = torch.zeros(tensor.shape[axis])
            row[positions] = factors[numbers]
            row = row.to(tensor.device, tensor.dtype).view([-1 if a == axis else 1 for a in range(tensor.ndim)])
            tensor.add_(others[name] * row)

    def without(self, gone: Tensor) -> Any:
        """The network without the units that are gone: an ordinary module of its class, with weights of its own.

        The supernet stays as it is. Where what writes these units is zero, both compute the same.
        """
        network = copy.deepcopy(self.supernet)
        tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        with torch.no_grad():
            for one in self.sets:
                order = torch.argsort(gone[one.first : one.first + one.n].int(), stable=True)
                for group in one.groups:
                    for (name, axis), where in group.spots.items():
                        index = torch.arange(tensors[name].shape[axis])
                        index[torch.from_numpy(where).flatten()] = torch.from_numpy(where)[order].flatten()
                        tensors[name].copy_(tensors[name].index_select(axis, index.to(tensors[name].device)))
        return network.without(self.kept(gone))


def share_of_macs(supernet: TracedSupernet) -> Cost:
    """The share of the largest network's multiply-accumulates that a network has."""
    macs = COUNTS.index("macs")
    terms = [term for term in terms_of(supernet.graph, supernet._template[0]) if macs in term.counts]
    whole = sum(term([group.n_units for group in supernet.graph.groups]) for term in terms)
    return lambda kept: sum(term(kept) for term in terms) / whole


def _step(group: Group, multiple_of: int) -> int:
    """Units of a group that go together so that widths stay multiples."""
    channels = min(where.shape[1] for where in group.spots.values())
    step = 1 if group.heads else multiple_of // math.gcd(multiple_of, channels)
    return step if group.n_units >= 2 * step else 1
