"""What every predictor does, and the errors it knows of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from predictors.features import Features
from supernet.space import Genes

__all__ = ["Indices", "KnowsDeviation", "Predictor", "Residuals", "Target", "Values", "checked", "folds", "mean_error"]

Values = NDArray[np.float64]
Indices = NDArray[np.intp]
Target = Literal["value", "relative"]
"""What an error is counted in: the unit of y (accuracy), or a share of y (latency, which must be positive)."""

_FREEDOM = 4.0  # degrees, of the Student distribution of errors
_PRIOR_ERRORS = 20  # errors that a Student distribution counts for beside those that were seen
_LOCAL_WIDTH = 0.5  # standard deviations of the predictions within which errors are alike
_LOCAL_PRIOR = 10.0  # errors of the usual size that are at every place before any is seen


class Predictor(Protocol):
    """Scikit-learn manners on genes (n_archs, n_genes): constructors store, `fit` learns, fitted names end in ``_``.

    `predictors.testing.PredictorContract` tests what every predictor must do.
    """

    kind: str  # the name under which it is stored
    features: Features
    target: Target

    @property
    def out_of_fold_(self) -> Values:
        """(n_train,) every training architecture, by a model refitted in everything without it."""
        ...

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


@runtime_checkable
class KnowsDeviation(Protocol):
    """A predictor that knows, for every architecture of its own, how unsure its prediction is."""

    def deviation(self, genes: Genes) -> Values:
        """(n_archs,) standard deviations of what is predicted, without the noise of a measurement, in the unit of y."""
        ...


@dataclass(frozen=True)
class Residuals:
    """Errors of architectures that were predicted without themselves, and what follows for others.

    The model without an architecture must have been fitted anew in everything, its penalties included: else the errors
    are too small. Latencies are skew, so errors below and above have scales of their own; where small networks are
    noisier than large ones, the scale is local. Quantiles are half those of the errors, as in conformal prediction by
    cross-validation (Vovk 2015; Barber et al. 2021), and half those of a Student distribution with 4 degrees of
    freedom, since a few dozen errors know their own tails badly. `ErrorCard` checks what is promised on held-out
    architectures.
    """

    target: Target
    errors: Values
    """(n_train,) shares of the prediction (a relative target), or differences from it in the unit of y."""
    out_of_fold: Values
    """(n_train,) the predictions that had these errors."""

    @classmethod
    def of(cls, y: Values, out_of_fold: Values, target: Target) -> Self:
        """The errors of `out_of_fold` (n_train,) as predictions of y (n_train,)."""
        return cls(target, y / out_of_fold - 1 if target == "relative" else y - out_of_fold, out_of_fold)

    def interval(self, prediction: Values, coverage: float) -> Values:
        """(n_archs, 2) around prediction (n_archs,).

        Raises:
            ValueError: `coverage` is outside 0 to 1, or needs more training architectures than there were.
        """
        from scipy.special import stdtrit

        if not 0 < coverage < 1:
            raise ValueError(f"coverage {coverage} must lie between 0 and 1")
        n = len(self.errors)
        rank = math.ceil(coverage * (n + 1) - 1e-9)
        if rank > n:
            needed = math.ceil(coverage / (1 - coverage) - 1e-9)
            raise ValueError(
                f"an interval of coverage {coverage} needs {needed} training architectures; there were {n}"
            )
        below, above = self._scales
        sizes = np.sort(np.where(self._standard < 0, -self._standard / below, self._standard / above))
        quantile = (sizes[rank - 1] + stdtrit(_FREEDOM, (1 + coverage) / 2)) / 2
        unit = self._local(prediction) * (prediction if self.target == "relative" else 1.0)
        lower = prediction - quantile * below * unit
        return np.stack(
            [np.maximum(lower, 0) if self.target == "relative" else lower, prediction + quantile * above * unit], axis=1
        )

    def probability_below(self, prediction: Values, limit: float) -> Values:
        """(n_archs,) the probability that a measurement is at most `limit`, never quite 0 or 1.

        The share of the errors that would leave it below (Vovk et al. 2019), and, by the weight of twenty errors, the
        Student distribution with the scales of both sides.
        """
        from scipy.special import stdtr

        error = limit / prediction - 1 if self.target == "relative" else limit - prediction
        error = error / self._local(prediction)
        n = len(self.errors)
        counted = (np.searchsorted(np.sort(self._standard), error, side="right") + 0.5) / (n + 1)
        below, above = self._scales
        student = stdtr(_FREEDOM, error / np.where(error < 0, below, above))
        return (n * counted + _PRIOR_ERRORS * student) / (n + _PRIOR_ERRORS)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a predictor to put with its own; `from_dict` reads it out of that."""
        return {"errors": self.errors.tolist(), "out_of_fold": self.out_of_fold.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`, with a "target"; KeyError, TypeError or ValueError where it is not of that form."""
        errors, out_of_fold = (np.array(data[name], dtype=float) for name in ("errors", "out_of_fold"))
        if errors.shape != out_of_fold.shape or errors.ndim != 1:
            raise ValueError(f"errors {errors.shape} of predictions {out_of_fold.shape}")
        return cls(data["target"], errors, out_of_fold)

    @cached_property
    def _capped(self) -> Values:
        """(n_train,) absolute errors, of which none counts for more than ten medians."""
        size = np.abs(self.errors)
        return np.minimum(size, 10 * np.median(size))

    @cached_property
    def _grid(self) -> tuple[Values, Values]:
        """Places (n_places,) and how much larger errors are there than on average."""
        place = self._places(self.out_of_fold)
        width = _LOCAL_WIDTH * float(place.std())
        mean = float(self._capped.mean())
        if not (width > 0 and mean > 0):
            return np.zeros(1), np.ones(1)
        grid = np.linspace(place.min(), place.max(), 64)
        near = np.exp(-0.5 * ((grid[:, None] - place) / width) ** 2)
        return grid, (near @ self._capped / mean + _LOCAL_PRIOR) / (near.sum(axis=1) + _LOCAL_PRIOR)

    @cached_property
    def _standard(self) -> Values:
        """(n_train,) errors over what is usual at their place."""
        return self.errors / self._local(self.out_of_fold)

    @cached_property
    def _scales(self) -> tuple[float, float]:
        """Scales of the errors below and above, over what is usual at their place."""
        cap = 10 * float(np.median(np.abs(self._standard)))
        below, above = (2 * float(np.minimum(np.maximum(s * self._standard, 0), cap).mean()) for s in (-1, 1))
        return max(below, 1e-12), max(above, 1e-12)

    def _places(self, prediction: Values) -> Values:
        return np.log(np.maximum(prediction, 1e-300)) if self.target == "relative" else prediction

    def _local(self, prediction: Values) -> Values:
        return np.interp(self._places(prediction), *self._grid)


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
