"""Tactics that think in generations, as all evolutionary ones do: how they are asked and told."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from search.front import Values
from search.tactics.population import OfPopulation
from search.tactics.unseen import Unseen
from supernet.space import Genes, SearchSpace

__all__ = ["Generational"]

_ROUNDS = 4  # of breeding per call, before random architectures fill the places that repeats left empty


class Generational(OfPopulation, ABC):
    """A `Tactic` whose every generation is as many rows as its population has, in the order in which it was told them.

    A subclass says how children come about (`breed`) and who survives (`select`). The first generation is random but
    for what was told before. Children that were asked for or told before are bred again.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population)
        self._unseen = Unseen(space)
        self._n_told = 0
        self._asked: Genes | None = None  # what the last call returned
        self._genes = np.empty((0, len(space.genes)), dtype=np.int64)  # of the generation that is not complete
        self._values = np.empty((0, n_objectives))
        self._violations = np.empty(0)

    @abstractmethod
    def breed(self, n: int, rng: np.random.Generator) -> Genes:
        """About `n` children (n, n_genes) of the survivors, which may repeat each other or what there was before."""

    @abstractmethod
    def select(self, genes: Genes, values: Values, violations: Values, rng: np.random.Generator) -> None:
        """Let the fittest survive of the survivors so far and a new generation; arguments as for `tell`."""

    def ask(self, n: int) -> Genes:
        """Up to `n` rows, and no more than complete the generation."""
        missing = min(n, self.population - len(self._genes))
        rng = np.random.default_rng([self.seed, self._n_told, self._unseen.n_taken])
        children = [self._genes[:0]]
        if self._n_told >= self.population:
            for _ in range(_ROUNDS):
                if missing <= 0:
                    break
                children.append(self._unseen.take(self.breed(missing, rng)[:missing]))
                missing -= len(children[-1])
        self._asked = np.concatenate([*children, self._unseen.take_random(missing, rng)])
        return self._asked

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`."""
        self.check_told(genes, values, violations)
        if genes is not self._asked:  # those are taken already
            self._unseen.take(genes)
        told = self._n_told - len(self._genes)  # in complete generations
        self._n_told += len(genes)
        self._genes = np.concatenate([self._genes, genes])
        self._values = np.concatenate([self._values, values])
        self._violations = np.concatenate([self._violations, violations])
        while len(self._genes) >= self.population:
            told += self.population
            n = self.population
            # The zero keeps these random numbers apart from those of `ask`.
            rng = np.random.default_rng([self.seed, told, 0])
            self.select(self._genes[:n], self._values[:n], self._violations[:n], rng)
            self._genes, self._values, self._violations = self._genes[n:], self._values[n:], self._violations[n:]
