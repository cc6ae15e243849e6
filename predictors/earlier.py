"""What earlier runs say of a network, as columns: a prior mean whose scale is learned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genes, SearchSpace

__all__ = ["Earlier"]

Columns = NDArray[np.float64]

_PROBES = 16  # architectures by which models are told apart


class Earlier:
    """One column per model of the same quantity with other weights: what it predicts.

    A linear model of them has their weighted sum as prior mean. How much they count is learned with all other variances
    from what is known here: of a group of its own that misleads nothing is left.

    Args:
        space: of the genes.
        models: by name, genes (n_archs, n_genes) to predictions (n_archs,).
    """

    def __init__(self, space: SearchSpace, models: Mapping[str, Callable[[Genes], Columns]]) -> None:
        self._models = tuple(models.values())
        self.names = tuple(f"as {name} says" for name in models)
        self.groups = tuple(f"earlier {name}" for name in models)
        probes = space.canonical(space.sample_genes(_PROBES, np.random.default_rng(0)))
        text = json.dumps([space.to_dict(), *self.names, np.round(self(probes), 9).tolist()], sort_keys=True)
        self.digest = hashlib.sha256(f"Earlier {text}".encode()).hexdigest()[:16]

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_models)."""
        return np.stack([model(genes) for model in self._models], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes) @ coefficients
