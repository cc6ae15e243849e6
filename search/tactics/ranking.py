"""Which of several architectures are better, for any number of objectives and with constraints."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from search.front import Values, non_dominated

__all__ = ["best_spread", "leading", "ranks", "spread"]


def ranks(losses: Values, violations: Values) -> NDArray[np.int64]:
    """(n,) from 0, the best: by non-dominated front (Deb et al. 2002); what violates constraints after all others."""
    found = np.zeros(len(losses), dtype=np.int64)
    holding = np.flatnonzero(violations <= 0)
    n_fronts = 0
    if len(holding):
        for n_fronts, front in enumerate(NonDominatedSorting().do(losses[holding]), start=1):
            found[holding[front]] = n_fronts - 1
    broken = np.flatnonzero(violations > 0)
    found[broken] = n_fronts + np.unique(violations[broken], return_inverse=True)[1]
    return found


def leading(losses: Values, violations: Values) -> NDArray[np.int64]:
    """Rows of the front of what holds the constraints; where nothing does, of what is nearest to them."""
    holding = np.flatnonzero(violations <= 0)
    if len(holding) == 0:
        return np.flatnonzero(violations == violations.min()) if len(violations) else holding
    return holding[non_dominated(losses[holding])]


def spread(losses: Values, n: int) -> NDArray[np.int64]:
    """Up to `n` rows that lie far from each other: the ends first, then each time the one that is farthest from those
    before it (Gonzalez 1985), in units of the range of every objective."""
    if len(losses) <= n:
        return np.arange(len(losses))
    ranges = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(ranges > 0, ranges, 1.0)
    chosen = list(dict.fromkeys(scaled.argmin(axis=0).tolist()))[:n]
    away = np.min([np.square(scaled - scaled[one]).sum(axis=1) for one in chosen], axis=0)
    while len(chosen) < n:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.square(scaled - scaled[chosen[-1]]).sum(axis=1))
    return np.array(chosen, dtype=np.int64)


def best_spread(losses: Values, n: int) -> NDArray[np.int64]:
    """Up to `n` rows: of the front those that lie far from each other, then of the front of the rest, and so on."""
    left = np.arange(len(losses))
    chosen: list[int] = []
    while len(chosen) < n and len(left):
        front = left[non_dominated(losses[left])]
        chosen += front[spread(losses[front], n - len(chosen))].tolist()
        left = np.setdiff1d(left, front)
    return np.array(chosen, dtype=np.int64)
