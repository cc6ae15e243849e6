"""A Gaussian process on groups of columns: accuracy from few scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from predictors.evidence import maximize, posterior
from predictors.features import Features
from predictors.judged import JudgedPredictor, in_chunks
from predictors.line import Groups
from predictors.protocol import Indices, Target, Values, checked
from supernet.space import Genes

__all__ = ["GaussianProcessPredictor", "Smoothed"]

Scale = Literal["plain", "log", "log error"]
Numbers = NDArray[np.float64]

_CHUNK = 4096  # rows predicted at once, each with a number for every architecture that was learned from
_LEARN_FROM = 300  # rows: more of them hardly change the variances, and cost the third power
_LEAST_NOISE = 1e-5  # sd, for values of variance 1
_SPREAD = 2.0  # sd of the prior of every logarithm
# Prior means of logarithms, for values of variance 1; those of linear groups by the first word of the group's name.
_LINEAR = {"earlier": -2.0, "network": -4.0, "stage": -5.0, "block": -6.0}
_CURVED, _RELEVANCE, _NOISE = -2.0, -1.5, -4.0


@dataclass(frozen=True)
class Smoothed:
    """What is believed of the values that were learned from, in their unit and order.

    Attributes:
        means: (n_train,).
        deviations: (n_train,) of the function about them.
        noise: (n_train,) standard deviations that the values were taken to have.
        pull: (n_train, n_train) how every mean changes with every value.
    """

    means: Numbers
    deviations: Numbers
    noise: Numbers
    pull: Numbers


class GaussianProcessPredictor(JudgedPredictor):
    """Additive in every group of features, with a smooth function of all of them on top.

    The covariance of two architectures is a constant, a linear kernel per group with a variance of its own, and one
    squared-exponential kernel over all groups together with a relevance of each (Rasmussen & Williams 2006, chapters
    2, 4 and 5). Variances, relevances and noise maximise the marginal likelihood. Values between 0 and 1, such as
    accuracies, are learned as ``-log(1 - y)`` where that makes them more likely: what counts near the top is by how
    much the errors that are left become fewer.

    Args:
        features: what the model sees; `Levels` for accuracy.
        target: "value" counts errors in the unit of y; "relative" learns log y, whose errors are shares.
        n_folds: folds of the cross-validation behind `out_of_fold_` and the intervals. Ten, since this learns so fast
            from few scores that models of four fifths of them are much worse: their intervals are too wide.
        seed: of the folds.

    Attributes:
        scale_: "plain", "log" (a relative target) or "log error".
    """

    kind = "gaussian process"

    model_: _Process
    scale_: Scale

    def __init__(self, features: Features, target: Target = "value", *, n_folds: int = 10, seed: int = 0) -> None:
        super().__init__(features, target, n_folds=n_folds, seed=seed)

    def fit(self, genes: Genes, y: Values) -> Self:
        """See `JudgedPredictor`."""
        genes, y = checked(genes, y, self.target)
        columns, groups = self.features(genes), self.features.groups
        scales: list[Scale] = ["log"] if self.target == "relative" else ["plain"]
        if self.target == "value" and (y > 0).all() and (y < 1).all():
            scales.append("log error")
        models = {scale: _Process.fit(columns, _onto(scale, y), groups) for scale in scales}
        # Likelihoods are of y: a change of scale brings its derivative.
        self.scale_ = min(scales, key=lambda scale: models[scale].loss - (_log_slope(scale, y)))
        self.model_ = models[self.scale_]
        aim = _onto(self.scale_, y)

        def without(train: Indices, test: Indices) -> Values:
            process = _Process.fit(columns[train], aim[train], groups, self.model_.logs)
            return _back(self.scale_, process(columns[test]))

        self._judge(y, without)
        return self

    def predict(self, genes: Genes) -> Values:
        """(n_archs,) in the unit of y."""
        return _back(self.scale_, in_chunks(lambda some: self.model_(self.features(some)), genes, _CHUNK))

    def deviation(self, genes: Genes) -> Values:
        """(n_archs,) standard deviations of the function itself, without noise, in the unit of y: what a search that
        weighs chances needs. Larger far from what was learned from; `predict_interval` is for measurements."""
        own = in_chunks(lambda some: self.model_.deviation(self.features(some)), genes, _CHUNK)
        return own if self.scale_ == "plain" else own * _slope(self.scale_, self.predict(genes))

    def smoothed(self, y: Values, at_most: Values) -> Smoothed:
        """What the values (n_train,) that `fit` was given are worth without their noise.

        Noise is as large as what the process has learned, or as `at_most` (n_train,) where that is smaller: what lies
        beyond a noise that is known is what networks are really worth.
        """
        slope = np.ones(len(y)) if self.scale_ == "plain" else _slope(self.scale_, y)
        process = self.model_
        noise = np.minimum(np.exp(0.5 * process.logs[-1]) * process.spread, at_most / slope)
        noise = np.maximum(noise, _LEAST_NOISE * process.spread)  # a covariance without any may be singular
        aim = _onto(self.scale_, y)
        pull = process.pull(np.square(noise / process.spread))
        means = pull @ aim
        deviations = np.sqrt(np.maximum(np.diag(pull), 0.0)) * noise
        after = np.ones(len(y)) if self.scale_ == "plain" else _slope(self.scale_, _back(self.scale_, means))
        return Smoothed(
            _back(self.scale_, means), deviations * after, noise * after, after[:, None] * pull / after[None, :]
        )

    def to_dict(self) -> dict[str, Any]:
        """What was learned, as plain data."""
        return super().to_dict() | {"scale": self.scale_, "model": self.model_.to_dict()}

    @classmethod
    def from_dict(cls, features: Features, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; KeyError, TypeError or ValueError where it is not of that form."""
        predictor = cls._judged(features, data)
        if data["scale"] not in ("plain", "log", "log error"):
            raise ValueError(f"scale {data['scale']!r}")
        predictor.scale_ = data["scale"]
        predictor.model_ = _Process.from_dict(data["model"], features.groups)
        return predictor


