"""Stage by stage: each is varied alone, and what was learned is put together; a start for another tactic."""

from __future__ import annotations

import numpy as np

from search.exact import merge_fronts
from search.front import Values
from search.tactic import create_tactic
from search.tactics.ranking import spread
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["Stagewise"]

_FEWEST = 3  # settings of a part


class Stagewise(Remembering):
    """A `Tactic`: divide and conquer (EMO-PMS), and then another tactic, which is told everything.

    First every stage, and the choices of the whole network, are varied alone, all others being the largest. What that
    changes is added up: the front of all sums of one setting per stage is known at once, and as many of it as a
    population has are evaluated, far from each other. That damage adds up is a guess, so this is a start and no end.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        then: name of the other tactic.

    Raises:
        ValueError: a tactic that cannot come after.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, then: str) -> None:
        super().__init__(space, n_objectives, seed, population, start=0)
        if then == "stagewise":
            raise ValueError("tactic 'stagewise' cannot come after itself; name another as `then`")
        self._then = create_tactic(then, space, n_objectives, seed, population=population)
        self._parts = _parts(space, max(population, 1), np.random.default_rng([seed, 0]))
        self._alone = np.concatenate([self._base, *(self._base * ~own + rows for own, rows in self._parts)])

    @property
    def _base(self) -> Genes:
        return (self.space.n_choices - 1)[None]

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`."""
        super().tell(genes, values, violations)
        self._then.tell(genes, values, violations)

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """Stages alone, then together, then what the other tactic asks for."""
        alone = self.space.canonical(self._alone)
        seen = {row.tobytes() for row in np.concatenate([self.genes, self.pending])}
        left = alone[[row.tobytes() not in seen for row in alone]]
        if len(left):
            return left[:n]
        if len(self.genes) < len(alone) + self.population:
            together = self._together()
            new = np.array([row.tobytes() not in seen for row in together[0]], dtype=bool)
            genes, losses = together[0][new], together[1][new]
            if len(genes):
                return genes[spread(losses, n)]
        return self._then.ask(n)

    def _together(self) -> tuple[Genes, Values]:
        """The front of all sums of what was told of stages alone: genes (n, n_genes), and losses as they would be."""
        told = {row.tobytes(): value for row, value in zip(self.genes, self.values, strict=True)}
        base = told.get(self.space.canonical(self._base)[0].tobytes())
        if base is None or not self._parts:
            return self.genes[:0], self.values[:0]
        tables = []
        for own, rows in self._parts:
            whole = self.space.canonical(self._base * ~own + rows)
            worth = [told.get(row.tobytes()) for row in whole]
            known = [i for i, value in enumerate(worth) if value is not None]
            largest = self._base * own
            changes = [worth[i] - base for i in known]  # type: ignore[operator]
            tables.append(
                (np.concatenate([largest, rows[known]]), np.concatenate([[0 * base], *[[c] for c in changes]]))
            )
        genes, losses = merge_fronts(tables)
        return self.space.canonical(genes), losses + base


def _parts(space: SearchSpace, n: int, rng: np.random.Generator) -> list[tuple[np.ndarray, Genes]]:
    """Per part that has a choice which genes are its own (n_genes,), and settings of these, other genes 0: the
    smallest, and levels from low to high; about `n` of all parts together."""
    stages = sorted({-1 if gene.stage is None else gene.stage for gene in space.genes})
    parts = [
        np.array([(-1 if gene.stage is None else gene.stage) == stage for gene in space.genes]) for stage in stages
    ]
    parts = [own for own in parts if (space.n_choices[own] > 1).any()]
    each = max(n // max(len(parts), 1), _FEWEST)
    highest = space.n_choices - 1
    found = []
    for own in parts:
        levels = np.concatenate([[0.0], (np.arange(each - 1) + 0.5) / (each - 1)])
        found.append((own, np.unique(rng.binomial(highest, levels[:, None]) * own, axis=0)))
    return found
