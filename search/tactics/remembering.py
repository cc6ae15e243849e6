"""Tactics that think of everything they were told each time they are asked, and of nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from search.front import Values
from search.proposing import among
from search.tactics.population import OfPopulation
from search.tactics.unseen import Unseen
from supernet.space import Genes, SearchSpace

__all__ = ["Remembering"]

_ROUNDS = 4  # of suggestions per call, before random architectures fill the places that repeats left empty


class Remembering(OfPopulation, ABC):
    """A `Tactic` whose subclass says what it would look at, given all that was told (`suggest`).

    Suggestions that were asked for or told before are made again, and random architectures come in their place where
    that does not help. So do the first ones.

    Args:
        start: architectures that must be told before anything is suggested.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, start: int) -> None:
        super().__init__(space, n_objectives, seed, population)
        self.start = start
        self.unseen = Unseen(space)
        self.genes = np.empty((0, len(space.genes)), dtype=np.int64)
        """(n_told, n_genes) in the order in which they were told."""
        self.values = np.empty((0, n_objectives))
        """(n_told, n_objectives), smaller is better."""
        self.violations = np.empty(0)
        """(n_told,)."""
        self.pending = self.genes
        """(n_pending, n_genes) what was asked for and not told yet."""

    @abstractmethod
    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """About `n` rows (n, n_genes), the best first, which may repeat each other or what there was before."""

    def ask(self, n: int) -> Genes:
        """Up to `n` rows and the population."""
        missing = min(n, self.population)
        rng = np.random.default_rng([self.seed, len(self.genes), self.unseen.n_taken])
        found = [self.genes[:0]]
        for _ in range(_ROUNDS if len(self.genes) >= self.start else 0):
            if missing <= 0 or self.unseen.n_taken >= self.space.size:
                break
            fresh = self.unseen.take(self.suggest(missing, rng)[:missing])
            found.append(fresh)
            self.pending = np.concatenate([self.pending, fresh])
            missing -= len(fresh)
        anything = self.unseen.take_random(missing, rng)
        self.pending = np.concatenate([self.pending, anything])
        return np.concatenate([*found, anything])

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`."""
        self.check_told(genes, values, violations)
        self.unseen.take(genes)
        if len(self.pending):
            self.pending = self.pending[~among(self.pending, genes)]
        self.genes = np.concatenate([self.genes, genes])
        self.values = np.concatenate([self.values, values])
        self.violations = np.concatenate([self.violations, violations])
