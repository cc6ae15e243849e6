"""Gradient-boosted trees (XGBoost) with settings for a few dozen to a few thousand architectures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from predictors.features import Features
from predictors.judged import JudgedPredictor, in_chunks
from predictors.protocol import Target, Values, checked
from supernet.space import Genes

if TYPE_CHECKING:
    import xgboost  # loaded by what uses it: it takes a third of a second

__all__ = ["BoostingPredictor"]

_CHUNK = 16_384  # rows predicted at once


class BoostingPredictor(JudgedPredictor):
    """XGBoost (Chen & Guestrin 2016): shallow, slow, row- and column-sampled trees, as small data wants them.

    Trees find interactions by themselves but cannot extrapolate: a prediction never leaves the range of the training
    values, so measure the smallest and the largest architecture, too. Below some hundred architectures
    `RidgePredictor` with `CostTerms` is better.

    Args:
        features: what the model sees.
        target: "value" learns y; "relative" learns log y, whose errors are shares of y.
        n_folds: folds of the cross-validation behind `out_of_fold_` and the intervals.
        n_trees, depth, learning_rate: of the boosting.
        seed: of folds and sampling.
        n_threads: of XGBoost.

    Attributes:
        booster_: the trees.
        center_, scale_: what the trees learned is (y or log y − center) / scale.
    """

    kind = "boosting"

    booster_: xgboost.Booster
    center_: float
    scale_: float

    def __init__(
        self,
        features: Features,
        target: Target = "value",
        *,
        n_folds: int = 5,
        n_trees: int = 300,
        depth: int = 3,
        learning_rate: float = 0.06,
        seed: int = 0,
        n_threads: int = 1,
    ) -> None:
        super().__init__(features, target, n_folds=n_folds, seed=seed)
        self.n_trees = n_trees
        self.depth = depth
        self.learning_rate = learning_rate
        self.n_threads = n_threads

    def fit(self, genes: Genes, y: Values) -> Self:
        """See `JudgedPredictor`."""
        genes, y = checked(genes, y, self.target)
        columns = self.features(genes)
        aim = np.log(y) if self.target == "relative" else y
        self.center_, self.scale_ = float(aim.mean()), float(aim.std()) or 1.0
        aim = (aim - self.center_) / self.scale_
        self._judge(
            y,
            lambda train, test: self._in_unit(self._boost(columns[train], aim[train]).inplace_predict(columns[test])),
        )
        self.booster_ = self._boost(columns, aim)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""

        def some(genes: Genes) -> Values:
            return self.booster_.inplace_predict(self.features(genes).astype(np.float32))

        return self._in_unit(in_chunks(some, genes, _CHUNK))

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data; the trees in XGBoost's own JSON."""
        return super().to_dict() | {
            "center": self.center_,
            "scale": self.scale_,
            "booster": json.loads(self.booster_.save_raw("json")),
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        import xgboost

        predictor = cls._judged(features, data)
        predictor.center_, predictor.scale_ = float(data["center"]), float(data["scale"])
        booster = xgboost.Booster({"nthread": predictor.n_threads})
        try:
            booster.load_model(bytearray(json.dumps(data["booster"]).encode()))
        except xgboost.core.XGBoostError as error:
            raise ValueError("XGBoost does not read its trees") from error
        if booster.num_features() != len(features.names):
            raise ValueError(f"trees of {booster.num_features()} features for {len(features.names)}")
        predictor.booster_ = booster
        return predictor

    def _boost(self, columns: Values, aim: Values) -> xgboost.Booster:
        import xgboost

        settings = {
            "max_depth": self.depth,
            "eta": self.learning_rate,
            "min_child_weight": 2,
            "subsample": 0.7,
            "colsample_bytree": 0.5,
            "lambda": 1.0,
            "tree_method": "hist",
            "base_score": 0.0,  # the aim is centred
            "seed": self.seed,
            "nthread": self.n_threads,
        }
        data = xgboost.DMatrix(columns.astype(np.float32), aim, nthread=self.n_threads)
        return xgboost.train(settings, data, self.n_trees)

    def _in_unit(self, output: Values) -> Values:
        aim = output.astype(float) * self.scale_ + self.center_
        return np.exp(aim) if self.target == "relative" else aim
