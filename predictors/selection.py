"""Choosing a predictor by its cross-validated error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from predictors.protocol import Predictor, Target, Values, folds, mean_error
from supernet.space import Genes

__all__ = ["Selection", "fit_best"]


@dataclass(frozen=True)
class Selection:
    """The fitted winner, its name, and the cross-validated error of every candidate."""

    name: str
    predictor: Predictor
    errors: Mapping[str, float]


def fit_best(
    candidates: Mapping[str, Callable[[], Predictor]],
    genes: Genes,
    y: Values,
    *,
    target: Target = "value",
    n_folds: int = 5,
    seed: int = 0,
) -> Selection:
    """Fit the candidate with the smallest cross-validated mean error (in units of `target`) to all architectures.

    The same folds judge every candidate; of equals the first wins. The winner's own error is a little flattered by the
    choice: an `error_card` over a function that calls `fit_best` is not.

    Raises:
        ValueError: no candidates, or values that cannot be learned from.
    """
    if not candidates:
        raise ValueError("no candidates to choose from; give at least one predictor")
    genes, y = np.asarray(genes), np.asarray(y, dtype=float)
    errors: dict[str, float] = {}
    for name, make in candidates.items():
        predicted = np.empty_like(y)
        for train, test in folds(len(y), n_folds, seed):
            predicted[test] = make().fit(genes[train], y[train]).predict(genes[test])
        errors[name] = mean_error(y, predicted, target)
    best = min(errors, key=errors.__getitem__)
    return Selection(best, candidates[best]().fit(genes, y), errors)
