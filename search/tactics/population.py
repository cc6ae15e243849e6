"""What all tactics with a population begin with."""

from __future__ import annotations

from search.front import Values
from search.tactic import FEWEST
from supernet.space import Genes, SearchSpace

__all__ = ["OfPopulation"]


class OfPopulation:
    """The arguments of a tactic that asks for a population at a time, kept and checked.

    Args:
        space: where to search.
        n_objectives: columns of the values.
        seed: all random numbers follow from it and from what was told.
        population: architectures at a time, at most.

    Raises:
        ValueError: a population that is too small.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        if population < FEWEST:
            raise ValueError(f"a population of {population}; a generation needs at least {FEWEST}")
        self.space = space
        self.n_objectives = n_objectives
        self.seed = seed
        self.population = population

    def check_told(self, genes: Genes, values: Values, violations: Values) -> None:
        """ValueError where the arguments of `tell` do not go together."""
        if values.shape != (len(genes), self.n_objectives) or violations.shape != (len(genes),):
            raise ValueError(
                f"values of shape {values.shape} and violations of shape {violations.shape} for {len(genes)} "
                f"architectures and {self.n_objectives} objectives"
            )
