"""What candidates are predicted to add to fronts, and which of them add most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from search.front import Values, hypervolume, non_dominated
from supernet.space import Genes

__all__ = ["Standing", "choose", "hypervolume_gains"]

_POINTS = 20_000  # by which hypervolumes of three objectives and more are estimated


@dataclass(frozen=True)
class Standing:
    """Where candidates stand in the search for one front; smaller losses are better.

    Attributes:
        losses: (n_candidates, n_objectives) predicted.
        known: (n_known, n_objectives) likewise, of what is known.
        reference: (n_objectives,) up to which hypervolumes are.
        held: (n_candidates,) whether each keeps what members of this front must; default: all do.
    """

    losses: Values
    known: Values
    reference: Values
    held: NDArray[np.bool_] | None = None

    def gains(self, known: Values) -> Callable[[Genes], Values]:
        """Rows of the candidates to what each adds to the hypervolume of `known`, of which this makes ready once."""
        if self.losses.shape[1] > 2:
            inside = known[(known < self.reference).all(axis=1)]
            lowest = np.minimum(np.concatenate([self.losses, inside]).min(axis=0), self.reference)
            gain = _estimated(inside, lowest, self.reference)
        else:
            gain = partial(hypervolume_gains, known=known, reference=self.reference)
        held = self.held

        def of_rows(rows: Genes) -> Values:
            found = gain(self.losses[rows])
            return found if held is None else np.where(held[rows], found, 0.0)

        return of_rows


def choose(standings: Sequence[Standing], n: int) -> tuple[Genes, Values]:
    """Up to `n` candidates, one after the other, each with the largest gain when those before are believed.

    Of several fronts, which share what is evaluated, it is the largest sum: each gain is divided by the range of what
    is known in every objective, so that no front counts for more because of its units.

    Returns:
        Rows, and their gains (n_rows, n_fronts) as shares of the hypervolume of what is known of each front (of the
        first, where that is 0); both end where nothing adds anything.
    """
    known = [one.known for one in standings]
    whole = np.array([hypervolume(one.known, one.reference) if len(one.known) else 0.0 for one in standings])
    units = np.array([_unit(one) for one in standings])
    rows: list[int] = []
    gains: list[Values] = []
    n_candidates = len(standings[0].losses)
    if n_candidates == 0:
        return np.array(rows, dtype=np.int64), np.reshape(gains, (0, len(standings)))

    def look(at: Genes) -> Values:
        found = np.stack([gain(at) for gain in ready], axis=1)
        return np.where(found > 1e-12 * whole, found, 0.0)

    ready = [one.gains(points) for one, points in zip(standings, known, strict=True)]
    found = look(np.arange(n_candidates))
    # What one adds never grows when another is believed: what was found before is a bound, and few are looked at again
    # (Minoux 1978).
    fresh = np.ones(n_candidates, dtype=bool)
    while len(rows) < min(n, n_candidates):
        while not fresh[best := int(np.argmax((found / units).sum(axis=1)))]:
            found[best], fresh[best] = look(np.array([best]))[0], True
        if not found[best].any():
            break
        rows.append(best)
        whole = np.where(whole > 0, whole, found[best])
        gains.append(np.divide(found[best], whole, out=np.zeros_like(whole), where=whole > 0))
        known = [
            points if one.held is not None and not one.held[best] else np.concatenate([points, one.losses[[best]]])
            for one, points in zip(standings, known, strict=True)
        ]
        ready = [one.gains(points) for one, points in zip(standings, known, strict=True)]
        fresh[:] = False
    return np.array(rows, dtype=np.int64), np.reshape(gains, (len(rows), len(standings)))


def _unit(one: Standing) -> float:
    """The product of the ranges of what is known, or of the candidates where that is a point."""
    for points in (one.known, one.losses):
        ranges = np.ptp(points, axis=0) if len(points) else np.zeros(1)
        if (ranges > 0).all():
            return float(np.prod(ranges))
    return 1.0


def hypervolume_gains(losses: Values, known: Values, reference: Values) -> Values:
    """(n_candidates,) what each would add to the hypervolume of `known` alone, up to the reference.

    Of two objectives exactly; of more by the same 20,000 random points for all (Bader & Zitzler 2011).
    """
    inside = known[(known < reference).all(axis=1)]
    if losses.shape[1] == 1:
        best = inside.min() if len(inside) else reference[0]
        return np.maximum(best - losses[:, 0], 0.0)
    if losses.shape[1] > 2:
        lowest = np.minimum(np.concatenate([losses, inside]).min(axis=0), reference)
        return _estimated(inside, lowest, reference)(losses)
    front = inside[non_dominated(inside)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    # A staircase: between edges i and i + 1 the second loss is heights[i]; its integral from the first edge on.
    edges = np.concatenate([[min(losses[:, 0].min(initial=reference[0]), reference[0])], front[:, 0], [reference[0]]])
    if len(front):
        edges[0] = min(edges[0], front[0, 0])
    heights = np.concatenate([[reference[1]], front[:, 1]])
    integral = np.concatenate([[0.0], np.cumsum(np.diff(edges) * heights)])
    x, y = np.minimum(losses, reference).T
    # The stairs lie above a candidate from its own place up to where they have come down to it.
    end = edges[np.searchsorted(-heights, -y, side="left")]
    beyond = np.maximum(end - x, 0.0)
    area = np.interp(np.maximum(end, x), edges, integral) - np.interp(x, edges, integral)
    return np.maximum(area - beyond * y, 0.0)


def _estimated(known: Values, lowest: Values, reference: Values) -> Callable[[Values], Values]:
    """Losses (n, n_objectives) to gains (n,), by random points between `lowest` and the reference."""
    points = lowest + (reference - lowest) * np.random.default_rng(0).random((_POINTS, len(reference)))
    for row in known:
        points = points[(points < row).any(axis=1)]

    def gains(losses: Values) -> Values:
        share = np.array([(points >= row).all(axis=1).sum() for row in losses]) / _POINTS
        return share * float(np.prod(reference - lowest))

    return gains
