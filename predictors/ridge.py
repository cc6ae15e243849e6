"""Ridge regression with one penalty per group of features, learned from the data, and noise that may burst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from predictors.features import Features
from predictors.protocol import Residuals, Target, Values, checked, folds
from predictors.roofline import Roofline
from supernet.space import Genes

__all__ = ["RidgePredictor"]

_CHUNK = 16_384  # rows predicted at once, so that a million architectures need not fit in memory


class RidgePredictor:
    """A linear model of features, shrunken towards zero, group by group; for latencies, the higher of two where due.

    The prior variances of the groups are learned together with the noise, which is Student's t, by maximising the
    marginal likelihood: there is nothing to set (`predictors.line.Line`). With `CostTerms` it is the predictor for
    latency from few measurements; where launching the layers is what takes the time, a line in their number takes over
    (`predictors.roofline.Roofline`).

    Args:
        features: what the model sees.
        target: "value" counts errors in the unit of y; "relative" counts them as shares of y, while the model stays
            additive, as latency is.
        n_folds: folds of the cross-validation behind `out_of_fold_` and the intervals.
        seed: of the folds.

    Attributes:
        coefficients_: (n_lines, n_features).
        intercepts_: (n_lines,) in the unit of y.
        out_of_fold_: (n_train,) predictions by models that have not seen the architecture, refitted in everything.
        residuals_: their errors.
    """

    kind = "ridge"

    coefficients_: Values
    intercepts_: Values
    floor_: float
    out_of_fold_: Values
    residuals_: Residuals

    def __init__(self, features: Features, target: Target = "value", *, n_folds: int = 5, seed: int = 0) -> None:
        self.features = features
        self.target: Target = target
        self.n_folds = n_folds
        self.seed = seed

    def fit(self, genes: Genes, y: Values) -> Self:
        """Learn y (n_archs,) of genes (n_archs, n_genes).

        Raises:
            ValueError: shapes or values that cannot be learned from.
        """
        genes, y = checked(genes, y, self.target)
        columns, groups = self.features(genes), self.features.groups
        model = Roofline.fit(columns, y, self.target, groups)
        self.coefficients_, self.intercepts_ = model.coefficients, model.intercepts
        # Far from the data a line may fall below zero, which no latency does.
        self.floor_ = 0.25 * float(y.min()) if self.target == "relative" else -np.inf
        self.out_of_fold_ = np.empty_like(y)
        for train, test in folds(len(y), self.n_folds, self.seed):
            without = Roofline.fit(columns[train], y[train], self.target, groups, start=model)
            self.out_of_fold_[test] = np.maximum(without.predict(columns[test]), self.floor_)
        self.residuals_ = Residuals.of(y, self.out_of_fold_, self.target)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        parts = [self._lines(genes[start : start + _CHUNK]) for start in range(0, len(genes), _CHUNK)]
        return np.maximum(np.concatenate(parts) if parts else np.empty(0), self.floor_)

    def predict_interval(self, genes: Genes, coverage: float = 0.9) -> Values:
        """(n_archs, 2); see `Residuals.interval`."""
        return self.residuals_.interval(self.predict(genes), coverage)

    def probability_below(self, genes: Genes, limit: float) -> Values:
        """(n_archs,); see `Residuals.probability_below`."""
        return self.residuals_.probability_below(self.predict(genes), limit)

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return {
            "target": self.target,
            "intercepts": self.intercepts_.tolist(),
            "floor": self.floor_ if np.isfinite(self.floor_) else None,
            "coefficients": self.coefficients_.tolist(),
            **self.residuals_.to_dict(),
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        predictor = cls(features, data["target"])
        predictor.intercepts_ = np.array(data["intercepts"], dtype=float)
        predictor.coefficients_ = np.array(data["coefficients"], dtype=float)
        if predictor.coefficients_.shape != (len(predictor.intercepts_), len(features.names)):
            raise ValueError(f"coefficients {predictor.coefficients_.shape} for {len(features.names)} features")
        predictor.floor_ = -np.inf if data["floor"] is None else float(data["floor"])
        predictor.residuals_ = Residuals.from_dict(data)
        predictor.out_of_fold_ = predictor.residuals_.out_of_fold
        return predictor

    def _lines(self, genes: Genes) -> Values:
        pairs = zip(self.coefficients_, self.intercepts_, strict=True)
        return np.max([self.features.dot(genes, one) + intercept for one, intercept in pairs], axis=0)
