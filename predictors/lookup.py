"""A look-up table as features: the cost of a network as the sum of what its blocks cost alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genes, SearchSpace

__all__ = ["BlockSum"]

Columns = NDArray[np.float64]


class BlockSum:
    """One column: the sum over the blocks of a network, each looked up in a table (Once-for-All, Cai et al. 2020).

    With a `RidgePredictor` it is the additive latency model with a scale and an offset that are learned from whole
    networks: ``RidgePredictor(BlockSum(space, table.lookup, seconds), "relative").fit(genes, y)``.

    Args:
        lookup: genes to the row number of each block (n_archs, n_positions), -1 where there is none.
        costs: (n_blocks,) of each block, such as seconds; all above 0.

    Raises:
        ValueError: a cost that is not positive.
    """

    names = ("sum of blocks",)
    groups = ("network sum",)

    def __init__(self, space: SearchSpace, lookup: Callable[[Genes], Genes], costs: Columns) -> None:
        costs = np.asarray(costs, dtype=float)
        if not (np.isfinite(costs) & (costs > 0)).all():
            raise ValueError("costs of blocks must be positive and finite; measure those that are not again")
        self.space = space
        self.lookup = lookup
        self.costs = costs
        text = json.dumps([space.to_dict(), costs.tolist()], sort_keys=True)
        self.digest = hashlib.sha256(f"BlockSum {text}".encode()).hexdigest()[:16]
        self._with_none = np.append(costs / costs.mean(), 0.0)  # row number -1 is the last

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, 1), in units of the mean block."""
        return self._with_none[self.lookup(genes)].sum(axis=1, keepdims=True)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes)[:, 0] * coefficients[0]
