"""Which stretches of a campaign were disturbed, as the reference network saw it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["disturbed_turns", "quiet_level"]


def quiet_level(seconds: Sequence[float] | NDArray[np.float64]) -> float:
    """What the reference network takes when little else goes on: the lower quartile.

    Other programs only ever slow a network down, so the faster half of its times says more than the slower one; the
    minimum would say least, since it falls with the number of repeats.
    """
    return float(np.quantile(seconds, 0.25))


def disturbed_turns(
    seconds: Sequence[float] | NDArray[np.float64], level: float, tolerance: float
) -> NDArray[np.bool_]:
    """Per turn (n_turns,) whether it lies in a stretch that was slower than `level` by more than `tolerance`.

    A stretch is what two neighbouring turns agree on: the times are smoothed by a median of three, so that a single
    slow repeat marks nothing. The tolerance is widened by twice the jitter from turn to turn, estimated from successive
    differences (von Neumann et al. 1941), which slow changes do not enter.

    Args:
        seconds: of the reference network, one for each turn.
        level: seconds that it should take.
        tolerance: as a share of the level.
    """
    values = np.asarray(seconds, dtype=float)
    if len(values) < 3:
        return np.zeros(len(values), dtype=bool)
    padded = np.concatenate([values[1:2], values, values[-2:-1]])  # an end counts with its neighbour on both sides
    smooth = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
    jitter = 1.4826 * float(np.median(np.abs(np.diff(values)))) / np.sqrt(2) / level
    return smooth > level * (1 + tolerance + 2 * jitter)
