"""What a noisy value and a prediction say together, and who is on a front then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from search.front import Values, non_dominated

__all__ = ["Belief", "believed", "membership"]

_FEWEST = 8  # predictions by which one can tell how wrong they are


@dataclass(frozen=True)
class Belief:
    """What is believed of values that were measured with noise.

    Attributes:
        means: (n,).
        deviations: (n,) standard deviations of the true value about them.
        weight: of the measured value in the mean, on average over those that were predicted as well; 1 where nothing
            was.
    """

    means: Values
    deviations: Values
    weight: float


def believed(values: Values, noise: Values, foretold: Values) -> Belief:
    """Values and predictions, each weighed by how wrong it is: normal errors that know nothing of each other.

    A prediction must be out of fold, by a model that has not seen the value. What is expected is a line through the
    predictions, since these may lie too far apart; how wrong that is is what squared differences from it leave when the
    noise is taken out (empirical Bayes, Efron & Morris 1975). Whoever picks the best of many noisy values picks luck;
    means take most of it away, as luck is what a prediction does not know.

    Args:
        values: (n,) as they were measured.
        noise: (n,) their standard deviations.
        foretold: (n,) NaN where there is no prediction.
    """
    known = np.isfinite(foretold) & np.isfinite(values)
    if known.sum() < _FEWEST:
        return Belief(values.copy(), noise.copy(), 1.0)
    line = foretold[known] - foretold[known].mean()
    slope = float(line @ values[known] / (line @ line)) if np.ptp(line) > 0 else 1.0
    expected = values[known].mean() + slope * line
    wrong = float(np.square(values[known] - expected).sum() / (known.sum() - 2) - np.square(noise[known]).mean())
    own = np.square(noise[known])
    both = own + max(wrong, 0.0)
    # The share of what is measured: all of it where there is no noise.
    weight = np.where(own > 0, max(wrong, 0.0) / np.where(both > 0, both, 1.0), 1.0)
    means, deviations = values.astype(float).copy(), noise.astype(float).copy()
    means[known] = weight * values[known] + (1 - weight) * expected
    deviations[known] *= np.sqrt(weight)
    return Belief(means, deviations, float(weight.mean()))


def membership(losses: Values, deviations: Values, *, draws: int = 500, seed: int = 0) -> Values:
    """(n,) the share of draws in which no other row dominates a row.

    Args:
        losses: (n, n_objectives) means, smaller is better.
        deviations: (n, n_objectives) standard deviations of the losses about them; errors are normal and independent.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros(len(losses))
    for _ in range(draws):
        found += non_dominated(losses + deviations * rng.standard_normal(losses.shape))
    return found / draws
