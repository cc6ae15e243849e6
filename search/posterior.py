"""What noisy values and predictions say together, and what chance does to a front that is chosen by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from search.front import Values, hypervolume, non_dominated

__all__ = ["Belief", "Repeated", "believed", "measured_again"]

_FEWEST = 8  # predictions by which one can tell how wrong they are
_FEWER = 10  # times fewer repeats of more than two objectives, whose hypervolumes take long
_TAILS = (0.05, 0.95)
_LUCK = 0.5  # share of the optimism of a repeat that is taken off: see `measured_again`
_WIDER = 1.2  # intervals, since what a model has learned of its own shape is not learned again


@dataclass(frozen=True)
class Belief:
    """What is believed of values that were measured with noise.

    Attributes:
        values: (n,) as they were measured.
        noise: (n,) their standard deviations.
        means: (n,).
        deviations: (n,) standard deviations of the true value about them.
        pull: how means change with measured values: (n, n) with all of them, where the predictions follow from these,
            or (n,) each with its own, where they stay.
    """

    values: Values
    noise: Values
    means: Values
    deviations: Values
    pull: Values

    @property
    def weight(self) -> float:
        """Of the measured value in its own mean, on average over those that were predicted as well; 1 where nothing
        was."""
        own = np.diag(self.pull) if self.pull.ndim == 2 else self.pull
        pulled = own[self.means != self.values]
        return float(pulled.mean()) if len(pulled) else 1.0

    def again(self, rng: np.random.Generator) -> Values:
        """(n,) what would be believed if these means were the truth, and all of it were measured and foretold again."""
        drawn = rng.standard_normal(len(self.values))
        if self.pull.ndim == 1:  # both are as wrong again as they are, independently
            return self.means + self.deviations * drawn
        return self.means + self.pull @ (self.means - self.values + self.noise * drawn)


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
    pull = np.ones(len(values))
    if known.sum() < _FEWEST:
        return Belief(values, noise, values.copy(), noise.copy(), pull)
    line = foretold[known] - foretold[known].mean()
    slope = float(line @ values[known] / (line @ line)) if np.ptp(line) > 0 else 1.0
    expected = values[known].mean() + slope * line
    wrong = float(np.square(values[known] - expected).sum() / (known.sum() - 2) - np.square(noise[known]).mean())
    own = np.square(noise[known])
    both = own + max(wrong, 0.0)
    # The share of what is measured: all of it where there is no noise.
    pull[known] = np.where(own > 0, max(wrong, 0.0) / np.where(both > 0, both, 1.0), 1.0)
    means, deviations = values.astype(float).copy(), noise.astype(float).copy()
    means[known] = pull[known] * values[known] + (1 - pull[known]) * expected
    deviations[known] *= np.sqrt(pull[known])
    return Belief(values, noise, means, deviations, pull)


@dataclass(frozen=True)
class Repeated:
    """What chance did to a front: how it would come out if everything were measured again.

    Attributes:
        chances: (n,) how often a row would be on the front.
        hypervolume: what the front is believed to have in truth.
        interval: in which that lies with 90 %.
    """

    chances: Values
    hypervolume: float
    interval: tuple[float, float]


def measured_again(
    losses: Values,
    again: Callable[[np.random.Generator], Values],
    reference: Values,
    *,
    repeats: int = 300,
    seed: int = 0,
) -> Repeated:
    """Measure again, believe anew and choose the front by that, many times: a parametric bootstrap (Efron 1979).

    What is believed is taken for the truth. How far the hypervolume of a front that is chosen again lies from what the
    same networks have in that truth is how far the one at hand may lie from what it truly has; on average it is above,
    since the luckiest are chosen. If all that is believed were right, nothing would be left to take off; but it is
    smoother than the truth, and less is chosen by luck from what is smooth. Half is taken off: found on one problem,
    and right on another (`experiments/benchmarks/noisy_fronts.py`). Chances from draws of posteriors would be too low:
    these are rougher than what networks are truly worth, and a rough front has fewer members.

    Args:
        losses: (n, n_objectives) as they are believed, smaller is better.
        again: what they would be believed to be the next time.
        reference: (n_objectives,) up to which hypervolumes are.
        repeats: a tenth of them where there are more than two objectives.
    """
    rng = np.random.default_rng(seed)
    n = repeats if losses.shape[1] <= 2 else max(repeats // _FEWER, 1)
    chances, errors = np.zeros(len(losses)), np.empty(n)
    for i in range(n):
        found = again(rng)
        on = non_dominated(found)
        chances += on
        errors[i] = hypervolume(found[on], reference) - hypervolume(losses[on], reference)
    value = hypervolume(losses, reference) - _LUCK * float(errors.mean())
    low, high = _WIDER * np.quantile(errors - errors.mean(), _TAILS)
    return Repeated(chances / n, value, (max(value - float(high), 0.0), max(value - float(low), 0.0)))
