"""Choosing a predictor by its cross-validated error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from predictors.protocol import Predictor, Target, Values, mean_error
from supernet.space import Genes

__all__ = ["Selection", "fit_best"]


@dataclass(frozen=True)
class Selection:
    """The fitted winner, its name, and the cross-validated error of every candidate."""

    name: str
    predictor: Predictor
    errors: Mapping[str, float]


def fit_best(
    candidates: Mapping[str, Callable[[], Predictor]], genes: Genes, y: Values, *, target: Target = "value"
) -> Selection:
    """The fitted candidate with the smallest cross-validated mean error (in units of `target`).

    The errors are those of `Predictor.out_of_fold_`, so every candidate is fitted, with its own cross-validation, once;
    of equals the first wins. The winner's own error is a little flattered by the choice: an `error_card` over a
    function that calls `fit_best` is not.

    Raises:
        ValueError: no candidates, or values that cannot be learned from.
    """
    if not candidates:
        raise ValueError("no candidates to choose from; give at least one predictor")
    genes, y = np.asarray(genes), np.asarray(y, dtype=float)
    fitted = {name: make().fit(genes, y) for name, make in candidates.items()}
    errors = {name: mean_error(y, predictor.out_of_fold_, target) for name, predictor in fitted.items()}
    best = min(errors, key=errors.__getitem__)
    return Selection(best, fitted[best], errors)
