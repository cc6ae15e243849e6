"""How sure a comparison of fronts is: hypervolumes of points that are known with noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from search.front import Values, hypervolume

__all__ = ["Comparison", "Noisy", "Repeated", "compared", "over_repeats"]

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


@dataclass(frozen=True)
class Repeated:
    """Hypervolumes of one series over repeats of a search, beside those of the front.

    Attributes:
        values: one per repeat.
        mean: of the values.
        interval: in which the mean of many repeats lies, with the coverage asked for.
        share: of the front's mean.
        share_interval: in which that lies.
        front_is_larger: probability that one search's front has more than one run of this series; None for the front.
        front_is_larger_on_average: probability that it has more on average over many repeats.
    """

    values: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    share: float
    share_interval: tuple[float, float]
    front_is_larger: float | None
    front_is_larger_on_average: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: list(one) if isinstance(one, tuple) else one for name, one in asdict(self).items()}


def over_repeats(
    series: Mapping[str, Sequence[Noisy]],
    reference: Values,
    *,
    coverage: float = 0.9,
    draws: int = 2_000,
    seed: int = 0,
) -> dict[str, Repeated]:
    """What repeats of a search say of its front, the first of the series, beside the others.

    A bootstrap in two steps (Davison & Hinkley 1997, section 3.8): repeats are drawn with replacement, and in every one
    that is drawn the noise of what was measured, as in `compared`. Series of one repeat stay together, since they were
    measured side by side.

    Args:
        series: as many of each as there are repeats.
        reference: (n_objectives,), one for all.
    """
    rng = np.random.default_rng(seed)
    n_repeats = len(next(iter(series.values())))
    n = draws if len(reference) <= 2 else max(draws // _FEWER, 1)
    corrected = {}  # (n_repeats, n) what hypervolumes may truly be
    for name, repeats in series.items():
        own = [hypervolume(one.losses, reference) for one in repeats]
        drawn = [_draws(one, reference, n, rng) for one in repeats]
        corrected[name] = np.maximum([2 * a - b for a, b in zip(own, drawn, strict=True)], 0.0)
    chosen = rng.integers(n_repeats, size=(n, n_repeats))
    places = rng.integers(n, size=(n, n_repeats))
    means = {name: values[chosen, places].mean(axis=1) for name, values in corrected.items()}
    first = next(iter(series))
    average = float(np.mean([hypervolume(one.losses, reference) for one in series[first]]))
    tails = [(1 - coverage) / 2, (1 + coverage) / 2]
    found, one = {}, (chosen[:, 0], places[:, 0])
    for name, repeats in series.items():
        values = tuple(hypervolume(each.losses, reference) for each in repeats)
        low, high = np.quantile(means[name], tails)
        lowest, highest = np.quantile(means[name] / _positive(means[first]), tails)
        found[name] = Repeated(
            values,
            float(np.mean(values)),
            (float(low), float(high)),
            float(np.mean(values)) / max(average, 1e-300),
            (float(lowest), float(highest)),
            None if name == first else float(np.mean(corrected[first][one] > corrected[name][one])),
            None if name == first else float(np.mean(means[first] > means[name])),
        )
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
