"""Random search: the control that every tactic has to beat."""

from __future__ import annotations

import numpy as np

from search.front import Values
from search.tactics.unseen import Unseen
from supernet.space import Genes, SearchSpace

__all__ = ["RandomTactic"]


class RandomTactic:
    """A `Tactic` that learns nothing: every architecture that is left is as good as any other.

    Args:
        space, seed: as for every tactic.
        population: architectures at a time.
    """

    def __init__(self, space: SearchSpace, seed: int, population: int) -> None:
        self.seed = seed
        self.population = population
        self._unseen = Unseen(space)
        self._n_told = 0

    def ask(self, n: int) -> Genes:
        """Up to `n` rows and the population."""
        rng = np.random.default_rng([self.seed, self._n_told, self._unseen.n_taken])
        return self._unseen.take_random(min(n, self.population), rng)

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`."""
        self._unseen.take(genes)
        self._n_told += len(genes)
