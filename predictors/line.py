"""One robust line: a linear model with a prior variance per group of columns, heavy-tailed noise, and no settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from predictors.evidence import maximize, posterior
from predictors.protocol import Target

__all__ = ["Groups", "Line", "Prior"]

Numbers = NDArray[np.float64]

_LEARN_FROM = 120  # rows: more of them hardly change the variances, and cost the third power
_SPREAD = 2.5  # sd of the prior of every logarithm
_ROUNDS = 4  # of re-weighting
_FREEDOM = 2.0  # degrees of freedom of the noise
_LEAST = 0.05  # of the median: errors of smaller values are shares of this, or one next to nothing would rule all
_SHARE = 4.0  # sd of values whose errors are no shares: by so much the priors below are for shares
_FARTHEST = 10.0  # scales beyond which a row cannot be more of an outlier than it is
# Means of the logarithms of the groups' variances, by the first word of a group's name. The aim is 1 (see
# `RidgePredictor`), so exp(-4.5) says that what a network costs in all moves a prediction by some 10 %.
_LOG_VARIANCES = {"network": -4.5, "stage": -7.5, "block": -10.5, "resolution": -5.0}
# The number of layers in all; a sum of blocks, and the mean of other devices, that are the whole but for a factor; and
# by how much a device lies apart from others.
_LOG_WHOLE = {"network layers": -2.5, "network sum": 0.0, "devices mean": 0.0, "devices apart": -3.0}
_LOG_NOISE = -8.0


@dataclass(frozen=True)
class Prior:
    """What is thought of the variances of groups before anything is seen."""

    means: Numbers
    """(n_groups + 1,) of their logarithms; the noise is last."""
    spreads: Numbers
    """(n_groups + 1,) standard deviations of their logarithms."""
    freedom: float = _FREEDOM
    """Degrees of freedom of the noise, which is Student's."""


@dataclass(frozen=True)
class Groups:
    """Which columns have a variance in common."""

    names: tuple[str, ...]
    member: NDArray[np.intp]
    """(n_columns,) the number of each column's group."""

    @classmethod
    def of(cls, groups: tuple[str, ...]) -> Self:
        """From the name of each column's group (n_columns,)."""
        names = tuple(dict.fromkeys(groups))
        numbers = {name: i for i, name in enumerate(names)}
        return cls(names, np.array([numbers[group] for group in groups], dtype=np.intp))

    @property
    def prior(self) -> Prior:
        """What is usual for groups of these names."""
        means = np.array([*map(_prior_mean, self.names), _LOG_NOISE])
        return Prior(means, np.full(len(means), _SPREAD))

    def some(self, logs: Numbers, others: Groups) -> Numbers:
        """Logarithms of variances for `others`, groups that are among these, out of those for these."""
        return np.array([logs[self.names.index(name)] for name in others.names] + [logs[-1]])

    def sums(self, per_column: Numbers) -> Numbers:
        """(n_groups,) sums of what is per column (n_columns,)."""
        return np.bincount(self.member, per_column, minlength=len(self.names)).astype(float)


def _prior_mean(group: str) -> float:
    if group in _LOG_WHOLE:
        return _LOG_WHOLE[group]
    return _LOG_VARIANCES.get(group.split(" ")[0], _LOG_VARIANCES["network"])


