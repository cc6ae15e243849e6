"""How sure a comparison of fronts is: hypervolumes of points that are known with noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search.front import Values, hypervolume

__all__ = ["Comparison", "Noisy", "compared"]

_FEWER = 10  # times fewer draws of more than two objectives, whose hypervolumes take long


@dataclass(frozen=True)
class Noisy:
    """Points as they were measured.

    Attributes:
        losses: (n, n_objectives), smaller is better.
        deviations: (n, n_objectives) standard deviations of the noise in them; 0 where they are exact.
    """

    losses: Values
    deviations: Values


@dataclass(frozen=True)
class Comparison:
    """A hypervolume beside that of the front which it is compared with."""

    value: float
    interval: tuple[float, float]
    """In which it lies, with the coverage asked for."""
    share: tuple[float, float]
    """In which its share of the front's lies."""
    probability: float
    """That the front's is larger."""


def compared(
    front: Noisy,
    others: Mapping[str, Noisy],
    reference: Values,
    *,
    coverage: float = 0.9,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """The hypervolumes of others up to a point (n_objectives,), and how sure it is that that of the front is larger.

    Noise of the size that the measured values have is put on these, many times, and what that does to a hypervolume is
    taken for what the noise in the measured values did to it: the basic parametric bootstrap (Efron & Tibshirani 1993,
    chapter 6; Davison & Hinkley 1997, chapter 5). The hypervolume of noisy points is too large, since the luckiest of
    them count, and this takes that out as well. Noise is drawn for every point by itself; where all have some in
    common, as scores on the same images do, intervals are wider than they need be.

    Args:
        coverage: of the intervals.
        draws: of the noise; a tenth of them where there are more than two objectives.
    """
    rng = np.random.default_rng(seed)
    n = draws if len(reference) <= 2 else max(draws // _FEWER, 1)
    value = hypervolume(front.losses, reference)
    drawn = _draws(front, reference, n, rng)
    found = {}
    for name, one in others.items():
        own = hypervolume(one.losses, reference)
        theirs = _draws(one, reference, n, rng)
        low, high = _basic(own, theirs, coverage)
        # Of logarithms: a share is a ratio, and stays above 0.
        shares = np.log(_positive(theirs) / _positive(drawn))
        lowest, highest = _basic(float(np.log(_positive(own) / _positive(value))), shares, coverage)
        share = float(np.exp(lowest)), float(np.exp(highest))
        wins = float(np.mean(2 * (value - own) - (drawn - theirs) > 0))
        found[name] = Comparison(own, (max(low, 0.0), max(high, 0.0)), share, wins)
    return found


def _draws(points: Noisy, reference: Values, n: int, rng: np.random.Generator) -> Values:
    """(n,) hypervolumes with noise put on."""
    noise = rng.standard_normal((n, *points.losses.shape)) * points.deviations
    return np.array([hypervolume(points.losses + one, reference) for one in noise])


def _basic(value: float, draws: Values, coverage: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - coverage) / 2, (1 + coverage) / 2])
    return 2 * value - float(high), 2 * value - float(low)


def _positive(value: float | Values) -> Values:
    return np.maximum(value, 1e-300)
