"""What a search leaves behind: everything it evaluated, and its front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.front import ParetoFront, Values
from supernet.space import Genes

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """One run of one tactic. Rows are in the order of evaluation, columns of `values` in that of ``front.axes``."""

    tactic: str
    seed: int
    seconds: float
    """Wall-clock time of the run, objectives included."""
    genes: Genes
    """(n_evaluated, n_genes), canonical, no row twice."""
    values: Values
    """(n_evaluated, n_axes) in the units of the axes."""
    feasible: NDArray[np.bool_]
    """(n_evaluated,) whether every constraint held."""
    front: ParetoFront
    """Of the feasible candidates."""

    @property
    def n_evaluated(self) -> int:
        """Number of distinct architectures that were evaluated."""
        return len(self.genes)

    @property
    def losses(self) -> Values:
        """(n_evaluated, n_axes) `values` such that smaller is better."""
        columns = [axis.loss(self.values[:, i]) for i, axis in enumerate(self.front.axes)]
        return np.stack(columns, axis=1)
