"""Nested families: architectures of which each contains the one before, in every dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture, Settings
from supernet.space.search_space import Genes, SearchSpace

__all__ = ["NestedFamily", "best_chain", "nested_chain"]


@dataclass(frozen=True)
class NestedFamily:
    """Architectures in order of inclusion (SortedNet, Valipour et al. 2023).

    Every level has at least the blocks of the level before, and no setting is smaller, so its weights contain that
    level's. By inclusion and not by cost: of two architectures of which one is deeper and the other wider neither
    contains the other.
    """

    levels: tuple[Architecture, ...]

    def __post_init__(self) -> None:
        if len(self.levels) < 2:
            raise ValueError(f"a nested family of {len(self.levels)} level; give at least 2")
        for i in range(1, len(self.levels)):
            small, large = self.levels[i - 1], self.levels[i]
            if (what := _not_contained(small, large)) is not None:
                raise ValueError(f"level {i + 1} of the nested family does not contain level {i}: {what}")

    @classmethod
    def between(cls, space: SearchSpace, n_levels: int) -> Self:
        """`n_levels` levels from the smallest to the largest architecture, all dimensions growing together.

        Raises:
            ValueError: the space has too few choices for so many levels.
        """
        if n_levels < 2:
            raise ValueError(f"a nested family of {n_levels} level; give at least 2")
        genes = nested_chain(space)
        if len(genes) < n_levels:
            raise ValueError(f"the space has no {n_levels} nested levels of this kind; {len(genes)} are distinct")
        return cls(tuple(space.decode(genes[np.linspace(0, len(genes) - 1, n_levels).round().astype(int)])))


def nested_chain(space: SearchSpace) -> Genes:
    """Canonical genes (n_levels, n_genes) of all nested levels from the smallest to the largest architecture, in which
    all dimensions grow together."""
    # The next choice of every gene opens at a time of its own in (0, 1], so that one grows after the other.
    early = np.arange(len(space.genes)) / len(space.genes)
    opens = [(np.arange(1, n) - e) / max(n - 1, 1) for n, e in zip(space.n_choices, early, strict=True)]
    times = np.unique(np.concatenate([[0.0], *opens]))
    genes = space.canonical(np.stack([np.searchsorted(t, times, side="right") for t in opens], axis=1))
    genes = genes[space.holds(genes)]
    return genes[np.append(True, (genes[1:] != genes[:-1]).any(axis=1))]  # in an absent block nothing opens


def best_chain(
    genes: Genes, costs: NDArray[np.float64], values: NDArray[np.float64], n_levels: int, beyond: float = 1.25
) -> list[int]:
    """Of known architectures the `n_levels` that serve changing budgets best and of which each contains the one before.

    The mean value over budgets that lie evenly in their logarithm, from the lowest cost to `beyond` times the highest,
    where every budget gets the best level that it pays for: the area below the steps of the chain. It is a sum over
    neighbours, so the best of all chains is found exactly (dynamic programming over pairs).

    Args:
        genes: canonical (n_archs, n_genes), of what inclusion is about; the resolution, say, makes no weight larger.
        costs: (n_archs,) such as latencies, above 0.
        values: (n_archs,) of which more is better.

    Returns:
        Places in `genes`, the cheapest first.

    Raises:
        ValueError: no chain of these is so long; the message says how long the longest is.
    """
    if n_levels < 2:
        raise ValueError(f"a chain of {n_levels} level; give at least 2")
    order = np.argsort(costs, kind="stable")
    genes, values, spent = genes[order], values[order], np.log(costs[order])
    left = spent[-1] + np.log(beyond) - spent  # of the range of budgets, above each cost
    contains = (genes[:, None] <= genes[None]).all(axis=2) & (values[:, None] < values[None])
    contains &= spent[:, None] < spent[None]
    gains = np.where(contains, (values[None] - values[:, None]) * left[None], -np.inf)
    area = (values - values.min()) * left
    before: list[NDArray[np.int64]] = []
    for length in range(2, n_levels + 1):
        longer = area[:, None] + gains
        before.append(longer.argmax(axis=0))
        area = longer.max(axis=0)
        if not np.isfinite(area).any():
            raise ValueError(
                f"no {n_levels} of {len(genes)} architectures contain one another and are the better the more they "
                f"cost; the longest such chain has {length - 1}"
            )
    chain = [int(area.argmax())]
    for places in reversed(before):
        chain.append(int(places[chain[-1]]))
    return order[chain[::-1]].tolist()


def _not_contained(small: Architecture, large: Architecture) -> str | None:
    if len(small.stages) != len(large.stages):
        return f"{len(large.stages)} stages, not {len(small.stages)}"
    if small == large:
        return "they are the same"
    if (what := _smaller(small.settings, large.settings)) is not None:
        return what
    for s, (less, more) in enumerate(zip(small.stages, large.stages, strict=True)):
        if len(less) > len(more):
            return f"depth {len(more)} of stage {s + 1} is below {len(less)}"
        for b, (block, wider) in enumerate(zip(less, more, strict=False)):
            if (what := _smaller(block, wider)) is not None:
                return f"{what} in block {b + 1} of stage {s + 1}"
    return None


def _smaller(less: Settings, more: Settings) -> str | None:
    if less.keys() != more.keys():
        return f"settings {', '.join(more) or 'none'} instead of {', '.join(less) or 'none'}"
    return next(
        (f"{name} {more[name]:g} is below {value:g}" for name, value in less.items() if more[name] < value), None
    )
