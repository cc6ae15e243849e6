"""Sampling evenly over a cost: uniform genes put about 1 % of all architectures into the top third of the MAC range."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genes, SearchSpace

__all__ = ["sample_in_bins"]

_DRAW = 4096
_ROUNDS = 64


def sample_in_bins(
    space: SearchSpace,
    n: int,
    rng: np.random.Generator,
    cost: Callable[[Genes], NDArray[np.float64] | Genes],
    n_bins: int = 10,
) -> Genes:
    """Canonical genes (n, n_genes), as many in every bin of equal width between the smallest and the largest cost.

    Architectures are drawn around a level of their own: for each, one probability in (0, 1) is drawn, and every gene is
    the number of successes of that probability among its higher choices, so all levels of cost come up (the idea of
    sampling by complexity of ShiftNAS, Zhang et al. 2023, without its generator). Bins that stay empty, since the space
    has nothing there, leave their share to the others.

    Args:
        cost: canonical genes to costs (n_archs,), such as ``supernet.macs``.
    """
    ends = np.asarray(cost(space.encode([space.smallest, space.largest])), dtype=float)
    edges = np.linspace(ends[0], ends[1], n_bins + 1)
    bins: list[list[NDArray[np.int64]]] = [[] for _ in range(n_bins)]
    wanted = -(-n // n_bins)
    for _ in range(_ROUNDS):
        level = rng.beta(0.7, 0.7, size=(_DRAW, 1))
        genes = space.canonical(rng.binomial(space.n_choices - 1, level))
        genes = genes[space.holds(genes)]
        place = np.clip(np.searchsorted(edges, np.asarray(cost(genes), dtype=float), side="right") - 1, 0, n_bins - 1)
        for b in range(n_bins):
            bins[b] += list(genes[place == b][: wanted - len(bins[b])])
        if all(len(found) >= wanted for found in bins):
            break
    filled = [found for found in bins if found]
    # One of each bin in turn, again from the start where a small bin is used up.
    turns = [found[turn % len(found)] for turn in range(-(-n // len(filled))) for found in filled]
    return np.array(turns[:n], dtype=np.int64).reshape(n, len(space.genes))
