"""Error cards: how far a predictor can be trusted, on architectures it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from predictors.protocol import Predictor, Values, folds
from supernet.space import Genes

__all__ = ["ErrorCard", "error_card", "kendall_tau"]


@dataclass(frozen=True)
class ErrorCard:
    """Errors on held-out architectures; shares lie between 0 and 1.

    `kendall_tau` is NaN where all predictions or all values are equal; the relative errors are NaN where a value is not
    positive.
    """

    n_train: int
    """Architectures the judged models learned from (with folds: the fewest)."""
    n_test: int
    """Architectures they were judged on."""
    kendall_tau: float
    """Agreement of the two rankings, −1 to 1 (Kendall 1938, tau-b)."""
    mape: float
    """Mean absolute relative error; `median_error` is its median, which a burst of noise does not move."""
    median_error: float
    within_10_percent: float
    """Share of architectures whose relative error is at most a tenth."""
    coverage: float
    """What the intervals promise, and..."""
    interval_coverage: float
    """...the share of values that lay inside."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; NaN becomes None."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """One line for people."""
        numbers = {
            f"Kendall τ {self.kendall_tau:.3f}": self.kendall_tau,
            f"error {self.mape:.1%} (median {self.median_error:.1%})": self.mape,
            f"within 10 % {self.within_10_percent:.0%}": self.within_10_percent,
        }
        parts = [text for text, value in numbers.items() if value == value]
        if self.interval_coverage == self.interval_coverage:
            parts.append(f"{self.coverage:.0%} intervals hold {self.interval_coverage:.0%}")
        else:
            parts.append(f"too few for intervals of {self.coverage:.0%} to be judged")
        return f"{', '.join(parts)} ({self.n_test} held out, {self.n_train} learned)"


def error_card(
    make_predictor: Callable[[], Predictor],
    genes: Genes,
    y: Values,
    *,
    held_out: tuple[Genes, Values] | None = None,
    n_folds: int = 5,
    seed: int = 0,
    coverage: float = 0.9,
) -> ErrorCard:
    """The card of a freshly made and fitted predictor for y (n_archs,) of genes (n_archs, n_genes).

    With `held_out` (genes, y) it learns from everything given and is judged on those; without, every architecture is
    held out once, in `n_folds` folds drawn by `seed`. An interval that cannot be given (too few architectures for the
    coverage) counts as NaN.
    """
    genes, y = np.asarray(genes), np.asarray(y, dtype=float)
    if held_out is not None:
        runs = [(genes, y, np.asarray(held_out[0]), np.asarray(held_out[1], dtype=float))]
    else:
        runs = [(genes[a], y[a], genes[b], y[b]) for a, b in folds(len(y), n_folds, seed)]
    predicted, truth, inside = [], [], []
    for train, y_train, test, y_test in runs:
        predictor = make_predictor().fit(train, y_train)
        predicted.append(predictor.predict(test))
        truth.append(y_test)
        try:
            lower, upper = predictor.predict_interval(test, coverage).T
        except ValueError:
            inside.append(np.full(len(y_test), np.nan))
        else:
            inside.append(((lower <= y_test) & (y_test <= upper)).astype(float))
    return _card(
        np.concatenate(predicted), np.concatenate(truth), np.concatenate(inside), min(len(r[1]) for r in runs), coverage
    )


def kendall_tau(truth: Values, predicted: Values) -> float:
    """Agreement of two rankings (n_archs,) each, −1 to 1, ties counted as tau-b does; NaN where one is constant."""
    from scipy.stats import kendalltau  # takes most of a second, which verbs that rank nothing need not wait for

    return float(kendalltau(truth, predicted).statistic)  # type: ignore[attr-defined]


def _card(predicted: Values, truth: Values, inside: Values, n_train: int, coverage: float) -> ErrorCard:
    relative = np.abs(predicted - truth) / truth if (truth > 0).all() else np.full(len(truth), np.nan)
    return ErrorCard(
        n_train=n_train,
        n_test=len(truth),
        kendall_tau=kendall_tau(truth, predicted),
        mape=float(relative.mean()),
        median_error=float(np.median(relative)),
        within_10_percent=float(np.mean(relative <= 0.1)) if np.isfinite(relative).all() else float("nan"),
        coverage=coverage,
        interval_coverage=float(inside.mean()),
    )
