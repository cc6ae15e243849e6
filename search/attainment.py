"""What a search attains again and again: one staircase for many repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from search.front import Values, non_dominated

__all__ = ["attained"]


def attained(fronts: Sequence[Values], share: float) -> Values:
    """The corners (n, 2), ordered by the second loss, of the surface that a share of the repeats attains or dominates.

    The summary attainment surface (Fonseca & Fleming 1996; Knowles 2005): with one half that of a typical repeat, with
    1 what all attain, with 0 what the luckiest of them do.

    Args:
        fronts: of every repeat losses (n, 2), smaller is better.
        share: of the repeats, from 0 to 1.

    Raises:
        ValueError: no repeat, another number of losses, or a share that is none.
    """
    if not fronts or any(front.ndim != 2 or front.shape[1] != 2 for front in fronts):
        raise ValueError(f"{len(fronts)} fronts; an attainment surface needs at least one, each of two losses")
    if not 0 <= share <= 1:
        raise ValueError(f"share {share:g} must be from 0 to 1")
    needed = max(math.ceil(share * len(fronts)), 1)
    costs = np.unique(np.concatenate([front[:, 1] for front in fronts]))
    best = np.full((len(fronts), len(costs)), np.inf)
    for row, front in zip(best, fronts, strict=True):
        for first, cost in front:
            reached = costs >= cost
            row[reached] = np.minimum(row[reached], first)
    heights = np.sort(best, axis=0)[needed - 1]
    corners = np.stack([heights, costs], axis=1)[np.isfinite(heights)]
    corners = np.unique(corners[non_dominated(corners)], axis=0)
    return corners[np.argsort(corners[:, 1], kind="stable")]
