"""Sampling evenly over a cost: uniform genes put about 1 % of all architectures into the top third of the MAC range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet.space.search_space import Genes, SearchSpace

__all__ = ["Cost", "CostBins", "bins_of", "sample_in_bins"]

_DRAW = 4096
_ROUNDS = 64

Cost = Callable[[Genes], NDArray[np.float64] | Genes]
"""Canonical genes (n_archs, n_genes) to costs (n_archs,), such as ``supernet.macs``."""


@dataclass(frozen=True, eq=False)
class CostBins:
    """Architectures by cost, in bins of equal width between the smallest and the largest.

    Attributes:
        edges: (n_bins + 1,) costs at which bins begin and end.
        pools: per bin canonical genes (n_found, n_genes); none where the space has nothing, or nothing was found.
        natural: (n_bins,) share of each bin among uniformly drawn genes.
    """

    edges: NDArray[np.float64]
    pools: tuple[Genes, ...]
    natural: NDArray[np.float64]

    @classmethod
    def drawn(cls, space: SearchSpace, rng: np.random.Generator, cost: Cost, n_bins: int, per_bin: int) -> CostBins:
        """Bins with up to `per_bin` architectures each, drawn as `sample_in_bins` does."""
        edges = _edges(space, cost, n_bins)
        pools = tuple(_fill(space, rng, cost, edges, per_bin))
        places = bins_of(cost(space.sample_genes(_DRAW, rng)), edges)
        natural = np.bincount(places, minlength=n_bins) * np.array([len(pool) > 0 for pool in pools])
        return cls(edges, pools, natural / max(natural.sum(), 1))

    @property
    def filled(self) -> NDArray[np.bool_]:
        """(n_bins,) whether a bin has any architecture."""
        return np.array([len(pool) > 0 for pool in self.pools])

    def draw(self, places: NDArray[np.int64], rng: np.random.Generator) -> Genes:
        """Canonical genes (n, n_genes): one architecture of each of the given bins (n,), none of them empty."""
        return np.array([self.pools[place][rng.integers(len(self.pools[place]))] for place in places], dtype=np.int64)


def sample_in_bins(space: SearchSpace, n: int, rng: np.random.Generator, cost: Cost, n_bins: int = 10) -> Genes:
    """Canonical genes (n, n_genes), as many in every bin of equal width between the smallest and the largest cost.

    Architectures are drawn around a level of their own: for each, one probability in (0, 1) is drawn, and every gene is
    the number of successes of that probability among its higher choices, so all levels of cost come up (the idea of
    sampling by complexity of ShiftNAS, Zhang et al. 2023, without its generator). Bins that stay empty, since the space
    has nothing there, leave their share to the others.

    Args:
        cost: canonical genes to costs (n_archs,), such as ``supernet.macs``.
    """
    filled = [found for found in _fill(space, rng, cost, _edges(space, cost, n_bins), -(-n // n_bins)) if len(found)]
    # One of each bin in turn, again from the start where a small bin is used up.
    turns = [found[turn % len(found)] for turn in range(-(-n // len(filled))) for found in filled]
    return np.array(turns[:n], dtype=np.int64).reshape(n, len(space.genes))


def _edges(space: SearchSpace, cost: Cost, n_bins: int) -> NDArray[np.float64]:
    ends = np.asarray(cost(space.encode([space.smallest, space.largest])), dtype=float)
    return np.linspace(ends[0], ends[1], n_bins + 1)


def bins_of(costs: NDArray[np.float64] | Genes, edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin (n_archs,) of every cost (n_archs,); what lies outside the edges belongs to the first or the last."""
    return np.clip(np.searchsorted(edges, costs, side="right") - 1, 0, len(edges) - 2)


def _fill(
    space: SearchSpace, rng: np.random.Generator, cost: Cost, edges: NDArray[np.float64], wanted: int
) -> list[Genes]:
    """Per bin up to `wanted` canonical genes (n_found, n_genes)."""
    n_bins = len(edges) - 1
    bins = [np.zeros((0, len(space.genes)), dtype=np.int64)] * n_bins
    for _ in range(_ROUNDS):
        level = rng.beta(0.7, 0.7, size=(_DRAW, 1))
        genes = space.canonical(rng.binomial(space.n_choices - 1, level))
        genes = genes[space.holds(genes)]
        place = bins_of(cost(genes), edges)
        bins = [np.concatenate([found, genes[place == b][: wanted - len(found)]]) for b, found in enumerate(bins)]
        if all(len(found) >= wanted for found in bins):
            break
    return bins
