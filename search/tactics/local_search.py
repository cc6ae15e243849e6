"""Local search: what differs in one gene from the best so far."""

from __future__ import annotations

import numpy as np

from search.proposing import one_gene_neighbours
from search.tactics.ranking import leading, spread
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["LocalSearch"]

_MEMBERS = 20  # of the front whose neighbours are looked at in one call


class LocalSearch(Remembering):
    """A `Tactic`: Pareto local search (Paquete et al. 2004), which White et al. (2021) found hard to beat for networks.

    The first population is random. Then it asks for architectures that differ in one gene from a member of the front
    (of many, from those that lie far apart), until there is none that it has not seen: then for random ones, from which
    it may begin again.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population, start=population)

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """Neighbours of up to 20 members, drawn."""
        front = leading(self.values, self.violations)
        some = front[spread(self.values[front], _MEMBERS)]
        near = one_gene_neighbours(self.space, self.genes[some])
        seen = {row.tobytes() for row in np.concatenate([self.genes, self.pending])}
        new = [i for i in rng.permutation(len(near)) if near[i].tobytes() not in seen]
        return near[new[:n]]
