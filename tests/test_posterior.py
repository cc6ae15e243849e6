"""Measured values and predictions together: nearer to the truth, intervals that hold, chances that are what happens."""

import numpy as np
import pytest

from search.posterior import believed, membership


@pytest.mark.parametrize(("noise", "wrong"), [(1.0, 1.0), (1.0, 0.3), (0.3, 1.0)])
def test_together_they_are_nearer_to_the_truth_and_intervals_hold(noise, wrong):
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 3, 400)
    values = truth + noise * rng.standard_normal(400)
    foretold = truth + 0.7 + wrong * rng.standard_normal(400)  # the same for all is found out
    belief = believed(values, np.full(400, noise), foretold)

    def error(found):
        return np.sqrt(np.mean(np.square(found - truth)))

    assert error(belief.means) < min(error(values), error(foretold - 0.7))
    held = np.abs(belief.means - truth) <= 1.645 * belief.deviations
    assert 0.85 < held.mean() < 0.95
    assert belief.weight == pytest.approx(wrong**2 / (wrong**2 + noise**2), abs=0.1)


def test_the_best_of_many_is_lucky_and_belief_takes_that_away():
    rng = np.random.default_rng(1)
    lucky, honest = [], []
    for _ in range(200):
        truth = rng.normal(size=60)
        values = truth + rng.normal(size=60)
        belief = believed(values, np.ones(60), truth + 0.7 * rng.standard_normal(60))
        for found, kept in ((values, lucky), (belief.means, honest)):
            best = int(np.argmax(found))
            kept.append(found[best] - truth[best])
    assert np.mean(lucky) > 0.8 and abs(np.mean(honest)) < 0.2


def test_what_is_exact_or_not_foretold_stays_as_it_is():
    values, nothing = np.arange(20.0), np.full(20, np.nan)
    for noise, foretold in ((np.ones(20), nothing), (np.zeros(20), values + 1), (np.ones(20), values[::-1] * nothing)):
        belief = believed(values, noise, foretold)
        np.testing.assert_array_equal(belief.means, values)
        np.testing.assert_array_equal(belief.deviations, noise)
        assert belief.weight == 1
    some = np.where(np.arange(20) < 12, values + np.tile([1.0, -1.0], 10), np.nan)
    belief = believed(values, np.ones(20), some)
    np.testing.assert_array_equal(belief.means[12:], values[12:])
    assert (belief.deviations[:12] < 1).all() and (belief.deviations[12:] == 1).all()


def test_chances_of_being_on_the_front_are_how_often_it_happens():
    rng = np.random.default_rng(2)
    claimed, happened = [], []
    for trial in range(60):
        truth = np.stack([rng.random(12), rng.random(12)], axis=1)
        deviations = np.full_like(truth, 0.05) * np.array([1.0, 0.0])
        means = truth - deviations * rng.standard_normal(truth.shape)  # a belief that is right on average
        claimed.append(membership(means, deviations, draws=100, seed=trial))
        worse = (truth[:, None] >= truth).all(axis=2) & (truth[:, None] > truth).any(axis=2)
        happened.append(worse.sum(axis=1) == 0)
    chances, on = np.concatenate(claimed), np.concatenate(happened)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        rows = (chances >= low) & (chances < high)
        assert abs(on[rows].mean() - chances[rows].mean()) < 0.13
