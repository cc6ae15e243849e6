"""Which candidates may be on a front, where their values are known with some error only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.front import Values

__all__ = ["contenders"]

_ROWS = 1024  # compared with all at a time


def contenders(losses: Values, deviations: Values, sure: float = 2.0) -> NDArray[np.bool_]:
    """(n,) which rows no other one dominates for sure: those of the front, and runners-up within their uncertainty.

    One row dominates another for sure if it is better, by `sure` standard deviations of the difference, on every axis
    that is uncertain, and not worse on the others. A larger measuring among these cannot miss a member of the front.

    Args:
        losses: (n, n_axes), smaller is better.
        deviations: (n, n_axes) standard deviations of the losses; 0 where a value is exact.

    Raises:
        ValueError: shapes that differ, or deviations that are no numbers from 0 on.
    """
    if losses.shape != deviations.shape or losses.ndim != 2:
        raise ValueError(f"losses {losses.shape} and deviations {deviations.shape} must be of one shape (n, n_axes)")
    if not (deviations >= 0).all():
        raise ValueError("deviations must be numbers from 0 on")
    kept = np.ones(len(losses), dtype=bool)
    for first in range(0, len(losses), _ROWS):
        rows = slice(first, first + _ROWS)
        not_worse = np.ones((len(losses[rows]), len(losses)), dtype=bool)
        better = np.zeros_like(not_worse)
        for axis in range(losses.shape[1]):
            margin = sure * np.hypot(deviations[rows, axis, None], deviations[None, :, axis])
            lead = losses[rows, axis, None] - losses[None, :, axis]  # how much better the others are
            not_worse &= np.where(margin > 0, lead > margin, lead >= 0)
            better |= lead > margin
        kept[rows] = ~(not_worse & better).any(axis=1)
    return kept