@dataclass(frozen=True)
class Line:
    """``y = columns @ coefficients + intercept``, fitted; everything in the unit of y."""

    coefficients: Numbers
    """(n_columns,)"""
    intercept: float
    without_itself: Numbers
    """(n_rows,) every row predicted from the others, with the variances of all."""
    logs: Numbers
    """(n_groups + 1,) logarithms of the variances: where the next fit of the like may begin."""

    @classmethod
    def fit(
        cls,
        columns: Numbers,
        y: Numbers,
        target: Target,
        groups: Groups,
        start: Numbers | None = None,
        learn: bool = True,
        rounds: int = _ROUNDS,
        prior: Prior | None = None,
    ) -> Self:
        """Of columns (n_rows, n_columns) and y (n_rows,), with errors counted in `target`.

        The prior of a column is Normal(0, variance of its group / mean squared norm of the group's rows). The
        variances maximise the marginal likelihood (MacKay 1992, "Bayesian interpolation"). The noise is Student's t: a
        row's weight follows from its expected squared error, and weights and variances are found in turn (Lange,
        Little & Taylor 1989), so a burst on a busy device moves little.

        Args:
            start: `logs` of an earlier fit.
            learn: whether the variances are learned; else they are those of `start`.
            rounds: of re-weighting.
            prior: of the variances; default: what is usual for groups of these names.
        """
        n = len(y)
        prior = groups.prior if prior is None else prior
        # Dividing an equation by y turns its error into a share of y, and y into 1.
        if target == "relative":
            scale = 1 / np.maximum(y, _LEAST * np.median(y))
        else:
            scale = np.full(n, 1 / (_SHARE * (float(y.std()) or 1.0)))
        shift = 0.0 if target == "relative" else float(y.mean())
        sizes = np.maximum(groups.sums(((columns * scale[:, None]) ** 2).sum(axis=0)) / n, 1e-12)
        unit = 1 / np.sqrt(sizes[groups.member])
        design, aim, constant = columns * (scale[:, None] * unit), (y - shift) * scale, scale / scale.mean()

        def fitted(weights: Numbers, logs: Numbers) -> _Weighted:
            deviations = np.exp(0.5 * logs[:-1])[groups.member]
            return _Weighted.of(design, aim, constant, weights, deviations, float(np.exp(logs[-1])))

        def learned(weights: Numbers, logs: Numbers | None) -> Numbers:
            if not learn:
                return prior.means if logs is None else logs
            some = np.linspace(0, n - 1, min(n, _LEARN_FROM)).astype(int)
            root = np.sqrt(weights[some])
            loss = _loss(design[some] * root[:, None], aim[some] * root, constant[some] * root, groups)
            return maximize(loss, prior.means, prior.spreads, logs, 60 if logs is None else 8)

        weights = np.ones(n)
        logs = learned(weights, start)
        for _ in range(rounds):
            weights = fitted(weights, logs).weights(float(np.exp(logs[-1])), prior.freedom)
            logs = learned(weights, logs)
        found = fitted(weights, logs)
        intercept = shift + found.offset / float(scale.mean())
        return cls(unit * found.coefficients, intercept, y - found.outside / scale, logs)

    def __call__(self, columns: Numbers) -> Numbers:
        """(n_rows,) of columns (n_rows, n_columns)."""
        return columns @ self.coefficients + self.intercept


@dataclass(frozen=True)
class _Weighted:
    """The least squares of rows that have weights, under priors."""

    coefficients: Numbers  # (n_columns,)
    offset: float  # of the constant
    inside: Numbers  # (n_rows,) errors
    outside: Numbers  # (n_rows,) errors without the row
    variance: Numbers  # (n_rows,) of the line at the row

    @classmethod
    def of(
        cls, design: Numbers, aim: Numbers, constant: Numbers, weights: Numbers, deviations: Numbers, noise: float
    ) -> Self:
        """With prior standard deviations (n_columns,) and the variance of the noise of a row of weight 1."""
        root = np.sqrt(weights)
        columns = np.column_stack([design * deviations, constant]) * root[:, None]
        gram = columns.T @ columns
        gram[np.diag_indices(len(gram) - 1)] += noise  # not of the constant, of which nothing is known
        factor = linalg.cho_factor(gram, lower=True)
        solution = linalg.cho_solve(factor, columns.T @ (aim * root))
        leverage = np.minimum(np.einsum("ij,ji->i", columns, linalg.cho_solve(factor, columns.T)), 1 - 1e-6)
        inside = aim - columns @ solution / root
        offset = float(solution[-1])
        return cls(deviations * solution[:-1], offset, inside, inside / (1 - leverage), noise * leverage / weights)

    def weights(self, noise: float, freedom: float) -> Numbers:
        """(n_rows,) Student's, from the expected squared errors."""
        # A row's own error is too small where the row leads the line, its leave-one-out error too large: their mean.
        outside = np.minimum(self.outside**2, _FARTHEST**2 * noise)
        expected = 0.5 * (self.inside**2 + self.variance + outside)
        return (freedom + 1) / (freedom + expected / noise)


def _loss(
    scaled: Numbers, aim: Numbers, constant: Numbers, groups: Groups
) -> Callable[[Numbers], tuple[float, Numbers]]:
    """Minus the log marginal likelihood of logarithms (n_groups + 1,) of variances, with its gradient."""

    def loss(logs: Numbers) -> tuple[float, Numbers]:
        covariance = (scaled * np.exp(logs[:-1])[groups.member]) @ scaled.T
        covariance[np.diag_indices(len(aim))] += np.exp(logs[-1])
        found = posterior(covariance, aim, constant)
        through = np.einsum("ij,ij->j", scaled, found.precision @ scaled)
        slopes = groups.sums(through - (scaled.T @ found.pulls) ** 2)
        noise = np.trace(found.precision) - found.pulls @ found.pulls
        return found.loss, 0.5 * np.append(slopes, noise) * np.exp(logs)

    return loss