@dataclass(frozen=True)
class _Process:
    """The posterior mean, and what is needed to say it of other columns."""

    groups: Groups
    center: Numbers  # (n_columns,) means that are taken off
    unit: Numbers  # (n_columns,) makes the mean squared norm of every group's rows 1
    rows: Numbers  # (n_train, n_columns) so centred and scaled
    pulls: Numbers  # (n_train,)
    offset: float
    level: float
    spread: float
    logs: Numbers  # (2 n_groups + 2,): linear, curved, relevances, noise
    loss: float

    @classmethod
    def fit(cls, columns: Numbers, aim: Numbers, names: tuple[str, ...], start: Numbers | None = None) -> Self:
        """Of columns (n_rows, n_columns), aim (n_rows,) and the name of each column's group (n_columns,)."""
        groups = Groups.of(names)
        n, level, spread = len(aim), float(aim.mean()), float(aim.std())
        spread = spread if spread > 1e-9 * abs(level) else 1.0
        center = columns.mean(axis=0)
        rows = columns - center
        sizes = groups.sums(np.einsum("ij,ij->j", rows, rows)) / n
        unit = 1 / np.sqrt(np.where(sizes > 1e-12, sizes, np.inf))[groups.member]
        rows = rows * unit
        standard = (aim - level) / spread
        linear = [_LINEAR.get(name.split(" ")[0], _LINEAR["network"]) for name in groups.names]
        means = np.r_[linear, _CURVED, np.full(len(linear), _RELEVANCE), _NOISE]
        some = np.linspace(0, n - 1, min(n, _LEARN_FROM)).astype(int)
        loss = _loss(rows[some], standard[some], groups)
        logs = maximize(loss, means, _SPREAD, start, 60 if start is None else 20)
        covariance = _linear(rows, rows, groups, logs) + _smooth(rows, rows, groups, logs)
        covariance[np.diag_indices(n)] += np.exp(logs[-1])
        found = posterior(covariance, standard, np.ones(n))
        value = loss(logs)[0] + len(some) * np.log(spread)
        return cls(groups, center, unit, rows, found.pulls, found.offset, level, spread, logs, value)

    def __call__(self, columns: Numbers) -> Numbers:
        """(n_rows,) of columns (n_rows, n_columns)."""
        rows = (columns - self.center) * self.unit
        straight = rows @ (np.exp(self.logs)[: len(self.groups.names)][self.groups.member] * (self.rows.T @ self.pulls))
        bent = _smooth(rows, self.rows, self.groups, self.logs) @ self.pulls
        return self.level + self.spread * (self.offset + straight + bent)

    def pull(self, noise: Numbers) -> Numbers:
        """(n_train, n_train) how the posterior mean of every row learned from changes with every value of `aim`.

        Args:
            noise: (n_train,) variances for values of variance 1, in place of the one that was learned.
        """
        covariance = _linear(self.rows, self.rows, self.groups, self.logs)
        covariance += _smooth(self.rows, self.rows, self.groups, self.logs)
        covariance[np.diag_indices(len(noise))] += noise
        return (
            np.eye(len(noise))
            - noise[:, None] * posterior(covariance, np.zeros(len(noise)), np.ones(len(noise))).precision
        )

    def deviation(self, columns: Numbers) -> Numbers:
        """(n_rows,) of the function at columns (n_rows, n_columns), its unknown constant included."""
        rows = (columns - self.center) * self.unit
        between = _linear(self.rows, rows, self.groups, self.logs) + _smooth(self.rows, rows, self.groups, self.logs)
        weights = np.exp(self.logs)[: len(self.groups.names)][self.groups.member]
        own = np.einsum("ij,ij,j->i", rows, rows, weights) + np.exp(self.logs[len(self.groups.names)])
        covariance = _linear(self.rows, self.rows, self.groups, self.logs)
        covariance += _smooth(self.rows, self.rows, self.groups, self.logs)
        covariance[np.diag_indices(len(covariance))] += np.exp(self.logs[-1])
        solved = np.linalg.solve(covariance, np.column_stack([between, np.ones(len(covariance))]))
        constant = solved[:, -1]
        missing = 1 - constant @ between
        variance = own - np.einsum("ij,ij->j", between, solved[:, :-1]) + missing**2 / constant.sum()
        return self.spread * np.sqrt(np.maximum(variance, 0.0))

    def to_dict(self) -> dict[str, Any]:
        return {
            "center": self.center.tolist(),
            "unit": self.unit.tolist(),
            "rows": self.rows.tolist(),
            "pulls": self.pulls.tolist(),
            "offset": self.offset,
            "level": self.level,
            "spread": self.spread,
            "logs": self.logs.tolist(),
            "loss": self.loss,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], names: tuple[str, ...]) -> Self:
        groups = Groups.of(names)
        n = len(names)
        center, unit, rows, pulls, logs = (
            np.array(data[name], dtype=float) for name in ("center", "unit", "rows", "pulls", "logs")
        )
        if rows.shape != (len(pulls), n) or center.shape != (n,) or unit.shape != (n,):
            raise ValueError(f"rows {rows.shape} for {n} features")
        if logs.shape != (2 * len(groups.names) + 2,):
            raise ValueError(f"{len(logs)} variances for {len(groups.names)} groups")
        offset, level, spread, loss = (float(data[name]) for name in ("offset", "level", "spread", "loss"))
        return cls(groups, center, unit, rows, pulls, offset, level, spread, logs, loss)


