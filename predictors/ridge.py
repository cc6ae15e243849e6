"""Ridge regression with one penalty per group of features, learned from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from scipy import linalg, optimize

from predictors.features import Features
from predictors.protocol import Residuals, Target, Values, checked
from supernet.space import Genes

__all__ = ["RidgePredictor"]

_CHUNK = 16_384  # rows predicted at once, so that a million architectures need not fit in memory
_LEARN_PENALTIES_FROM = 600  # architectures: more of them do not change the penalties, and cost the third power


class RidgePredictor:
    """A linear model of features, shrunken towards zero, group by group.

    The weight of each group is a variance; all are learned together with the noise by maximising the marginal
    likelihood (MacKay 1992, "Bayesian interpolation"), so there is no grid and nothing to set. With `BlockTerms` it is
    the predictor for latency from few measurements; with one group it is plain ridge regression.

    Args:
        features: what the model sees.
        target: "value" minimises squared errors; "relative" minimises squared errors as shares of y, while the model
            stays additive, as latency is.

    Attributes:
        coefficients_: (n_features,).
        intercept_: a number in the unit of y.
        out_of_fold_: (n_train,) exact leave-one-out predictions, with the penalties of all.
        residuals_: their errors.
    """

    kind = "ridge"

    coefficients_: Values
    intercept_: float
    floor_: float
    out_of_fold_: Values
    residuals_: Residuals

    def __init__(self, features: Features, target: Target = "value") -> None:
        self.features = features
        self.target: Target = target

    def fit(self, genes: Genes, y: Values) -> Self:
        """Learn y (n_archs,) of genes (n_archs, n_genes).

        Raises:
            ValueError: shapes or values that cannot be learned from.
        """
        genes, y = checked(genes, y, self.target)
        columns = self.features(genes)
        level = float(np.mean(y))
        # Rows are scaled by 1/y for relative errors: dividing an equation by y turns its residual into a share.
        row_scale = level / y if self.target == "relative" else np.ones_like(y)
        constant = row_scale / np.linalg.norm(row_scale)
        design = columns * row_scale[:, None]
        design -= np.outer(constant, constant @ design)  # the constant is not penalised: project it out
        aim = (y - level) * row_scale
        aim -= constant * (constant @ aim)

        weights = self._column_weights(design, aim)
        scaled = design * weights
        gram = linalg.cho_factor(scaled.T @ scaled + np.eye(scaled.shape[1]))
        self.coefficients_ = weights * linalg.cho_solve(gram, scaled.T @ aim)
        self.intercept_ = level + float(constant @ (row_scale * (y - level - columns @ self.coefficients_))) / float(
            np.linalg.norm(row_scale)
        )
        # Far from the data a line may fall below zero, which no latency does.
        self.floor_ = 0.25 * float(y.min()) if self.target == "relative" else -np.inf
        hat = np.sum(scaled * linalg.cho_solve(gram, scaled.T).T, axis=1) + constant**2
        residual = (y - self.intercept_ - columns @ self.coefficients_) / np.maximum(1 - hat, 1e-6)
        self.out_of_fold_ = np.maximum(y - residual, self.floor_)
        self.residuals_ = Residuals.of(y, self.out_of_fold_, self.target)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        parts = [
            self.features.dot(genes[start : start + _CHUNK], self.coefficients_)
            for start in range(0, len(genes), _CHUNK)
        ]
        return np.maximum(np.concatenate(parts) + self.intercept_ if parts else np.empty(0), self.floor_)

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
            "intercept": self.intercept_,
            "floor": self.floor_ if np.isfinite(self.floor_) else None,
            "coefficients": self.coefficients_.tolist(),
            "out_of_fold": self.out_of_fold_.tolist(),
            "errors": self.residuals_.errors.tolist(),
        }

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        predictor = cls(features, data["target"])
        predictor.coefficients_ = np.array(data["coefficients"], dtype=float)
        if predictor.coefficients_.shape != (len(features.names),):
            raise ValueError(f"{len(predictor.coefficients_)} coefficients for {len(features.names)} features")
        predictor.intercept_ = float(data["intercept"])
        predictor.floor_ = -np.inf if data["floor"] is None else float(data["floor"])
        predictor.out_of_fold_ = np.array(data["out_of_fold"], dtype=float)
        predictor.residuals_ = Residuals(data["target"], np.array(data["errors"], dtype=float))
        return predictor

    def _column_weights(self, design: Values, aim: Values) -> Values:
        """(n_features,) standard deviation of each coefficient over that of the noise."""
        groups = list(dict.fromkeys(self.features.groups))
        member = np.array([groups.index(group) for group in self.features.groups])
        rows = np.linspace(0, len(aim) - 1, min(len(aim), _LEARN_PENALTIES_FROM)).astype(int)
        design, aim = design[rows], aim[rows]
        grams, sizes = [], np.ones(len(groups))
        for i in range(len(groups)):
            own = design[:, member == i]
            gram = own @ own.T
            sizes[i] = max(np.trace(gram) / len(aim), 1e-12)  # every group starts with the same say
            grams.append(gram / sizes[i])
        variances = _evidence(np.array(grams), aim)
        return np.sqrt(variances[:-1] / sizes / variances[-1])[member]


def _evidence(grams: Values, aim: Values) -> Values:
    """Variances (n_groups + 1,) of the groups and, last, of the noise, that make `aim` (n,) most likely.

    The model is aim ~ Normal(0, sum of variance × gram + noise × identity), with grams (n_groups, n, n).
    """
    n = len(aim)
    spread = float(np.mean(aim**2)) or 1.0
    aim = aim / np.sqrt(spread)

    def loss(logs: Values) -> tuple[float, Values]:
        variances = np.exp(logs)
        covariance = np.tensordot(variances[:-1], grams, axes=1)
        covariance[np.diag_indices(n)] += variances[-1]
        factor = linalg.cho_factor(covariance, lower=True)
        inverse = linalg.cho_solve(factor, np.eye(n))
        alpha = inverse @ aim
        value = 0.5 * aim @ alpha + np.log(np.diag(factor[0])).sum()
        pull = np.outer(alpha, alpha) - inverse
        slopes = np.append(np.tensordot(grams, pull, axes=2), np.trace(pull))
        return float(value), np.asarray(-0.5 * slopes * variances, dtype=float)

    # Starts: a little of everything, and mostly noise. The surface may have two hollows when n is small.
    starts = (np.full(len(grams) + 1, -3.0), np.append(np.full(len(grams), -7.0), -0.5))
    bounds = [(-16.0, 6.0)] * len(grams) + [(-12.0, 2.0)]
    runs = [optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds) for start in starts]
    return np.exp(min(runs, key=lambda run: run.fun).x) * spread
