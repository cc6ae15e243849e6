"""The exact optima of models that are sums over stages on some scale, kept as plain data to be asked at any time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from search.exact import StageSums, is_sum
from search.front import Values
from search.objectives import Objective
from supernet.space import Genes, SearchSpace

__all__ = ["Optima", "Optimum"]

_SCALES: Mapping[str, tuple[Callable[[Values], Values], Callable[[Values], Values]]] = {
    "plain": (np.array, np.array),
    "log": (np.log, np.exp),
    "log error": (lambda y: -np.log1p(-y), lambda a: -np.expm1(-a)),
}
"""Growing functions, and their inverses, by which a model may become a sum."""


@dataclass(frozen=True)
class Optimum:
    """What a model says is best within a limit, and what it says no network exceeds."""

    genes: Genes
    """(n_genes,)."""
    values: Values
    """(2,) in the units of the objectives."""
    bound: float
    """In the unit of the first objective: no network of the space that keeps the limit is better, by the model."""


@dataclass(frozen=True)
class Optima:
    """The whole front of two models over a whole space, and a bound that does not come from it.

    Attributes:
        space: of the genes.
        maximize: (2,) per objective, whether more is better.
        scales: (2,) on which each model is a sum over stages.
        genes: (n, n_genes) the front, the best of the first objective first.
        values: (n, 2) what the models say of it.
        corners: (m, 2) of `StageSums.envelope`, on the scales.
    """

    space: SearchSpace
    maximize: tuple[bool, bool]
    scales: tuple[str, str]
    genes: Genes
    values: Values
    corners: Values

    @classmethod
    def of(cls, space: SearchSpace, objectives: Sequence[Objective], seed: int = 0) -> Self | None:
        """Of two objectives; None where one is no sum over stages on any scale, or a space that is too large to merge.

        A model that is only nearly a sum has no optimum here: a bound of its additive part would not bound it.
        """
        scales = [_scale_of(space, one, seed) for one in objectives]
        if len(scales) != 2 or scales[0] is None or scales[1] is None:
            return None
        scaled = [_scaled(one, scale) for one, scale in zip(objectives, scales, strict=True) if scale is not None]
        try:
            sums = StageSums.of(space, scaled, seed)
        except ValueError:  # too many settings, or relations between stages
            return None
        genes = sums.front().genes
        values = np.stack([one.values(genes) for one in objectives], axis=1)
        maximize = objectives[0].maximize, objectives[1].maximize
        return cls(space, maximize, (scales[0], scales[1]), genes, values, sums.envelope())

    def best(self, limit: float = np.inf, floor: float = np.inf) -> Optimum | None:
        """What is best of the first objective within a limit of the second; None where nothing keeps it.

        Args:
            limit: of the second objective's loss, which is its value, or minus that where more is better.
            floor: likewise the first objective's largest loss.
        """
        losses = self.values * np.where(self.maximize, -1.0, 1.0)
        kept = np.flatnonzero((losses[:, 1] <= limit) & (losses[:, 0] <= floor))
        if len(kept) == 0:
            return None
        row = kept[np.argmin(losses[kept, 0])]
        to, back = _SCALES[self.scales[1]][0], _SCALES[self.scales[0]][1]
        with np.errstate(all="ignore"):  # of no limit
            at = float(to(np.array(limit))) if not self.maximize[1] else -float(to(np.array(-limit)))
        at = at if np.isfinite(at) else np.inf
        least = float(np.interp(at, self.corners[:, 1], self.corners[:, 0]))
        bound = -float(back(np.array(-least))) if self.maximize[0] else float(back(np.array(least)))
        bound = min(bound, float(losses[row, 0]))  # rounding
        return Optimum(self.genes[row], self.values[row], -bound if self.maximize[0] else bound)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; genes as text, since there are many."""
        return {
            "space": self.space.to_dict(),
            "maximize": list(self.maximize),
            "scales": list(self.scales),
            "genes": [" ".join(map(str, row)) for row in self.genes.tolist()],
            "values": self.values.tolist(),
            "corners": self.corners.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        genes = np.array([row.split() for row in data["genes"]], dtype=np.int64)
        first, second = data["maximize"]
        one, other = data["scales"]
        values, corners = (np.array(data[name], dtype=float).reshape(-1, 2) for name in ("values", "corners"))
        return cls(SearchSpace.from_dict(data["space"]), (first, second), (one, other), genes, values, corners)


def _scale_of(space: SearchSpace, objective: Objective, seed: int) -> str | None:
    """The first scale on which an objective is a sum over stages."""
    for scale in _SCALES:
        try:
            if is_sum(space, _scaled(objective, scale), seed):
                return scale
        except ValueError:  # values that this scale does not have
            continue
    return None


def _scaled(objective: Objective, scale: str) -> Objective:
    to = _SCALES[scale][0]

    def evaluate(genes: Genes) -> Values:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is asked for
            return to(objective.values(genes))

    return Objective(objective.name, objective.unit, objective.maximize, evaluate)
