"""Objectives and constraints: named batch callables on genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search.front import Axis, Values
from supernet.space import Genes

__all__ = ["Constraint", "Objective"]


@dataclass(frozen=True)
class Objective(Axis):
    """An axis that can be computed: `evaluate` takes canonical genes (n_archs, n_genes) to values (n_archs,)."""

    evaluate: Callable[[Genes], Values]

    def values(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of the objective; ValueError where a value is missing or not finite."""
        return _checked(self.name, self.evaluate(genes), genes)


@dataclass(frozen=True)
class Constraint:
    """Limits on something that need not be an objective; `evaluate` as for an objective, the limits in its unit."""

    name: str
    evaluate: Callable[[Genes], Values]
    upper: float | None = None
    lower: float | None = None

    def __post_init__(self) -> None:
        if self.upper is None and self.lower is None:
            raise ValueError(f"constraint {self.name} has no limit; give `upper`, `lower` or both")
        if self.upper is not None and self.lower is not None and self.lower > self.upper:
            raise ValueError(f"constraint {self.name}: lower {self.lower:g} is above upper {self.upper:g}")

    def violation(self, genes: Genes) -> Values:
        """(n_archs,) how far outside the limits, as a share of the limit; at most 0 where they hold."""
        values = _checked(self.name, self.evaluate(genes), genes)
        beyond = []
        if self.upper is not None:
            beyond.append((values - self.upper) / (abs(self.upper) or 1.0))
        if self.lower is not None:
            beyond.append((self.lower - values) / (abs(self.lower) or 1.0))
        return np.maximum.reduce(beyond)


def _checked(name: str, values: Values, genes: Genes) -> Values:
    values = np.asarray(values, dtype=float)
    if values.shape != (len(genes),):
        raise ValueError(
            f"{name} gave values of shape {values.shape} for {len(genes)} architectures; one each is needed"
        )
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{name} is {values[row]} for genes {genes[row].tolist()}; every value must be finite")
    return values
