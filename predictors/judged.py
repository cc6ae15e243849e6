"""What predictors share that judge themselves in folds: their errors, and the intervals that follow from these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from predictors.features import Features
from predictors.protocol import Indices, Residuals, Target, Values, folds
from supernet.space import Genes

__all__ = ["JudgedPredictor", "in_chunks"]


class JudgedPredictor(ABC):
    """A `Predictor` but for what it learns: a subclass has `fit`, which ends with `_judge`, `predict`, `to_dict` and
    `from_dict`.

    Args:
        features: what the model sees.
        target: what errors are counted in, see `Target`.
        n_folds: folds of the cross-validation behind `out_of_fold_` and the intervals.
        seed: of the folds.

    Attributes:
        residuals_: the errors of `out_of_fold_`.
    """

    kind: str
    residuals_: Residuals

    def __init__(self, features: Features, target: Target = "value", *, n_folds: int = 5, seed: int = 0) -> None:
        self.features = features
        self.target: Target = target
        self.n_folds = n_folds
        self.seed = seed

    @property
    def out_of_fold_(self) -> Values:
        """(n_train,) predictions by models that have not seen the architecture, refitted in everything."""
        return self.residuals_.out_of_fold

    @abstractmethod
    def fit(self, genes: Genes, y: Values) -> Self:
        """Learn y (n_archs,) of genes (n_archs, n_genes).

        Raises:
            ValueError: shapes or values that cannot be learned from.
        """

    @abstractmethod
    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""

    def predict_interval(self, genes: Genes, coverage: float = 0.9) -> Values:
        """(n_archs, 2); see `Residuals.interval`."""
        return self.residuals_.interval(self.predict(genes), coverage)

    def probability_below(self, genes: Genes, limit: float) -> Values:
        """(n_archs,); see `Residuals.probability_below`."""
        return self.residuals_.probability_below(self.predict(genes), limit)

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data; a subclass adds its own."""
        return {"target": self.target, **self.residuals_.to_dict()}

    @classmethod
    @abstractmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""

    @classmethod
    def _judged(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """A new one with what `to_dict` here has written."""
        predictor = cls(features, data["target"])
        predictor.residuals_ = Residuals.from_dict(data)
        return predictor

    def _judge(self, y: Values, without: Callable[[Indices, Indices], Values]) -> None:
        """Find the errors: `without` predicts rows, its second argument, by a model of the others, its first."""
        out_of_fold = np.empty_like(y)
        for train, test in folds(len(y), self.n_folds, self.seed):
            out_of_fold[test] = without(train, test)
        self.residuals_ = Residuals.of(y, out_of_fold, self.target)


def in_chunks(predict: Callable[[Genes], Values], genes: Genes, size: int) -> Values:
    """(n_archs,) of genes (n_archs, n_genes), so many rows at a time: the features of a million need not fit in
    memory."""
    parts = [predict(genes[start : start + size]) for start in range(0, len(genes), size)]
    return np.concatenate(parts) if parts else np.empty(0)
