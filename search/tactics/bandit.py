"""Small steps from the front, of the kind that paid before."""

from __future__ import annotations

import numpy as np

from search.front import Values
from search.tactics.evolution import one_changed
from search.tactics.ranking import leading
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["BanditMutation"]

_RANDOM = 0.1  # share of children that come from nowhere, lest it stagnates


class BanditMutation(Remembering):
    """A `Tactic`: one gene of a member of the front changes; a bandit says of which kind (AGNN, Zhou et al. 2022).

    Kinds are what genes are called: depth, kernel, expand, resolution. Each has won as often as a change of that kind
    came on the front, and is chosen by a draw from its posterior (Thompson 1933). What a child came from is read from
    the archive: its nearest among those that were on the front before it.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        learned: False for kinds drawn alike, the control of this tactic.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, learned: bool) -> None:
        super().__init__(space, n_objectives, seed, population, start=population)
        names = [gene.name for gene in space.genes]
        self._kinds = np.array([names.index(name) for name in names])
        _, self._kinds = np.unique(self._kinds, return_inverse=True)
        self.learned = learned
        self.won = np.ones(self._kinds.max() + 1)
        """(n_kinds,) wins, and one more."""
        self.lost = np.ones(self._kinds.max() + 1)

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`; row by row, since what was the front before is what counts."""
        for i in range(len(genes)):
            row = slice(i, i + 1)
            before = leading(self.values, self.violations)
            if len(self.genes) >= self.start:
                self._credit(genes[i], values[i], violations[i], before)
            super().tell(genes[row], values[row], violations[row])

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` children, some of which are random."""
        front = leading(self.values, self.violations)
        parents = self.genes[rng.choice(front, size=n)]
        free = self.space.active(parents) & (self.space.n_choices > 1)
        kinds = np.arange(len(self.won))
        there = (free[:, None] & (self._kinds == kinds[:, None])).any(axis=2)
        drawn = rng.beta(self.won, self.lost, size=there.shape) if self.learned else rng.random(there.shape)
        kind = np.argmax(np.where(there, drawn, -1.0), axis=1)
        children = one_changed(self.space, parents, rng, self._kinds == kind[:, None])
        return np.where(rng.random((n, 1)) < _RANDOM, self.space.sample_genes(n, rng), children)

    def _credit(self, genes: Genes, values: Values, violation: float, before: Genes) -> None:
        parents = self.genes[before]
        changed = (parents != genes) & self.space.active(parents) & self.space.active(genes[None])
        differ = changed.sum(axis=1)
        near = int(np.argmin(differ))
        kinds = np.unique(self._kinds[changed[near]])
        if len(kinds) != 1:
            return  # not a child of one step
        dominated = (self.values[before] <= values).all(axis=1).any()
        better = violation < self.violations[before].min() or (violation <= 0 and not dominated)
        (self.won if better else self.lost)[kinds] += 1
