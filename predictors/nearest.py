"""k nearest neighbours: nothing assumed but that similar networks have similar values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from predictors.features import Features
from predictors.judged import JudgedPredictor, in_chunks
from predictors.protocol import Indices, Values, checked, mean_error
from supernet.space import Genes

__all__ = ["NearestPredictor"]

Columns = NDArray[np.float64]

_CHUNK = 16_384  # rows predicted at once, each with its distance to every architecture that was learned from
_NEIGHBOURS = (1, 2, 3, 5, 8, 13)


class NearestPredictor(JudgedPredictor):
    """The mean of the k most similar architectures, the nearer ones counting more (Dudani 1976).

    Similar is what has similar features, every group of which counts alike. A baseline, and a check: where it is as
    good as the others, they have not understood the space.

    Args:
        features: what the model sees.
        target: "value" averages y; "relative" averages log y.
        n_folds, seed: see `JudgedPredictor`.

    Attributes:
        n_neighbours_: k, the one of 1 to 13 with the smallest leave-one-out error.
    """

    kind = "nearest"

    n_neighbours_: int
    rows_: Columns
    unit_: Values
    values_: Values

    def fit(self, genes: Genes, y: Values) -> Self:
        """See `JudgedPredictor`; k is chosen anew in every fold."""
        genes, y = checked(genes, y, self.target)
        columns = self.features(genes)
        self.unit_ = _unit(columns, self.features.groups)
        self.rows_, self.values_ = columns * self.unit_, y
        self.n_neighbours_ = self._choose(np.arange(len(y)))

        def without(train: Indices, test: Indices) -> Values:
            return self._mean(_distances(self.rows_[test], self.rows_[train]), y[train], self._choose(train))

        self._judge(y, without)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""

        def some(genes: Genes) -> Values:
            distances = _distances(self.features(genes) * self.unit_, self.rows_)
            return self._mean(distances, self.values_, self.n_neighbours_)

        return in_chunks(some, genes, _CHUNK)

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return super().to_dict() | {
            "neighbours": self.n_neighbours_,
            "rows": self.rows_.tolist(),
            "unit": self.unit_.tolist(),
            "values": self.values_.tolist(),
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        predictor = cls._judged(features, data)
        predictor.n_neighbours_ = int(data["neighbours"])
        predictor.rows_, predictor.unit_, predictor.values_ = (
            np.array(data[name], dtype=float) for name in ("rows", "unit", "values")
        )
        if predictor.rows_.shape != (len(predictor.values_), len(features.names)):
            raise ValueError(f"rows {predictor.rows_.shape} for {len(features.names)} features")
        return predictor

    def _choose(self, rows: Indices) -> int:
        """The number of neighbours with the smallest leave-one-out error among `rows`."""
        distances = _distances(self.rows_[rows], self.rows_[rows])
        np.fill_diagonal(distances, np.inf)
        y = self.values_[rows]
        possible = [k for k in _NEIGHBOURS if k < len(rows)]
        return min(possible, key=lambda k: mean_error(y, self._mean(distances, y, k), self.target))

    def _mean(self, distances: Columns, y: Values, k: int) -> Values:
        """(n_rows,) of squared distances (n_rows, n_known) and y (n_known,)."""
        k = min(k, distances.shape[1])
        nearest = np.argpartition(distances, k - 1, axis=1)[:, :k]
        # In one order, so that a row is predicted to the same bits whatever it is predicted with.
        nearest.sort(axis=1)
        near = np.take_along_axis(distances, nearest, axis=1)
        weights = 1 / (near + 0.1 * near.mean(axis=1, keepdims=True) + 1e-12)
        values = np.log(y) if self.target == "relative" else y
        mean = (weights * values[nearest]).sum(axis=1) / weights.sum(axis=1)
        return np.exp(mean) if self.target == "relative" else mean


def _unit(columns: Columns, groups: tuple[str, ...]) -> Values:
    """(n_columns,) what makes the columns of every group spread by 1 in all; 0 for a group that does not vary."""
    names = np.array(groups)
    spread = columns.var(axis=0)
    unit = np.zeros(columns.shape[1])
    for name in dict.fromkeys(groups):
        total = spread[names == name].sum()
        unit[names == name] = 1 / np.sqrt(total) if total > 1e-12 else 0.0
    return unit


def _distances(a: Columns, b: Columns) -> Columns:
    """(n_a, n_b) squared distances of rows."""
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(a, b, "sqeuclidean"), dtype=float)
