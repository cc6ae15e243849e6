"""Learning variances by marginal likelihood: what the ridge and the Gaussian process have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy.linalg import lapack as _lapack

__all__ = ["Posterior", "maximize", "posterior"]

Numbers = NDArray[np.float64]
lapack: Any = _lapack  # made of Fortran, without types

_LOG_RANGE = 12.0  # how far a logarithm may go from its prior mean: beyond, a variance is nothing or everything


@dataclass(frozen=True)
class Posterior:
    """What ``aim ~ Normal(constant × offset, covariance)`` says, with nothing known of the offset."""

    loss: float
    """Minus the logarithm of the restricted marginal likelihood, but for a number that depends on n alone."""
    pulls: Numbers
    """(n,) `precision` times aim: the weight of every row in a prediction."""
    precision: Numbers
    """(n, n) the inverse covariance with the constant projected out."""
    offset: float
    """The estimate of what the constant is multiplied by."""

    @property
    def without_itself(self) -> Numbers:
        """(n,) the error of every row when it is predicted from all others, in closed form (Dubrule 1983)."""
        return self.pulls / np.diag(self.precision)


def posterior(covariance: Numbers, aim: Numbers, constant: Numbers) -> Posterior:
    """The posterior for a covariance (n, n), which is overwritten, aim (n,) and constant (n,).

    The marginal likelihood is that of everything but the constant (REML, Patterson & Thompson 1971).

    Raises:
        FloatingPointError: the covariance is not positive definite in floating point.
    """
    factor, failed = lapack.dpotrf(covariance, lower=1, overwrite_a=1)
    if failed:
        raise FloatingPointError("a covariance is not positive definite")
    log_determinant = 2 * float(np.log(np.diag(factor)).sum())
    inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse)
    inverse += np.tril(inverse, -1).T
    towards = inverse @ constant
    weight = float(constant @ towards)
    precision = inverse - np.outer(towards, towards / weight)
    pulls = precision @ aim
    loss = 0.5 * (float(aim @ pulls) + log_determinant + float(np.log(weight)))
    return Posterior(loss, pulls, precision, float(towards @ aim) / weight)


def maximize(
    loss: Callable[[Numbers], tuple[float, Numbers]],
    means: Numbers,
    spread: Numbers | float,
    start: Numbers | None = None,
    steps: int = 60,
) -> Numbers:
    """Logarithms (n,) that make a marginal likelihood and their own priors, Normal(means, spread²), largest.

    Without the priors a few dozen rows overfit their variances.

    Args:
        loss: logarithms to minus the log likelihood and its gradient.
        spread: one for all, or (n,).
        start: where to begin; default: at the means.
        steps: of L-BFGS (Liu & Nocedal 1989) at most.
    """

    def objective(logs: Numbers) -> tuple[float, Numbers]:
        try:
            value, slopes = loss(logs)
        except FloatingPointError:
            return 1e10, np.zeros_like(logs)
        away = (logs - means) / spread
        return value + 0.5 * float(away @ away), slopes + away / spread

    found = optimize.minimize(
        objective,
        means if start is None else start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(mean - _LOG_RANGE, mean + _LOG_RANGE) for mean in means],
        options={"maxiter": steps, "ftol": 1e-6, "gtol": 1e-2},
    )
    return np.asarray(found.x, dtype=float)
