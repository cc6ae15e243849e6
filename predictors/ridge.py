"""Ridge regression with one penalty per group of features, learned from the data, and noise that may burst."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from predictors.features import Features
from predictors.judged import JudgedPredictor, in_chunks
from predictors.protocol import Indices, Values, checked
from predictors.roofline import Roofline
from supernet.space import Genes

__all__ = ["RidgePredictor"]

_CHUNK = 16_384  # rows predicted at once


class RidgePredictor(JudgedPredictor):
    """A linear model of features, shrunken towards zero, group by group; for latencies, the higher of two where due.

    The prior variances of the groups are learned together with the noise, which is Student's t, by maximising the
    marginal likelihood: there is nothing to set (`predictors.line.Line`). With `CostTerms` it is the predictor for
    latency from few measurements; where launching the layers is what takes the time, a line in their number takes over
    (`predictors.roofline.Roofline`).

    Args:
        features: what the model sees.
        target: "value" counts errors in the unit of y; "relative" counts them as shares of y, while the model stays
            additive, as latency is.
        n_folds, seed: see `JudgedPredictor`.

    Attributes:
        coefficients_: (n_lines, n_features).
        intercepts_: (n_lines,) in the unit of y.
    """

    kind = "ridge"

    coefficients_: Values
    intercepts_: Values
    floor_: float

    def fit(self, genes: Genes, y: Values) -> Self:
        """See `JudgedPredictor`."""
        genes, y = checked(genes, y, self.target)
        columns = self.features(genes)
        model = self._model(columns, y)
        self.coefficients_, self.intercepts_ = model.coefficients, model.intercepts
        # Far from the data a line may fall below zero, which no latency does.
        self.floor_ = 0.25 * float(y.min()) if self.target == "relative" else -np.inf

        def without(train: Indices, test: Indices) -> Values:
            return np.maximum(self._model(columns[train], y[train], model).predict(columns[test]), self.floor_)

        self._judge(y, without)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        return np.maximum(in_chunks(self._lines, genes, _CHUNK), self.floor_)

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return super().to_dict() | {
            "intercepts": self.intercepts_.tolist(),
            "floor": self.floor_ if np.isfinite(self.floor_) else None,
            "coefficients": self.coefficients_.tolist(),
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        predictor = cls._judged(features, data)
        predictor.intercepts_ = np.array(data["intercepts"], dtype=float)
        predictor.coefficients_ = np.array(data["coefficients"], dtype=float)
        if predictor.coefficients_.shape != (len(predictor.intercepts_), len(features.names)):
            raise ValueError(f"coefficients {predictor.coefficients_.shape} for {len(features.names)} features")
        predictor.floor_ = -np.inf if data["floor"] is None else float(data["floor"])
        return predictor

    def _model(self, columns: Values, y: Values, start: Roofline | None = None) -> Roofline:
        """Of columns (n_rows, n_features) and y (n_rows,), sought near an earlier one of the like."""
        return Roofline.fit(columns, y, self.target, self.features.groups, start)

    def _lines(self, genes: Genes) -> Values:
        pairs = zip(self.coefficients_, self.intercepts_, strict=True)
        return np.max([self.features.dot(genes, one) + intercept for one, intercept in pairs], axis=0)
