"""The two-way model of a session: what the machine did in each turn, and what the networks are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["TwoWay", "fit_two_way", "student_quantile"]

_DEGREES = 3.0  # of freedom of Student's t
_MEDIAN_ROUNDS, _ROUNDS = 10, 25
_SMALLEST_SCALE = 0.003  # of a turn: clocks and caches are never quieter than 0.3 %
_BLOCKS = 10  # of neighbouring turns, between which errors are taken to be independent; at least five turns long
_BORROWED = 8.0  # networks, for which the errors of all turns count in the scale of each
_SHRUNK = 2.0  # blocks of prior weight: how far the errors of one network are drawn to those of all

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TwoWay:
    """Log latencies of networks and log effects of turns, apart.

    Attributes:
        levels: (n_networks,) log seconds of a call in a turn of the middle; NaN for a network without repeats.
        deviations: (n_networks,) standard deviation of the error of each level *relative* to the other networks; what
            all share, the level of the session itself, has no error within the session.
        degrees: (n_networks,) degrees of freedom with which the deviations are known.
        turns: (n_turns,) log of how much slower than in the middle everything was; NaN for a turn without repeats.
        scales: (n_turns,) how noisy the turn was, as a share.
    """

    levels: Array
    deviations: Array
    degrees: Array
    turns: Array
    scales: Array

    def half_widths(self, coverage: float = 0.95) -> Array:
        """(n_networks,) half the interval of each relative latency, on the log scale: 0.02 is ±2 %."""
        return self.deviations * student_quantile(self.degrees, (1 + coverage) / 2)


def student_quantile(degrees: Array | float, share: float) -> Array:
    """Of Student's t, for each number of degrees of freedom."""
    from scipy import special  # takes longer to import than a small store to read

    return special.stdtrit(np.asarray(degrees, dtype=float), share)


def fit_two_way(seconds: Array) -> TwoWay:
    """Fit ``log seconds = level(network) + effect(turn) + error`` to (n_networks, n_turns) seconds, NaN where missing.

    Errors are Student-t with 3 degrees of freedom and a scale for every turn: most of what a machine does is common to
    the networks of a turn, and turns differ tenfold in how noisy they are. Medians in turn over networks and turns give
    the start (median polish, Tukey 1977); weighted means the rest (iterated re-weighting, Lange et al. 1989).

    The deviations are sandwich estimates over blocks of neighbouring turns, since errors of neighbours correlate (batch
    means, as Schmeiser 1982 has them), drawn towards what all networks have in common.

    Raises:
        ValueError: no network, or no turn.
    """
    y = np.log(seconds)
    if y.ndim != 2 or 0 in y.shape:
        raise ValueError(f"seconds of shape {y.shape}; at least one network and one turn are needed")
    there = np.isfinite(y)
    levels, turns = _medians(y)
    scales, weights = np.full(y.shape[1], _SMALLEST_SCALE), there.astype(float)
    for _ in range(_ROUNDS):
        residuals = np.where(there, y - levels[:, None] - turns, np.nan)
        scales = _scales(residuals)
        weights = np.where(there, (_DEGREES + 1) / (_DEGREES + (residuals / scales) ** 2) / scales**2, 0.0)
        turns = _mean(y - levels[:, None], weights, axis=0)
        levels = _mean(y - turns, weights, axis=1)
    middle = np.nanmedian(turns)
    deviations, degrees = _deviations(y - levels[:, None] - turns, weights, scales)
    return TwoWay(levels + middle, deviations, degrees, turns - middle, scales)


def _medians(y: Array) -> tuple[Array, Array]:
    turns = np.zeros(y.shape[1])
    levels = _median(y, axis=1)
    for _ in range(_MEDIAN_ROUNDS):
        turns = _median(y - levels[:, None], axis=0)
        levels = _median(y - turns, axis=1)
    return levels, turns


def _median(values: Array, axis: int) -> Array:
    """The median of what is there; NaN where nothing is, without a warning."""
    empty = np.isnan(values).all(axis=axis)
    found = np.nanmedian(np.where(np.expand_dims(empty, axis), 0.0, values), axis=axis)
    return np.where(empty, np.nan, found)


def _mean(values: Array, weights: Array, axis: int) -> Array:
    total = weights.sum(axis=axis)
    mean = np.where(weights > 0, values, 0.0) * weights
    return np.where(total > 0, mean.sum(axis=axis) / np.where(total > 0, total, 1.0), np.nan)


