"""Several predictors as one: their mean, weighted by what each has shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from predictors.features import Features, Joined
from predictors.judged import JudgedPredictor
from predictors.protocol import Predictor, Residuals, Values, checked
from supernet.space import Genes

__all__ = ["EnsemblePredictor"]

_SUM = 1e3  # how hard the weights are held to add up to 1
_TOWARDS_EQUAL = 1.0  # rows of evidence for equal weights
_KINDS = {
    "boosting": ("boosting", "BoostingPredictor"),
    "gaussian process": ("gaussian", "GaussianProcessPredictor"),
    "nearest": ("nearest", "NearestPredictor"),
    "ridge": ("ridge", "RidgePredictor"),
}


class EnsemblePredictor(JudgedPredictor):
    """A weighted mean of the members' predictions, logarithms of them where errors are relative.

    The weights are not negative, add up to 1, and fit the members' out-of-fold predictions best (stacking, Breiman
    1996): members that err differently mend each other.

    Args:
        members: predictors of this package and of one target, not fitted; fitting this one fits them.

    Attributes:
        weights_: (n_members,).

    Raises:
        ValueError: no members, or members of several targets.
    """

    kind = "ensemble"

    weights_: Values

    def __init__(self, members: Sequence[Predictor]) -> None:
        if len({member.target for member in members}) != 1:
            raise ValueError(f"an ensemble needs members of one target; got {[member.target for member in members]}")
        super().__init__(Joined(*(member.features for member in members)), members[0].target)
        self.members = tuple(members)

    def fit(self, genes: Genes, y: Values) -> Self:
        """See `JudgedPredictor`; what no model had seen is the weighted mean of what the members had not."""
        genes, y = checked(genes, y, self.target)
        known = np.stack([member.fit(genes, y).out_of_fold_ for member in self.members])
        self.weights_ = _weights(self._onto(known), self._onto(y))
        self.residuals_ = Residuals.of(y, self._mean(known), self.target)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        return self._mean(np.stack([member.predict(genes) for member in self.members]))

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return super().to_dict() | {
            "weights": self.weights_.tolist(),
            "members": [{"kind": member.kind, "learned": member.to_dict()} for member in self.members],
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        if not isinstance(features, Joined):
            raise ValueError("features of an ensemble are those of its members, joined")
        pairs = zip(features.parts, data["members"], strict=True)
        predictor = cls([_member(one["kind"]).from_dict(part, one["learned"]) for part, one in pairs])
        predictor.weights_ = np.array(data["weights"], dtype=float)
        if predictor.weights_.shape != (len(predictor.members),) or data["target"] != predictor.target:
            raise ValueError(f"{len(predictor.weights_)} weights for {len(predictor.members)} members")
        predictor.residuals_ = Residuals.from_dict(data)
        return predictor

    def _onto(self, values: Values) -> Values:
        return np.log(values) if self.target == "relative" else values

    def _mean(self, predictions: Values) -> Values:
        """(n_archs,) of the members' (n_members, n_archs)."""
        mean = self.weights_ @ self._onto(predictions)
        return np.exp(mean) if self.target == "relative" else mean


def _weights(known: Values, y: Values) -> Values:
    """(n_members,) not negative, with the sum 1, of predictions (n_members, n_train) of y (n_train,)."""
    n = len(known)
    spread = float(y.std()) or 1.0
    equal = np.sqrt(_TOWARDS_EQUAL / n)
    rows = np.concatenate([((known - y.mean()) / spread).T, np.full((1, n), _SUM), equal * np.eye(n)])
    aim = np.concatenate([(y - y.mean()) / spread, [_SUM], np.full(n, equal / n)])
    weights, _ = nnls(rows, aim)
    return weights / weights.sum()


def _member(kind: str) -> type[Predictor]:
    """The class of a member as it is written."""
    module, name = _KINDS[kind]
    return getattr(import_module(f"{__package__}.{module}"), name)
