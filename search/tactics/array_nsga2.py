"""NSGA-II on genes: pymoo's sorting, crowding and operators on whole arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from search.front import Values
from search.tactics.generations import Generational
from supernet.space import Genes, SearchSpace

__all__ = ["ETA", "MUTATED", "Nsga2", "best_first"]

ETA = 3  # of crossover and mutation: wide steps
MUTATED = 0.15  # share of the genes that are moved; rounding puts many of them back


class Nsga2(Generational):
    """A `Tactic`: NSGA-II (Deb et al. 2002), which lets those survive that are dominated least and crowded least.

    Architectures that hold the constraints go before all others (constrained domination).

    Every step takes a generation as arrays. pymoo's own keeps each individual in an object, which makes it two to three
    times as slow as a tactic, two predictors included (experiments/benchmarks/search_throughput.py).
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population)
        self._parents = self._genes, self._values, self._violations  # the survivors, best first

    def breed(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` children (n, n_genes) of the survivors."""
        parents = self._parents[0]
        # Parents are ordered, so the winner of a binary tournament is the one that comes first.
        winners = rng.integers(len(parents), size=(2, 2, (n + 1) // 2)).min(axis=0)
        return _vary(parents[winners], self.space.n_choices - 1, rng)[:n]

    def select(self, genes: Genes, values: Values, violations: Values, rng: np.random.Generator) -> None:
        """Keep the best of the survivors and the new generation."""
        survivors, their_values, their_violations = self._parents
        genes, values = np.concatenate([survivors, genes]), np.concatenate([their_values, values])
        violations = np.concatenate([their_violations, violations])
        kept = best_first(values, violations, self.population, rng)
        self._parents = genes[kept], values[kept], violations[kept]


def best_first(losses: Values, violations: Values, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The best `n` rows, best first: by front, within a front those with most room around them, ties at random.

    Rows that violate a constraint come after all others, by their violation.
    """
    holding = np.flatnonzero(violations <= 0)
    crowding = get_crowding_function("cd")
    order = []
    for front in NonDominatedSorting().do(losses[holding], n_stop_if_ranked=n):
        room = np.asarray(crowding.do(losses[holding[front]]), dtype=float)
        order.append(holding[front[np.lexsort((rng.random(len(front)), -room))]])
    broken = np.flatnonzero(violations > 0)
    order.append(broken[np.argsort(violations[broken], kind="stable")])
    return np.concatenate(order)[:n]


def _vary(pairs: Genes, highest: Genes, rng: np.random.Generator) -> Genes:
    """Two children (2 n_pairs, n_genes) of each of pairs (2, n_pairs, n_genes), whose genes go from 0 to `highest`.

    Simulated binary crossover and polynomial mutation (Deb & Agrawal 1995; Deb & Goyal 1996), then rounding. With
    pymoo's defaults of eta 15 to 20, rounding to two or three choices would undo nearly every mutation.
    """
    n, n_genes = pairs.shape[1:]
    lowest = np.zeros(n_genes)
    eta, half = np.full((n, 1), float(ETA)), np.full((n, 1), 0.5)
    crossed = cross_sbx(pairs.astype(float), lowest, highest, eta, half, half, random_state=rng).reshape(-1, n_genes)
    etas, moved = np.full(2 * n, float(ETA)), np.full(2 * n, MUTATED)
    mutated = mut_pm(crossed, lowest, highest, etas, moved, at_least_once=False, random_state=rng)
    return np.rint(mutated).astype(np.int64)