def _scales(residuals: Array) -> Array:
    """(n_turns,) of the errors of each turn. A turn of few networks says little about itself, and borrows from all.

    With few networks the effect of a turn follows one of them, whose error is then next to nothing: the smallest error
    of each turn says nothing. Where it did, turns in which two of three agree by chance would decide everything.
    """
    sizes = np.sort(np.abs(residuals), axis=0)  # NaN last
    n = np.isfinite(sizes).sum(axis=0)
    sizes[0, n > 1] = np.nan
    own, common = _median(sizes, axis=0), np.nanmedian(sizes)
    # Two parameters of each turn, its effect and its scale, are found from its own errors.
    weight = np.maximum(n - 2, 0)
    own, common = np.log(np.maximum(np.where(n > 0, own, common), 1e-6)), np.log(max(common, 1e-6))
    return np.maximum(_SMALLEST_SCALE, 1.4826 * np.exp((weight * own + _BORROWED * common) / (weight + _BORROWED)))


def _deviations(residuals: Array, weights: Array, scales: Array) -> tuple[Array, Array]:
    n_networks, n_turns = residuals.shape
    # What an error moves a level by: its score over the information, which is less than the weights (Lange et al.). It
    # is that of the errors seen in a turn, whatever their distribution; with few of them, that of all.
    square = (residuals / scales) ** 2
    slopes = np.where(weights > 0, (_DEGREES + 1) * (_DEGREES - square) / (_DEGREES + square) ** 2, 0.0)
    n = (weights > 0).sum(axis=0)
    information = (slopes.sum(axis=0) + _BORROWED * slopes.sum() / max(1, n.sum())) / (n + _BORROWED)
    information = np.maximum(information, 0.25 * (_DEGREES + 1) / (_DEGREES + 3)) / scales**2
    total = np.where(weights > 0, information, 0.0).sum(axis=1)
    errors = np.where(weights > 0, residuals, 0.0) * weights / np.where(total > 0, total, np.nan)[:, None]
    # The effects of turns are estimates as well: with few networks they take a part of every error away.
    lost = np.clip(1 - 1 / np.maximum((weights > 0).sum(axis=0), 2), 0.5, 1.0)
    # A quiet turn may carry much of the weight, and draws the level to its own errors (HC2, MacKinnon & White 1985).
    share = weights / np.where(weights.sum(axis=1) > 0, weights.sum(axis=1), 1.0)[:, None]
    errors = errors / np.sqrt(lost * (1 - np.minimum(share, 0.9)))
    n_blocks = min(n_turns, max(4, min(_BLOCKS, n_turns // 5)))
    edges = np.linspace(0, n_turns, n_blocks + 1).astype(int)[:-1]
    sums = np.add.reduceat(errors, edges, axis=1)
    sums -= sums.mean(axis=1, keepdims=True)
    own = (sums**2).sum(axis=1) * n_blocks / max(1, n_blocks - 1) * _beyond_blocks(sums)
    model = (errors**2).sum(axis=1)
    known = np.isfinite(own) & (model > 0)
    if n_turns < 2 or not known.any():  # or one network, or a machine without noise
        return np.where(total > 0, np.inf if n_turns < 2 else 0.0, np.nan), np.full(n_networks, 1.0)
    # How much larger errors are than if those of neighbouring turns were independent; less than that is chance.
    inflation = max(1.0, float(own[known].sum() / model[known].sum()))
    degrees = np.full(n_networks, n_blocks - 1 + _SHRUNK)
    variance = ((n_blocks - 1) * own + _SHRUNK * inflation * model) / degrees
    return np.sqrt(variance), degrees


def _beyond_blocks(sums: Array) -> float:
    """How much larger the variance of a mean is than blocks tell, as errors of neighbouring blocks correlate, too."""
    n_blocks = sums.shape[1]
    squares = np.nansum(sums**2)
    if n_blocks < 3 or squares == 0:
        return 1.0
    # Sums without their mean have a correlation of -1 / n_blocks where errors have none.
    correlation = np.nansum(sums[:, 1:] * sums[:, :-1]) / squares * n_blocks / (n_blocks - 1) + 1 / n_blocks
    return 1 + 2 * max(0.0, float(correlation)) * (n_blocks - 1) / n_blocks
