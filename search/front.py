"""Pareto fronts of architectures, and questions to them; needs nothing but numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture

__all__ = ["Axis", "Candidate", "ParetoFront", "Values", "hypervolume", "non_dominated"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Axis:
    """Something that is to be large or small: its name, its unit ("" for a pure number), and which of the two."""

    name: str
    unit: str
    maximize: bool

    def loss(self, values: Any) -> Any:
        """`values` such that smaller is better. No other place flips a sign."""
        return -values if self.maximize else values

    def __str__(self) -> str:
        return f"{self.name} [{self.unit}]" if self.unit else self.name


@dataclass(frozen=True)
class Candidate:
    """An architecture, its value on every axis, and whatever else is known of it (plain data)."""

    arch: Architecture
    values: Mapping[str, float]
    extras: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "id": self.arch.id,
            "arch": self.arch.to_dict(),
            "values": dict(self.values),
            "extras": dict(self.extras),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; ValueError where it is not of that form."""
        try:
            arch = Architecture.from_dict(data["arch"])
            values = {str(name): float(value) for name, value in data["values"].items()}
            return cls(arch, values, dict(data.get("extras", {})))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a candidate: {str(data)[:80]!r} ({error})") from error


class ParetoFront(Sequence[Candidate]):
    """The candidates that no other one dominates, ordered by the last axis, its best first.

    Args:
        candidates: any candidates; of those with one architecture the first counts.
        axes: what is compared, and in which direction. With axes (accuracy, latency) the fastest comes first.

    Raises:
        ValueError: no axis, an axis given twice, or a candidate without a finite value on an axis.
    """

    def __init__(self, candidates: Sequence[Candidate], axes: Sequence[Axis]) -> None:
        self.axes = tuple(Axis(axis.name, axis.unit, axis.maximize) for axis in axes)
        names = [axis.name for axis in self.axes]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"a front needs axes of different names; got {', '.join(names) or 'none'}")
        distinct = list({candidate.arch: candidate for candidate in reversed(candidates)}.values())[::-1]
        for candidate in distinct:
            for name in names:
                if not np.isfinite(candidate.values.get(name, np.nan)):
                    raise ValueError(f"candidate {candidate.arch.id} has no finite {name}; give it one or leave it out")
        losses = self._losses(distinct)
        kept = np.flatnonzero(non_dominated(losses))
        kept = kept[np.lexsort(losses[kept].T)]
        self._candidates = tuple(distinct[i] for i in kept)

    def __len__(self) -> int:
        return len(self._candidates)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates)

    def __getitem__(self, index: Any) -> Any:
        """The candidate at `index`, or a tuple of them for a slice."""
        return self._candidates[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParetoFront) and self.axes == other.axes and self._candidates == other._candidates

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ParetoFront of {len(self)} candidates over {', '.join(map(str, self.axes))}"

    def axis(self, name: str) -> Axis:
        """The axis of that name; ValueError if there is none."""
        for axis in self.axes:
            if axis.name == name:
                return axis
        raise ValueError(f"the front has no axis {name!r}; it has {', '.join(axis.name for axis in self.axes)}")

    def values(self, name: str) -> Values:
        """(n_candidates,) the values on one axis, in the order of the front."""
        name = self.axis(name).name
        return np.array([candidate.values[name] for candidate in self])

    def within(self, name: str, **budgets: float) -> list[Candidate]:
        """All candidates that hold every budget, those with the best value of axis `name` first; see `best`."""
        goal = self.axis(name)
        limits = [(self.axis(axis), budget) for axis, budget in budgets.items()]
        if len(self) == 0:
            raise ValueError("the front is empty; search first")

        def excess(candidate: Candidate) -> float:
            over = (axis.loss(candidate.values[axis.name]) - axis.loss(limit) for axis, limit in limits)
            sizes = (abs(limit) or 1.0 for _, limit in limits)
            return sum(max(amount / size, 0.0) for amount, size in zip(over, sizes, strict=True))

        holding = [candidate for candidate in self if excess(candidate) == 0]
        if not holding:
            nearest = min(self, key=excess)
            wanted = ", ".join(f"{axis.name} {'≥' if axis.maximize else '≤'} {limit:g}" for axis, limit in limits)
            reach = ", ".join(f"{axis.name} {nearest.values[axis.name]:g}" for axis, _ in limits)
            raise ValueError(f"no candidate fits {wanted}; the nearest the front comes is {reach}")
        return sorted(holding, key=lambda candidate: goal.loss(candidate.values[name]))

    def best(self, name: str, **budgets: float) -> Candidate:
        """The candidate best on axis `name` of those that hold every budget: ``best("accuracy", latency=0.015)``.

        A budget is an upper limit on an axis that is to be small, a lower limit on one that is to be large.

        Raises:
            ValueError: an unknown axis, an empty front, or no candidate that holds the budgets; the message says how
                near the front comes.
        """
        return self.within(name, **budgets)[0]

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """What the front dominates, up to a reference value on every axis, in the product of the axes' units, exactly.

        (Zitzler & Thiele 1998.) Candidates beyond the reference add nothing.
        """
        if reference.keys() != {axis.name for axis in self.axes}:
            names = ", ".join(axis.name for axis in self.axes)
            raise ValueError(f"reference of {', '.join(reference) or 'nothing'}; it needs a value of {names}")
        point = np.array([axis.loss(float(reference[axis.name])) for axis in self.axes])
        return hypervolume(self._losses(self._candidates), point)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "axes": [{"name": axis.name, "unit": axis.unit, "maximize": axis.maximize} for axis in self.axes],
            "candidates": [candidate.to_dict() for candidate in self],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; ValueError where it is not of that form."""
        try:
            axes = [Axis(str(a["name"]), str(a["unit"]), bool(a["maximize"])) for a in data["axes"]]
            return cls([Candidate.from_dict(candidate) for candidate in data["candidates"]], axes)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a front: {str(data)[:80]!r} ({error})") from error

    def _losses(self, candidates: Sequence[Candidate]) -> Values:
        """(n_candidates, n_axes), smaller is better."""
        rows = [[axis.loss(candidate.values[axis.name]) for axis in self.axes] for candidate in candidates]
        return np.array(rows, dtype=float).reshape(len(candidates), len(self.axes))


def non_dominated(losses: Values) -> NDArray[np.bool_]:
    """(n,) which rows of `losses` (n, n_axes), smaller is better, no other row dominates; equal rows all stay.

    Two axes take one sort (Kung et al. 1975), more axes one comparison with every row of the front.
    """
    kept = np.zeros(len(losses), dtype=bool)
    if len(losses) == 0:
        return kept
    order = np.lexsort(losses.T[::-1])
    ordered = losses[order]
    if losses.shape[1] <= 2:
        last = ordered[:, -1]
        fresh = np.ones(len(last), dtype=bool)
        fresh[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        better = np.ones(len(last), dtype=bool)
        better[1:] = last[1:] < np.minimum.accumulate(last)[:-1]
        if losses.shape[1] == 1:
            better[1:] = False
        # Equal rows are neighbours: the first of them decides for all.
        kept[order] = (better & fresh)[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
        return kept
    alive = np.arange(len(ordered))
    front = []
    while len(alive):  # in lexicographic order the first row left is never dominated
        row = ordered[alive[0]]
        rest = ordered[alive]
        same = (rest == row).all(axis=1)
        front.append(alive[same])
        alive = alive[~same & (rest < row).any(axis=1)]
    kept[order[np.concatenate(front)]] = True
    return kept


def hypervolume(losses: Values, reference: Values) -> float:
    """The volume between losses (n, n_axes), smaller is better, and the point `reference` (n_axes,)."""
    inside = losses[(losses < reference).all(axis=1)]
    if len(inside) == 0:
        return 0.0
    if losses.shape[1] == 2:
        points = inside[non_dominated(inside)]
        points = points[np.argsort(points[:, 0], kind="stable")]
        widths = np.append(points[1:, 0], reference[0]) - points[:, 0]
        return float(np.sum(widths * (reference[1] - points[:, 1])))
    from pymoo.indicators.hv import HV

    return float(HV(ref_point=reference)(inside))  # type: ignore[arg-type]
