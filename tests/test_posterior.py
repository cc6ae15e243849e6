"""Measured values and predictions together: nearer to the truth, intervals that hold, chances that are what happens."""

import numpy as np
import pytest

from predictors import GaussianProcessPredictor, Subject
from search import non_dominated
from search.front import hypervolume
from search.posterior import believed, measured_again
from search.testing import Toy
from supernet.space import SearchSpace, Stage


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


def test_chances_are_how_often_it_happens_and_intervals_of_hypervolumes_hold():
    rng = np.random.default_rng(2)
    claimed, happened, held = [], [], []
    corner = np.array([1.0, 1.3])
    for trial in range(30):
        cost = np.sort(rng.random(60))
        truth = np.stack([1 - np.sqrt(cost) + 0.1 * rng.random(60), cost], axis=1)
        values = truth[:, 0] + 0.02 * rng.standard_normal(60)
        belief = believed(values, np.full(60, 0.02), truth[:, 0] + 0.02 * rng.standard_normal(60))

        def with_cost(first, cost=cost):
            return np.stack([first, cost], axis=1)

        losses = with_cost(belief.means)
        found = measured_again(
            losses, lambda rng, of=belief, on=with_cost: on(of.again(rng)), corner, repeats=100, seed=trial
        )
        claimed.append(found.chances)
        happened.append(non_dominated(truth))
        true = hypervolume(truth[non_dominated(losses)], corner)
        held.append(found.interval[0] <= true <= found.interval[1])
    chances, on = np.concatenate(claimed), np.concatenate(happened)
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        rows = (chances >= low) & (chances < high)
        assert abs(on[rows].mean() - chances[rows].mean()) < 0.15
    assert np.mean(held) > 0.8


def test_a_process_takes_out_noise_and_no_more_than_there_is():
    space, rng = SearchSpace((16, 24), (Stage.uniform((1, 2), kernel=(3, 5, 7)),) * 2), np.random.default_rng(1)
    genes = np.unique(space.sample_genes(200, rng), axis=0)[:80]
    truth = 0.7 + 0.02 * Toy(space).quality(genes)
    values = truth + 0.01 * rng.standard_normal(80)
    process = GaussianProcessPredictor(Subject(space).levels, n_folds=2).fit(genes, values)
    for at_most in (0.01, 1.0):
        found = process.smoothed(values, np.full(80, at_most))
        assert np.mean(np.square(found.means - truth)) < 0.7 * np.mean(np.square(values - truth))
        assert 0.8 < np.mean(np.abs(found.means - truth) <= 1.645 * found.deviations) < 0.99
        assert (found.noise < 1.2 * min(at_most, 0.02)).all()
    exact = process.smoothed(values, np.zeros(80))
    np.testing.assert_allclose(exact.means, values, atol=1e-6)
    np.testing.assert_allclose(exact.pull, np.eye(80), atol=1e-4)
    assert exact.deviations.max() < 1e-6
    moved = values + 1e-4 * rng.standard_normal(80)
    again = process.smoothed(moved, np.full(80, 0.01))
    first = process.smoothed(values, np.full(80, 0.01))
    np.testing.assert_allclose(again.means - first.means, first.pull @ (moved - values), atol=2e-6)
