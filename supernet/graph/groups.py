"""The dependency graph of a network: which parameters can only shrink together, and why others cannot."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet.graph.blocks import Run, runs_of
from supernet.graph.checking import check_module
from supernet.graph.kernels import Kernel, kernels_of
from supernet.graph.labels import Labelled, compact
from supernet.graph.tracing import Step, Tracer, plain_attention, tensors_in, watched

__all__ = ["DependencyGraph", "Group", "Quantity", "Spot", "as_inputs", "on_meta"]

Spot = tuple[str, int]
"""A parameter or buffer by name, and one of its axes."""


@dataclass(frozen=True, eq=False)
class Group:
    """Units of which any number can be left out, each with everything that belongs to it.

    `spots` says for every axis of a parameter that the group is on which positions (n_units, n_positions) belong to
    each unit; a unit of a head has as many positions in ``qkv.weight`` as queries, keys and values have channels.
    """

    index: int
    n_units: int
    spots: Mapping[Spot, NDArray[np.int64]]
    heads: bool
    mixed: tuple[str, ...]  # what sees all units at once, such as a layer norm

    @property
    def name(self) -> str:
        """The first weight whose outputs they are."""
        return min(self.spots, key=lambda spot: (not spot[0].endswith("weight"), spot[1], spot))[0]

    def kept(self, share: float, multiple_of: int) -> int:
        """How many units a share of them is: heads rounded up, channels to a multiple where they are wide enough."""
        if share >= 1:
            return self.n_units
        channels = min(where.shape[1] for where in self.spots.values())
        step = 1 if self.heads else multiple_of // math.gcd(multiple_of, channels)
        if self.heads or self.n_units < 2 * step:
            return max(1, math.ceil(self.n_units * share - 1e-9))
        return max(step, min(self.n_units, round(self.n_units * share / step) * step))

    @property
    def parameters(self) -> set[str]:
        """The names of everything that shrinks."""
        return {name for name, _ in self.spots}


@dataclass(frozen=True)
class Quantity:
    """A size as a function of how many units each group keeps: some positions stay, others belong to units."""

    fixed: int
    per_unit: tuple[tuple[int, int], ...]  # group and positions of each of its units

    def __call__(self, kept: Sequence[int]) -> int:
        return self.fixed + sum(kept[group] * n for group, n in self.per_unit)


@dataclass(frozen=True, eq=False)
class DependencyGraph:
    """What of a network can shrink (the minimal zero-invariant groups of OTO, Chen et al. 2023) and be left out.

    Attributes:
        groups: what can shrink.
        reasons: why an axis of a parameter cannot, by parameter and axis.
        runs: residual blocks in a row, of which the last ones can be left out.
        readers: the axis along which a layer's weight reads its input, by the weight's name.
        steps: what the network did when it was watched, in order.
        last_steps: the steps that made what it puts out.
        kernels: what could shrink to its centre, by the name of the weight; their sizes stand behind the groups' units.
    """

    groups: tuple[Group, ...]
    reasons: Mapping[Spot, str]
    runs: tuple[Run, ...]
    readers: Mapping[str, int]
    steps: tuple[Step, ...] = field(repr=False)
    inputs: tuple[Any, ...] = field(repr=False)
    device: str
    last_steps: tuple[int, ...] = field(repr=False)
    kernels: Mapping[str, Kernel] = field(repr=False)
    _group_of: NDArray[np.int64] = field(repr=False)

    @classmethod
    def of(cls, module: nn.Module, example_input: Any) -> DependencyGraph:
        """The graph of a network, which stays as it is.

        Args:
            module: any network; it is run in eval mode, without data where it can be (on torch's meta device).
            example_input: what it is called with: a tensor, a list, or a tuple of several arguments.

        Raises:
            ValueError: it cannot be watched; the message says why and what to do.
        """
        check_module(module)
        inputs = as_inputs(example_input)
        problem: Exception | None = None
        for device in ("meta", "cpu"):
            if device == "cpu" and any(p.is_meta for p in module.parameters()):
                break
            network = (on_meta(module) if device == "meta" else copy.deepcopy(module)).eval()
            tracer = Tracer(network)
            given = moved(inputs, device)
            tracer.begin(given)
            try:
                with torch.no_grad(), plain_attention(), watched(network, tracer.enter, tracer.leave), tracer:
                    outputs = network(*given)
            except Exception as error:  # whatever somebody's network may raise
                problem = error
                continue
            if not tensors_in(outputs):
                raise ValueError(f"a {type(module).__name__} gives no tensor for this input; it gives {type(outputs)}")
            tracer.finish(outputs)
            return cls._from(tracer, network, inputs, device)
        message = " ".join(str(problem).split())[:200]
        raise ValueError(
            f"a {type(module).__name__} cannot be run on the example input: {type(problem).__name__}: {message}; give "
            "example_input as it is called in eval mode"
        )

    @classmethod
    def _from(cls, tracer: Tracer, network: nn.Module, inputs: tuple[Any, ...], device: str) -> DependencyGraph:
        forest = tracer.forest
        reasons: dict[Spot, str] = {}
        spots: list[Spot] = []
        rows: list[NDArray[np.int64]] = []  # one column (root, spot, position) per position that belongs to a unit
        for name, labelled in tracer.parameters.items():
            for axis, row in _axes(labelled):
                roots = forest.find(row)
                where = np.flatnonzero(roots)
                if not len(where):
                    reasons[name, axis] = forest.reason(int(row[0]))
                rows.append(np.stack([roots[where], np.full(len(where), len(spots)), where]))
                spots.append((name, axis))
        heads, writers = _roots(tracer, tracer.headed), _roots(tracer, tracer.writers)
        mixed: dict[int, set[str]] = defaultdict(set)
        for layer, what in tracer.mixes:
            for root in np.unique(forest.find(layer)).tolist():
                mixed[root].add(what)
        groups: list[Group] = []
        group_of = np.full(len(forest), -1, dtype=np.int64)
        for key, (roots, positions) in _alike(rows).items():
            held = np.frombuffer(key, dtype=np.int64)
            if not writers.issuperset(roots) or len(roots) < 2:
                why = "all of it holds together as one unit" if writers.issuperset(roots) else "no layer writes it"
                for spot in np.unique(held).tolist():
                    reasons.setdefault(spots[spot], why)
                continue
            group_of[roots] = len(groups)
            table = np.stack(positions)
            of_spot = {spots[spot]: table[:, held == spot] for spot in np.unique(held).tolist()}
            what = sorted(set().union(*(mixed[root] for root in roots)))
            groups.append(Group(len(groups), len(roots), of_spot, any(r in heads for r in roots), tuple(what)))
        for step in tracer.steps:
            if step.factors is not None:
                step.factors = [forest.find(factor) for factor in step.factors]
        runs = runs_of(network, tracer)
        # Labels are roots from here on.
        readers = _readers(tracer)
        steps = tuple(tracer.steps)
        kernels = {kernel.name: kernel for kernel in kernels_of(network, steps, len(groups))}
        return cls(tuple(groups), reasons, runs, readers, steps, inputs, device, tracer.ends, kernels, group_of)

    @property
    def full(self) -> list[int]:
        """What the whole network keeps: units of every group, then sizes of kernels."""
        return [*(group.n_units for group in self.groups), *(kernel.size for kernel in self.kernels.values())]

    @property
    def batch(self) -> int:
        """Examples in the input."""
        first = next(iter(tensors_in(list(self.inputs))), None)
        return int(first.shape[0]) if first is not None and first.ndim in (2, 4, 5) else 1

    @cached_property
    def ends(self) -> frozenset[int]:
        """Groups that a layer writes which sees nothing but the input, or that one reads which writes the output."""
        found = set()
        for group in self.groups:
            for name, axis in group.spots:
                if name in self.readers and axis < 2:
                    other = self.reasons.get((name, 1 - axis), "")
                    if other in ("touches the output", "reads an input of fixed width"):
                        found.add(group.index)
        return frozenset(found)

    def axis(self, name: str, axis: int, size: int) -> Quantity:
        """The size of a parameter along an axis."""
        if axis >= 2 and name in self.kernels:
            return Quantity(0, ((self.kernels[name].index, 1),))
        per_unit = tuple((g.index, g.spots[name, axis].shape[1]) for g in self._on.get((name, axis), ()))
        return Quantity(size - sum(self.groups[g].n_units * n for g, n in per_unit), per_unit)

    @cached_property
    def _on(self) -> Mapping[Spot, list[Group]]:
        found: dict[Spot, list[Group]] = defaultdict(list)
        for group in self.groups:
            for spot in group.spots:
                found[spot].append(group)
        return found

    def quantity(self, row: NDArray[np.int64]) -> Quantity:
        """What becomes of a size whose positions have these labels."""
        groups = self._group_of[row]
        found = Counter(groups[groups >= 0].tolist())
        per_unit = tuple((g, n // self.groups[g].n_units) for g, n in sorted(found.items()))
        whole = all(n % self.groups[g].n_units == 0 for g, n in found.items())
        return Quantity(int((groups < 0).sum()), per_unit) if whole else Quantity(len(row), ())

    def sizes(self, labelled: Labelled) -> list[Quantity]:
        """The sizes of what an operation puts out, axis by axis."""
        found = [Quantity(size, ()) for size in labelled.shape]
        for layer in labelled.layers:
            axes = [axis for axis, size in enumerate(layer.shape) if size > 1]
            for axis in axes:
                found[axis] = self.quantity(layer.reshape(-1)) if len(axes) == 1 else found[axis]
        return found

    def __str__(self) -> str:
        lines = [
            f"{len(self.groups)} groups, {sum(len(run.names) for run in self.runs)} blocks in {len(self.runs)} rows"
        ]
        for group in self.groups:
            kind = "heads" if group.heads else "channels"
            seen = f"; seen by {', '.join(group.mixed)}" if group.mixed else ""
            lines.append(f"  {group.n_units} {kind}: {group.name} and {len(group.spots) - 1} more{seen}")
        for run in self.runs:
            where = run.container or "the network"
            lines.append(f"  {where}: {len(run.names)} blocks, {len(run.names) - run.n_fixed} can be left out")
        why = Counter(reason for reason in self.reasons.values())
        lines += [f"  fixed, {n} axes: {reason}" for reason, n in why.most_common()]
        return "\n".join(lines)


def as_inputs(example_input: Any) -> tuple[Any, ...]:
    """What a network is called with: a tuple is several arguments, anything else is one."""
    return example_input if isinstance(example_input, tuple) else (example_input,)


def moved(value: Any, device: str) -> Any:
    """The tensors in nested lists, tuples and dictionaries on another device."""
    if isinstance(value, Tensor):
        return torch.zeros_like(value, device=device) if device == "meta" or value.is_meta else value.to(device)
    if isinstance(value, dict):
        return {key: moved(v, device) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(v, device) for v in value)
    return value


def on_meta(module: nn.Module) -> nn.Module:
    """A copy without data, and without having copied the data first."""
    memo: dict[int, Any] = {}
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        empty = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
        del name
    return copy.deepcopy(module, memo)


def _axes(labelled: Labelled) -> Iterator[tuple[int, NDArray[np.int64]]]:
    for layer in labelled.layers:
        (axis,) = (axis for axis, size in enumerate(layer.shape) if size > 1)
        yield axis, layer.reshape(-1)


def _roots(tracer: Tracer, layers: Sequence[NDArray[np.int64]]) -> set[int]:
    found: set[int] = set()
    for layer in layers:
        found.update(np.unique(compact(tracer.forest, layer)).tolist())
    return found - {0}


def _alike(rows: Sequence[NDArray[np.int64]]) -> dict[bytes, tuple[list[int], list[NDArray[np.int64]]]]:
    """Roots that have as many positions in the same spots, with these positions, by the spots."""
    if not rows:
        return {}
    roots, spots, positions = np.concatenate(rows, axis=1)
    order = np.lexsort((positions, spots, roots))
    roots, spots, positions = roots[order], spots[order], positions[order]
    found: dict[bytes, tuple[list[int], list[NDArray[np.int64]]]] = {}
    edges = np.flatnonzero(np.diff(roots, prepend=-1)).tolist()
    for start, stop in pairwise([*edges, len(roots)]):
        same = found.setdefault(spots[start:stop].tobytes(), ([], []))
        same[0].append(int(roots[start]))
        same[1].append(positions[start:stop])
    return found


def _readers(tracer: Tracer) -> dict[str, int]:
    readers: dict[str, int] = {}
    for step in tracer.steps:
        if step.factors is None:
            continue
        for name in step.weights:
            for axis, row in _axes(tracer.parameters[name]):
                if len(tracer.parameters[name].shape) < 2:
                    continue
                if step.base is not None or np.array_equal(tracer.forest.find(row), step.factors[0]):
                    readers[name] = 0 if step.base is not None else axis
    return readers