def _linear(a: Numbers, b: Numbers, groups: Groups, logs: Numbers) -> Numbers:
    return (a * np.exp(logs[: len(groups.names)])[groups.member]) @ b.T


def _smooth(a: Numbers, b: Numbers, groups: Groups, logs: Numbers) -> Numbers:
    """(n_a, n_b) the squared-exponential kernel."""
    n = len(groups.names)
    root = np.exp(0.5 * logs[n + 1 : -1])[groups.member]
    return np.exp(logs[n] - 0.5 * _distances(a * root, b * root))


def _distances(a: Numbers, b: Numbers) -> Numbers:
    """(n_a, n_b) squared distances of rows."""
    squares = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b)
    return np.maximum(squares - 2 * a @ b.T, 0.0)


def _loss(rows: Numbers, aim: Numbers, groups: Groups) -> Callable[[Numbers], tuple[float, Numbers]]:
    """Minus the log marginal likelihood of logarithms of variances, with its gradient."""
    n_linear = len(groups.names)
    own = [rows[:, groups.member == i] for i in range(n_linear)]
    distances = np.array([_distances(one, one) for one in own]).reshape(n_linear, -1)
    n = len(aim)

    def loss(logs: Numbers) -> tuple[float, Numbers]:
        values = np.exp(logs)
        smooth = values[n_linear] * np.exp(-0.5 * (values[n_linear + 1 : -1] @ distances)).reshape(n, n)
        covariance = _linear(rows, rows, groups, logs) + smooth
        covariance[np.diag_indices(n)] += values[-1]
        found = posterior(covariance, aim, np.ones(n))
        push = found.precision - np.outer(found.pulls, found.pulls)
        linear = groups.sums(np.einsum("ij,ij->j", rows, push @ rows)) * values[:n_linear]
        moved = (push * smooth).ravel()
        bent = -0.5 * values[n_linear + 1 : -1] * (distances @ moved)
        slopes = np.concatenate([linear, [moved.sum()], bent, [np.trace(push) * values[-1]]])
        return found.loss, 0.5 * slopes

    return loss


def _onto(scale: Scale, y: Values) -> Values:
    if scale == "log":
        return np.log(y)
    return -np.log1p(-y) if scale == "log error" else y


def _back(scale: Scale, aim: Values) -> Values:
    if scale == "log":
        return np.exp(aim)
    return -np.expm1(-aim) if scale == "log error" else aim


def _slope(scale: Scale, y: Values) -> Values:
    """By how much y changes with the aim."""
    return 1 - y if scale == "log error" else y


def _log_slope(scale: Scale, y: Values) -> float:
    """The sum of the logarithms of the derivatives of `_onto`, over as many rows as a likelihood is of."""
    some = np.linspace(0, len(y) - 1, min(len(y), _LEARN_FROM)).astype(int)
    return float(-np.log1p(-y[some]).sum()) if scale == "log error" else 0.0
