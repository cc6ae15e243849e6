"""What a tactic that is told values alone can foretell of architectures that it has not seen."""

from __future__ import annotations

from typing import Self

import numpy as np

from search.front import Values
from search.objectives import Constraint, Objective
from supernet.space import Genes, SearchSpace

__all__ = ["FEWEST_ROWS", "Surrogate"]

FEWEST_ROWS = 20  # below it, models know less than chance costs
_MOST_ROWS = 1_000  # that are learned from, the last ones
_PENALTIES = np.geomspace(1e-4, 1.0, 9)  # shares of the trace of the kernel


class Surrogate:
    """Per column of values a ridge or a kernel ridge of one-hot genes, whichever is better without the row itself.

    Much as LINAS has them (ridge or support vectors, Cummings et al. 2022), but for what is wrong with its features:
    genes of blocks that are absent light no column. Leave-one-out errors come in closed form out of one decomposition
    of the kernel, which all columns share (Craven & Wahba 1979). Violations of constraints are one more column.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def fit(self, genes: Genes, values: Values, violations: Values) -> Self:
        """Learn from genes (n, n_genes), values (n, n_objectives) and violations (n,)."""
        genes, values, violations = genes[-_MOST_ROWS:], values[-_MOST_ROWS:], violations[-_MOST_ROWS:]
        self.n_objectives_ = values.shape[1]
        if (violations > 0).any():
            # What holds lies as far on the other side, so that a model of both crosses 0 between them.
            beyond = np.where(violations > 0, violations, -violations[violations > 0].mean())
            values = np.concatenate([values, beyond[:, None]], axis=1)
        self._mean, self._scale = values.mean(axis=0), values.std(axis=0)
        self._scale = np.where(self._scale > 0, self._scale, 1.0)
        self._features = self._lit(genes)
        self._weights = np.zeros((2, *values.shape))
        least = np.full(values.shape[1], np.inf)
        y = (values - self._mean) / self._scale
        for kernel, gram in enumerate(self._kernels(self._features)):
            lengths, axes = np.linalg.eigh(gram)
            turned = axes.T @ y
            for penalty in _PENALTIES * max(float(np.trace(gram)) / len(gram), 1e-12):
                weights = axes @ (turned / (lengths + penalty)[:, None])
                without = weights / (np.square(axes) / (lengths + penalty)).sum(axis=1)[:, None]
                errors = np.abs(without).mean(axis=0)
                better = errors < least
                least = np.where(better, errors, least)
                self._weights[:, :, better] = 0.0
                self._weights[kernel][:, better] = weights[:, better]
        return self

    def predict(self, genes: Genes) -> Values:
        """(n, n_objectives)."""
        return self._all(genes)[:, : self.n_objectives_]

    def violations(self, genes: Genes) -> Values:
        """(n,) above 0 where constraints are foretold to be violated."""
        found = self._all(genes)[:, self.n_objectives_ :]
        return found[:, 0] if found.shape[1] else np.zeros(len(genes))

    def objectives(self) -> list[Objective]:
        """For a search on them."""
        return [
            Objective(f"objective {i + 1}", "", False, lambda genes, i=i: self.predict(genes)[:, i])
            for i in range(self.n_objectives_)
        ]

    def constraints(self) -> list[Constraint]:
        """One, if any architecture violated any."""
        if len(self._mean) == self.n_objectives_:
            return []
        return [Constraint("violation", self.violations, upper=0.0)]

    def _all(self, genes: Genes) -> Values:
        linear, curved = self._kernels(self._lit(genes))
        return self._mean + self._scale * (linear @ self._weights[0] + curved @ self._weights[1])

    def _kernels(self, lit: Values) -> tuple[Values, Values]:
        """Two of (n, n_told): of lines, centred, and a squared exponential of how many genes differ."""
        centre = self._features.mean(axis=0)
        linear = (lit - centre) @ (self._features - centre).T
        squared = (
            np.square(lit).sum(axis=1)[:, None] + np.square(self._features).sum(axis=1) - 2 * lit @ self._features.T
        )
        return linear, np.exp(-squared / (2 * max(int((self.space.n_choices > 1).sum()), 1)))

    def _lit(self, genes: Genes) -> Values:
        """(n, n_choices in all) one column per choice of every gene."""
        n_choices = self.space.n_choices
        columns = np.zeros((len(genes), int(n_choices.sum())))
        rows, active = np.nonzero(self.space.active(genes))
        columns[rows, (np.cumsum(n_choices) - n_choices + genes)[rows, active]] = 1.0
        return columns
