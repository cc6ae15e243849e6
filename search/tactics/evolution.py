"""Evolution as published for architectures: with ageing, and that of once-for-all networks."""

from __future__ import annotations

import numpy as np

from search.front import Values
from search.tactics.array_nsga2 import best_first
from search.tactics.generations import Generational
from search.tactics.ranking import leading, ranks
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["Aging", "OnceForAll"]

_TOURNAMENT = 0.25  # of those alive
_PARENTS = 0.25  # of a population
_MUTATED = 0.1  # probability that a block, a depth or a choice of the network is drawn anew


class Aging(Remembering):
    """A `Tactic`: regularised evolution (Real et al. 2019).

    Alive are the last `population` that were told, however good those before them were. The best of a quarter of them,
    drawn at random, has one gene changed. Better is, first, what violates constraints less, as in the search of
    once-for-all networks under a limit; then the non-dominated front; members of one front draw lots.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population, start=population)

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` children, each of the winner of its own tournament."""
        alive = slice(-self.population, None)
        order = ranks(self.values[alive], self.violations[alive])
        # A small random number parts those of one front.
        size = max(round(_TOURNAMENT * len(order)), 2)
        drawn = rng.permuted(np.tile(np.arange(len(order)), (n, 1)), axis=1)[:, :size]
        winners = drawn[np.arange(n), np.argmin(order[drawn] + rng.random(drawn.shape), axis=1)]
        return one_changed(self.space, self.genes[alive][winners], rng)


class OnceForAll(Generational):
    """A `Tactic`: the evolution with which sub-networks of once-for-all networks were found (Cai et al. 2020).

    The best quarter of all so far are parents; with several objectives the whole front, up to a population. Half of the
    children are one parent with every block drawn anew with a probability of 0.1, kernel and width together; half have
    each gene from one of two parents. Published for the best accuracy within a limit; here the best are those dominated
    least and crowded least, and what violates constraints less goes first.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population)
        self._parents = self._genes, self._values, self._violations
        blocks = [(gene.stage, gene.block) if gene.block is not None else (i,) for i, gene in enumerate(space.genes)]
        distinct = list(dict.fromkeys(blocks))
        self._block = np.array([distinct.index(block) for block in blocks])

    def breed(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` children, half of them mutants."""
        parents = self._parents[0]
        one, other = parents[rng.integers(len(parents), size=(2, n))]
        crossed = np.where(rng.random(one.shape) < 0.5, one, other)
        anew = rng.random((n, self._block.max() + 1)) < _MUTATED
        mutants = np.where(anew[:, self._block], rng.integers(self.space.n_choices, size=one.shape), one)
        return np.where((np.arange(n) % 2 == 0)[:, None], mutants, crossed)

    def select(self, genes: Genes, values: Values, violations: Values, rng: np.random.Generator) -> None:
        """Parents stay until there are better ones."""
        parents, their_values, their_violations = self._parents
        genes, values = np.concatenate([parents, genes]), np.concatenate([their_values, values])
        violations = np.concatenate([their_violations, violations])
        n = max(round(_PARENTS * self.population), len(leading(values, violations)))
        kept = best_first(values, violations, min(n, self.population), rng)
        self._parents = genes[kept], values[kept], violations[kept]


def one_changed(space: SearchSpace, genes: Genes, rng: np.random.Generator, allowed: Genes | None = None) -> Genes:
    """Rows (n, n_genes) with one gene of each set to another of its choices, canonical; genes of blocks that come into
    being so are random.

    Args:
        allowed: (n, n_genes) which genes may be changed, of those a row has; default all. Where none is, nothing is
            changed.
    """
    free = space.active(genes) & (space.n_choices > 1)
    free = free if allowed is None else free & allowed
    gene = np.argmax(np.where(free, rng.random(genes.shape), -1.0), axis=1)
    rows = np.arange(len(genes))
    n_choices = space.n_choices[gene]
    step = 1 + rng.integers(np.maximum(n_choices - 1, 1))
    changed = np.where(space.active(genes), genes, rng.integers(space.n_choices, size=genes.shape))
    changed[rows, gene] = np.where(free[rows, gene], (genes[rows, gene] + step) % n_choices, genes[rows, gene])
    return space.canonical(changed)
