"""Picking what to measure next: well spread candidates of a predicted front."""

from __future__ import annotations

import numpy as np

from search.front import Values, non_dominated
from search.result import SearchResult
from supernet.space import Genes

__all__ = ["select_spread"]


def select_spread(result: SearchResult, n: int, exclude: Genes | None = None) -> Genes:
    """Up to `n` rows (n, n_genes) of a search to measure next, none of them in `exclude` (n_measured, n_genes).

    They come from the feasible candidates' front, then from the front of the rest, and so on; within a front each pick
    is the one farthest (in objectives, each scaled to its range on the front) from everything picked or excluded before
    (Gonzalez 1985), so a new round fills the gaps that the measured architectures have left. Measure, refit and search
    again in turns, as LINAS does (Cummings et al. 2022).
    """
    genes, losses = result.genes[result.feasible], result.losses[result.feasible]
    if len(genes) == 0:
        return genes
    first = losses[non_dominated(losses)]
    extent = np.ptp(first, axis=0)
    losses = (losses - first.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    known = {row.tobytes() for row in np.ascontiguousarray([] if exclude is None else exclude, dtype=np.int64)}
    measured = np.array([row.tobytes() in known for row in np.ascontiguousarray(genes)], dtype=bool)
    # Only measured neighbours of the front count as taken: a dominated one says little about it.
    distance = _distances(losses, losses[measured & non_dominated(losses)])
    left = np.flatnonzero(~measured)
    picked: list[int] = []
    while len(picked) < n and len(left):
        layer = left[non_dominated(losses[left])]
        left = np.setdiff1d(left, layer)
        while len(layer) and len(picked) < n:
            # Of equally far candidates (at the start: all) the one with the best value on the first axis.
            row = layer[np.lexsort((losses[layer, 0], -distance[layer]))[0]]
            picked.append(int(row))
            layer = layer[layer != row]
            distance = np.minimum(distance, _distances(losses, losses[row : row + 1]))
    return genes[picked]


def _distances(points: Values, others: Values) -> Values:
    """(n_points,) distance to the nearest of `others` (n_others, n_axes); infinite where there is none."""
    nearest = np.full(len(points), np.inf)
    for other in others:
        nearest = np.minimum(nearest, np.linalg.norm(points - other, axis=1))
    return nearest
