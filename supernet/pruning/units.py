"""The units of a traced supernet that can be driven to zero and removed without changing what the network computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supernet.families.traced import TracedSupernet
from supernet.graph.groups import Group
from supernet.pruning.removable import Removable, Writer

__all__ = ["UnitSet", "Units"]

_TOO_MUCH = 0.02  # of the whole, below what is wanted


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


class Units(Removable):
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
        self.n_sets = len(self.sets)
        writers: list[Writer] = []
        parameters = dict(supernet.named_parameters())
        for one in self.sets:
            for group in one.groups:
                for (name, axis), where in group.spots.items():
                    if name in parameters and supernet.graph.readers.get(name) != axis:
                        positions = torch.from_numpy(where)
                        numbers = one.first + torch.arange(one.n)[:, None].expand_as(positions)
                        writers.append((name, axis, positions.flatten(), numbers.flatten()))
        super().__init__(supernet, writers)

    # -- looking ------------------------------------------------------------------------------------------------------

    def _matrices(self, tensors: Mapping[str, Tensor], norms: bool) -> list[Tensor]:
        return [self._matrix(one, tensors, norms) for one in self.sets]

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
        """See `Removable`.

        Whole steps go, and of every set at least one step stays. A step that would take far more than is wanted, such
        as one of a wide early layer at the end, is left for the case that nothing else is enough.
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

    def left(self, gone: Tensor) -> tuple[list[int], dict[str, float]]:
        """See `Removable`."""
        return self.kept(gone), {}

    def kept(self, gone: Tensor) -> list[int]:
        """How many units of every group of the graph stay."""
        kept = self.supernet.graph.full
        for one in self.sets:
            for group in one.groups:
                kept[group.index] = one.n - int(gone[one.first : one.first + one.n].sum())
        return kept

    def without(self, gone: Tensor) -> Any:
        """See `Removable`."""
        return self.sorted(gone).without(self.kept(gone))

    def sorted(self, gone: Tensor) -> Any:
        """A copy of the supernet in which the units that are gone are the last ones of their groups."""
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
        return network


def _step(group: Group, multiple_of: int) -> int:
    """Units of a group that go together so that widths stay multiples."""
    channels = min(where.shape[1] for where in group.spots.values())
    step = 1 if group.heads else multiple_of // math.gcd(multiple_of, channels)
    return step if group.n_units >= 2 * step else 1
