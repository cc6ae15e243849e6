"""LINAS: a search on models between any two batches of evaluations."""

from __future__ import annotations

import numpy as np

from search.proposing import among
from search.running import run_search
from search.tactics.ranking import best_spread, leading
from search.tactics.remembering import Remembering
from search.tactics.surrogate import FEWEST_ROWS, Surrogate
from supernet.space import Genes, SearchSpace

__all__ = ["Linas"]


class Linas(Remembering):
    """A `Tactic`: LINAS (Cummings et al. 2022, DyNAS-T).

    The first population is random. Then models of all that was told are searched by NSGA-II, and the next population is
    what that found. Here, unlike as published: the last one is evaluated as well, since whatever is asked for is; what
    was evaluated already is not asked for again; the models do not see genes of absent blocks; of the front that was
    found those are taken that lie far apart; mutation moves genes of few choices; the search on the models begins with
    the front of what was told.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        calls: of the models between two batches.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, calls: int) -> None:
        super().__init__(space, n_objectives, seed, population, start=max(population, FEWEST_ROWS))
        self.calls = calls

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """Of what no other new architecture is foretold to dominate, those that lie far apart; then of the rest."""
        models = Surrogate(self.space).fit(self.genes, self.values, self.violations)
        known = np.concatenate([self.genes, self.pending])
        result = run_search(
            self.space,
            models.objectives(),
            constraints=models.constraints(),
            tactic="nsga2",
            budget=min(self.calls, self.space.size),
            seed=int(rng.integers(2**31)),
            initial=self.genes[leading(self.values, self.violations)],
        )
        new = ~among(result.genes, known)
        good = np.flatnonzero(new & result.feasible)
        left = good if len(good) else np.flatnonzero(new)
        return result.genes[left[best_spread(result.losses[left], n)]]
