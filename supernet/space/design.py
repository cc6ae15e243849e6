"""Which architectures to measure: every choice at every position, spread evenly over a cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from supernet.space.sampling import sample_in_bins
from supernet.space.search_space import Genes, SearchSpace

__all__ = ["covering_design", "covering_subset"]

_POOL = 4096  # candidates at a time
_PICKS = 256  # from one pool; then comes a new one
_ENUMERATED = 16_384  # architectures of a space that is gone through as a whole
_EMPTY_POOLS = 16  # pools without anything new, after which there is taken to be nothing left

Cost = Callable[[Genes], NDArray[np.float64] | Genes]


def covering_design(space: SearchSpace, n: int, cost: Cost, seed: int, n_bins: int = 10) -> Genes:
    """Distinct canonical genes (n, n_genes) to learn a cost model from: the smallest, the largest, then one by one
    whatever shows most of what is rare so far (fewer where the space has no more).

    Each pick is from the bin of cost with the fewest picks, of `n_bins` bins of equal width, and there the architecture
    with the most choices that no pick has yet, then with the rarest: a greedy covering array (Cohen et al. 1997, who
    call it AETG) of strength one, stratified by cost. A longer design begins with the shorter one, so a campaign can be
    extended without measuring anything twice.

    Args:
        cost: canonical genes to costs (n_archs,), such as ``supernet.macs``.
        seed: of the candidates; equal seeds give equal designs.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"a design of {n} architectures; at least 1 is needed")
    ends = space.encode([space.smallest, space.largest])
    lowest, highest = np.asarray(cost(ends), dtype=float)
    edges = np.linspace(lowest, highest, n_bins + 1)
    picks = _Picks(space, n_bins, np.random.default_rng([seed, 0]).permutation(n_bins))
    for row in ends:
        picks.add(row, _bins(row[None], cost, edges)[0])
    pools = empty = 0
    while len(picks) < n and empty < _EMPTY_POOLS and len(picks) < space.size:
        pools += 1
        pool = picks.new(_candidates(space, cost, n_bins, np.random.default_rng([seed, pools])))
        bins = _bins(pool, cost, edges)
        empty = 0 if len(pool) else empty + 1
        picks.take(min(_PICKS, n - len(picks), len(pool)), pool, bins)
    return np.array(picks.rows[:n], dtype=np.int64).reshape(-1, len(space.genes))


def covering_subset(space: SearchSpace, genes: Genes, n: int, cost: Cost, seed: int, n_bins: int = 10) -> Genes:
    """The same where only some architectures can be had: rows (n,) of `genes`, the cheapest and the dearest first.

    Args:
        genes: distinct canonical genes (n_archs, n_genes), such as those in a table of measurements.

    Raises:
        ValueError: `n` is below 1 or above the number of rows.
    """
    if not 1 <= n <= len(genes):
        raise ValueError(f"a design of {n} architectures out of {len(genes)}; at least 1 and at most all are possible")
    costs = np.asarray(cost(genes), dtype=float)
    bins = _bins(genes, cost, np.linspace(costs.min(), costs.max(), n_bins + 1))
    picks = _Picks(space, n_bins, np.random.default_rng([seed, 0]).permutation(n_bins))
    ends = [int(costs.argmin()), int(costs.argmax())][: min(n, 1 + (costs.min() < costs.max()))]
    for place in ends:
        picks.add(genes[place], bins[place])
        bins[place] = -1
    return np.array([*ends, *picks.take(n - len(ends), genes, bins)], dtype=np.int64)


def _candidates(space: SearchSpace, cost: Cost, n_bins: int, rng: np.random.Generator) -> Genes:
    if space.size <= _ENUMERATED:
        return rng.permutation(space.encode(list(space)))
    return sample_in_bins(space, _POOL, rng, cost, n_bins)


def _bins(genes: Genes, cost: Cost, edges: NDArray[np.float64]) -> Genes:
    """(n_archs,) the bin of each."""
    if not len(genes):
        return np.zeros(0, dtype=np.int64)
    place = np.searchsorted(edges, np.asarray(cost(genes), dtype=float), side="right") - 1
    return np.clip(place, 0, len(edges) - 2)


class _Picks:
    """What was picked, how often each choice occurs in it, and how many are in each bin."""

    def __init__(self, space: SearchSpace, n_bins: int, turns: Genes) -> None:
        self.rows: list[Genes] = []
        self._space = space
        self._known: set[bytes] = set()
        self._offsets = np.cumsum(space.n_choices) - space.n_choices
        self._counts = np.zeros(space.n_choices.sum(), dtype=np.int64)
        self._filled = np.zeros(n_bins, dtype=np.int64)
        self._turns = turns  # which of equally filled bins comes first

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: Genes, place: int) -> None:
        if row.tobytes() in self._known:  # a space of one architecture
            return
        self.rows.append(row)
        self._known.add(row.tobytes())
        self._filled[place] += 1
        self._counts[(row + self._offsets)[self._space.active(row[None])[0]]] += 1

    def new(self, pool: Genes) -> Genes:
        """The rows of the pool that were not picked, each once, in its order."""
        rows = {row.tobytes(): row for row in np.ascontiguousarray(pool)}
        found = [row for key, row in rows.items() if key not in self._known]
        return np.array(found, dtype=np.int64).reshape(-1, len(self._space.genes))

    def take(self, n: int, pool: Genes, bins: Genes) -> list[int]:
        """Add `n` rows of the pool one by one; returns which, and sets their bins to -1."""
        places = []
        for _ in range(n):
            places.append(place := self._best(pool, bins))
            self.add(pool[place], bins[place])
            bins[place] = -1
        return places

    def _best(self, pool: Genes, bins: Genes) -> int:
        """The row of the pool to pick next; rows in bin -1 are taken."""
        there = np.unique(bins[bins >= 0])
        emptiest = there[np.lexsort((self._turns[there], self._filled[there]))[0]]
        rows = np.flatnonzero(bins == emptiest)
        active = self._space.active(pool[rows])
        counts = np.where(active, self._counts[pool[rows] + self._offsets], np.iinfo(np.int64).max)
        missing = (counts == 0).sum(axis=1)
        # The mean, not the sum: else the deepest architectures would always win.
        rarity = (active / (1.0 + counts)).sum(axis=1) / active.sum(axis=1)
        return int(rows[np.lexsort((-rarity, -missing))[0]])
