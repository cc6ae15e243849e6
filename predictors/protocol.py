"""What every predictor does, and the errors it knows of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from predictors.features import Features
from supernet.space import Genes

__all__ = ["Predictor", "Residuals", "Target", "Values", "checked", "folds", "mean_error"]

Values = NDArray[np.float64]
Indices = NDArray[np.intp]
Target = Literal["value", "relative"]
"""What an error is counted in: the unit of y (accuracy), or a share of y (latency, which must be positive)."""


class Predictor(Protocol):
    """Scikit-learn manners on genes (n_archs, n_genes): constructors store, `fit` learns, fitted names end in ``_``.

    `predictors.testing.PredictorContract` tests what every predictor must do.
    """

    kind: str  # the name under which it is stored
    features: Features
    target: Target
    out_of_fold_: Values  # (n_train,) every training architecture, predicted without itself

    def fit(self, genes: Genes, y: Values) -> Self:
        """Learn y (n_archs,); ValueError where shapes or values do not fit."""
        ...

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        ...

    def predict_interval(self, genes: Genes, coverage: float = 0.9) -> Values:
        """(n_archs, 2) lower and upper ends between which a measurement falls with probability `coverage`."""
        ...

    def probability_below(self, genes: Genes, limit: float) -> Values:
        """(n_archs,) the probability that a measurement is at most `limit`: that the architecture holds a budget."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Everything that was learned, as plain data for JSON; see `predictors.storage`."""
        ...

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        ...


@dataclass(frozen=True)
class Residuals:
    """Out-of-fold errors (n_train,) in ascending order, in units of `target`, and what follows from them.

    Every training architecture is predicted by a model that has not seen it; the errors of these predictions are spread
    around the prediction of the model of all. This is the cross-validation form of conformal prediction (Vovk 2015;
    Barber et al. 2021 call it the jackknife): close to the nominal coverage in practice, which `ErrorCard` checks on
    held-out architectures.
    """

    target: Target
    errors: Values

    @classmethod
    def of(cls, y: Values, out_of_fold: Values, target: Target) -> Self:
        """The errors of `out_of_fold` (n_train,) as predictions of y (n_train,)."""
        return cls(target, np.sort(y / out_of_fold - 1 if target == "relative" else y - out_of_fold))

    def interval(self, prediction: Values, coverage: float) -> Values:
        """(n_archs, 2) around prediction (n_archs,).

        Raises:
            ValueError: `coverage` is outside 0 to 1, or needs more training architectures than there were.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage {coverage} must lie between 0 and 1")
        n = len(self.errors)
        rank = math.ceil(coverage * (n + 1) - 1e-9)
        if rank > n:
            needed = math.ceil(coverage / (1 - coverage) - 1e-9)
            raise ValueError(
                f"an interval of coverage {coverage} needs {needed} training architectures; there were {n}"
            )
        half = np.sort(np.abs(self.errors))[rank - 1] * (prediction if self.target == "relative" else 1.0)
        return np.stack([prediction - half, prediction + half], axis=1)

    def probability_below(self, prediction: Values, limit: float) -> Values:
        """(n_archs,) the conformal predictive distribution at `limit` (Vovk et al. 2019), never quite 0 or 1."""
        threshold = limit / prediction - 1 if self.target == "relative" else limit - prediction
        below = np.searchsorted(self.errors, threshold, side="right")
        return (below + 0.5) / (len(self.errors) + 1)


def mean_error(y: Values, prediction: Values, target: Target) -> float:
    """Mean absolute error, as a share of y where the target is relative."""
    error = np.abs(prediction - y)
    return float(np.mean(error / y if target == "relative" else error))


def checked(genes: Genes, y: Values, target: Target, minimum: int = 4) -> tuple[Genes, Values]:
    """`genes` and `y` as arrays that can be learned from.

    Raises:
        ValueError: an unknown target, shapes that do not fit, too few rows, or values that are not finite (with a
            relative target: not positive).
    """
    if target not in ("value", "relative"):
        raise ValueError(f"target {target!r} is neither 'value' nor 'relative'")
    genes, y = np.asarray(genes), np.asarray(y, dtype=float)
    if genes.ndim != 2 or y.shape != (len(genes),):
        raise ValueError(
            f"genes of shape {genes.shape} and y of shape {y.shape}; want (n_archs, n_genes) and (n_archs,)"
        )
    if len(y) < minimum:
        raise ValueError(f"{len(y)} architectures are too few to learn from; at least {minimum} are needed")
    wrong = ~np.isfinite(y) | ((y <= 0) if target == "relative" else False)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        kind = "positive and finite" if target == "relative" else "finite"
        raise ValueError(f"y[{row}] = {y[row]} is not {kind}; leave the architecture out or measure it again")
    return genes, y


def folds(n: int, n_folds: int, seed: int) -> Iterator[tuple[Indices, Indices]]:
    """`n_folds` pairs (train, test) of row numbers; every row is in one test part, which `seed` decides.

    Raises:
        ValueError: fewer than two folds.
    """
    if n_folds < 2:
        raise ValueError(f"{n_folds} folds; cross-validation needs at least 2")
    fold = np.random.default_rng(seed).permutation(n) % n_folds
    for k in range(min(n_folds, n)):
        yield np.flatnonzero(fold != k), np.flatnonzero(fold == k)
