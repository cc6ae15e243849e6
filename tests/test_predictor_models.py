"""What is inside the predictors: evidence, robust lines, the roofline, scales, neighbours, ensembles, errors."""

from typing import Any

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import t as student

from predictors import (
    BlockTerms,
    BoostingPredictor,
    CostTerms,
    EnsemblePredictor,
    GaussianProcessPredictor,
    KnownCosts,
    Levels,
    NearestPredictor,
    RidgePredictor,
)
from predictors import gaussian as gaussian_module
from predictors import line as line_module
from predictors.evidence import maximize, posterior
from predictors.line import Groups, Line
from predictors.protocol import Residuals
from predictors.testing import SPACE, subject

TERMS = subject().terms
COSTS: Any = subject().costs


def sample(n, seed=0):
    return SPACE.sample_genes(n, np.random.default_rng(seed))


def prices(genes, launch=1e-5, price=2e-9):
    """Seconds (n_archs,) to launch the blocks, and to compute them."""
    costs = COSTS.counts(genes)[..., 0]
    return 2e-5 + launch * (costs > 0).sum(axis=1), price * costs.sum(axis=1)


def seconds(genes):
    """(n_archs,) for both."""
    launch, compute = prices(genes)
    return launch + compute


# -- evidence ---------------------------------------------------------------------------------------------------------


def test_leave_one_out_in_closed_form_is_leaving_one_out():
    rng = np.random.default_rng(0)
    x, y, constant = rng.standard_normal((12, 3)), rng.standard_normal(12), rng.uniform(0.5, 2, 12)
    covariance = x @ x.T + 0.3 * np.eye(12)
    errors = posterior(covariance.copy(), y, constant).without_itself
    for row in (0, 5, 11):
        rest = np.delete(np.arange(12), row)
        found = posterior(covariance[np.ix_(rest, rest)], y[rest], constant[rest])
        predicted = constant[row] * found.offset + covariance[row, rest] @ found.pulls
        assert y[row] - predicted == pytest.approx(errors[row], rel=1e-9)


def test_the_constant_is_not_shrunken():
    found = posterior(1e-3 * np.eye(6) + 1e-3, 1000 + np.zeros(6), np.ones(6))
    assert found.offset == pytest.approx(1000) and np.abs(found.pulls).max() < 1e-6


@pytest.mark.parametrize("module", [line_module, gaussian_module], ids=["line", "process"])
def test_gradients_are_those_of_the_likelihood(module):
    rng = np.random.default_rng(1)
    groups = Groups.of(("network a", "network a", "stage a", "block a", "block a"))
    rows, aim = rng.standard_normal((15, 5)), rng.standard_normal(15)
    if module is line_module:
        loss, n = module._loss(rows, aim, rng.uniform(0.5, 2, 15), groups), 4
    else:
        loss, n = module._loss(rows, aim, groups), 3 + 1 + 3 + 1
    at = rng.uniform(-2, 0, n)
    assert check_grad(lambda logs: loss(logs)[0], lambda logs: loss(logs)[1], at) < 1e-4


def test_priors_hold_what_the_data_do_not_say():
    means = np.array([-3.0, 1.0])
    np.testing.assert_allclose(maximize(lambda logs: (0.0, np.zeros(2)), means, 2.0, np.zeros(2)), means, atol=0.05)


# -- the line ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["value", "relative"])
def test_a_line_leaves_one_out_exactly_with_the_variances_of_all(target):
    """Where neither variances nor weights are learned, so that both ways have the same."""
    columns, groups = TERMS(sample(30)), Groups.of(TERMS.groups)
    y = seconds(sample(30)) * np.random.default_rng(0).uniform(0.9, 1.1, 30)
    line = Line.fit(columns, y, target, groups, learn=False, rounds=0)
    for row in (0, 7, 29):
        rest = np.delete(np.arange(30), row)
        # Groups are measured by the rows that there are: one fewer of thirty moves a prediction a little.
        without = Line.fit(columns[rest], y[rest], target, groups, learn=False, rounds=0)(columns[[row]])[0]
        assert abs(without - line.without_itself[row]) < 0.15 * abs(y[row] - line(columns[[row]])[0]) + 1e-3 * y[row]


def test_bursts_of_a_busy_device_move_little():
    train, test = sample(80), sample(400, 1)
    truth, y = seconds(test), seconds(train) * np.random.default_rng(0).uniform(0.98, 1.02, 80)
    slow = np.where(np.arange(80) % 5 == 0, 1.4, 1.0)
    errors = [
        np.abs(RidgePredictor(TERMS, "relative").fit(train, one).predict(test) / truth - 1).mean()
        for one in (y, y * slow)
    ]
    assert errors[0] < 0.01 and errors[1] < 0.025  # a fifth of the rows is 40 % too slow: least squares are 8 % off


def test_two_lines_where_launching_takes_over_and_one_where_it_does_not():
    train, test = sample(120), sample(400, 1)
    noise = np.random.default_rng(0).uniform(0.99, 1.01, 120)
    launch, compute = prices(train, launch=2e-4)
    roof = RidgePredictor(TERMS, "relative").fit(train, np.maximum(launch, compute) * noise)
    assert roof.coefficients_.shape == (2, len(TERMS.names))
    truth = np.maximum(*prices(test, launch=2e-4))
    assert np.abs(roof.predict(test) / truth - 1).mean() < 0.015
    one = RidgePredictor(TERMS, "relative").fit(train, (launch + compute) * noise)
    assert one.coefficients_.shape == (1, len(TERMS.names))


# -- features of costs ------------------------------------------------------------------------------------------------


def test_levels_of_cost_add_up():
    genes = sample(40)
    columns = dict(zip(TERMS.names, TERMS(genes).T, strict=True))
    counts = COSTS.counts(genes)
    macs = counts[..., 0].sum(axis=1)
    np.testing.assert_allclose(columns["network other"], macs / COSTS.counts(top())[..., 0].sum())
    parts = [name for name in columns if name.startswith("part") and name.endswith("other")]
    np.testing.assert_allclose(sum(columns[name] for name in parts), columns["network other"])
    assert not any("pooled" in name for name in columns)  # nothing of that kind is known


def top():
    return SPACE.encode([SPACE.largest])


def test_costs_that_nobody_counts_are_refused():
    with pytest.raises(ValueError, match="want macs"):
        KnownCosts(SPACE, {"joules": lambda genes: genes.astype(float)})


def test_levels_are_sums_over_blocks():
    levels = Levels(SPACE)
    row = dict(zip(levels.names, levels(top())[0], strict=True))
    assert row["all kernel"] == 10 and row["stage2 expand"] == 3 and row["network resolution"] == 1
    lowest = dict(zip(levels.names, levels(np.zeros_like(top()))[0], strict=True))
    assert {name for name, value in lowest.items() if value} == {
        *(
            f"{place} n({choice})"
            for choice in ("kernel=3", "expand=2")
            for place in ("all", "stage1", "stage2", "stage3")
        ),
        *(f"stage{s}.block1 n({choice})" for choice in ("kernel=3", "expand=2") for s in (1, 2, 3)),
    }


# -- the process ------------------------------------------------------------------------------------------------------


def test_accuracies_are_learned_on_the_scale_of_their_errors_and_other_values_are_not():
    genes = sample(90)
    up = Levels(SPACE)(genes) @ np.linspace(0.2, 1, len(Levels(SPACE).names))
    up = (up - up.min()) / np.ptp(up)
    accurate = 1 - 0.3 * np.exp(-3 * up)
    assert GaussianProcessPredictor(Levels(SPACE)).fit(genes, accurate).scale_ == "log error"
    assert GaussianProcessPredictor(Levels(SPACE)).fit(genes, 0.2 + 0.6 * up).scale_ == "plain"
    assert GaussianProcessPredictor(Levels(SPACE)).fit(genes, 20 + up).scale_ == "plain"
    assert GaussianProcessPredictor(Levels(SPACE), "relative").fit(genes, 1 + up).scale_ == "log"


def test_what_is_not_additive_is_learned_too():
    """A product of two sums, of which a linear model knows the sum."""
    train, test = sample(120), sample(300, 1)
    levels = Levels(SPACE)

    def truth(genes):
        columns = dict(zip(levels.names, levels(genes).T, strict=True))
        return (columns["all kernel"] - 3) * (columns["all expand"] - 3)

    bent, straight = (
        make(levels).fit(train, truth(train)).predict(test) for make in (GaussianProcessPredictor, RidgePredictor)
    )
    errors = [np.abs(predicted - truth(test)).mean() for predicted in (bent, straight)]
    assert errors[0] < 0.5 * errors[1]


# -- neighbours and ensembles -----------------------------------------------------------------------------------------


def test_one_that_is_known_is_its_own_nearest():
    genes = sample(60)
    y = seconds(genes)
    predictor = NearestPredictor(Levels(SPACE), "relative").fit(genes, y)
    error = np.abs(predictor.predict(genes) / y - 1)
    assert error.mean() < 0.5 * np.abs(predictor.out_of_fold_ / y - 1).mean()


def test_an_ensemble_leans_on_its_better_members():
    genes = sample(80)
    y = seconds(genes) * np.random.default_rng(0).uniform(0.98, 1.02, 80)

    def members():
        return RidgePredictor(TERMS, "relative"), NearestPredictor(Levels(SPACE), "relative")

    predictor = EnsemblePredictor(members()).fit(genes, y)
    assert predictor.weights_.sum() == pytest.approx(1) and (predictor.weights_ >= 0).all()
    assert predictor.weights_[0] > 0.7
    with pytest.raises(ValueError, match="one target"):
        EnsemblePredictor([RidgePredictor(TERMS, "relative"), BoostingPredictor(BlockTerms(SPACE), "value")])


# -- errors -----------------------------------------------------------------------------------------------------------


def test_intervals_are_as_skew_as_the_errors():
    rng = np.random.default_rng(0)
    prediction = rng.uniform(1, 2, 400)
    y = prediction * (1 + np.where(rng.random(400) < 0.5, -0.01, 0.1) * np.abs(rng.standard_normal(400)))
    lower, upper = Residuals.of(y, prediction, "relative").interval(np.ones(1), 0.9)[0] - 1
    assert -0.06 < lower < 0 < 0.1 < upper < 0.3


def test_intervals_are_wider_where_errors_are():
    rng = np.random.default_rng(0)
    prediction = np.exp(rng.uniform(0, 2, 300))
    y = prediction * (1 + np.where(prediction < np.e, 0.1, 0.02) * rng.standard_normal(300))
    widths = np.ptp(Residuals.of(y, prediction, "relative").interval(np.array([1.2, 6.0]), 0.9), axis=1)
    assert widths[0] / 1.2 > 2.5 * widths[1] / 6


def test_few_errors_are_helped_out_by_a_student_distribution():
    errors = student(4).rvs(20, random_state=0)
    residuals = Residuals.of(errors, np.zeros(20), "value")
    limits = np.linspace(-3, 3, 50)
    said = np.array([residuals.probability_below(np.zeros(1), limit)[0] for limit in limits])
    assert (np.diff(said) > 0).all() and np.abs(said - student(4).cdf(limits)).max() < 0.2
    assert residuals.probability_below(np.zeros(1), 100.0)[0] < 1


def test_terms_of_a_table_keep_no_cost_that_no_network_has():
    class Nothing(KnownCosts):
        def counts(self, genes):
            return np.zeros_like(super().counts(genes))

    terms = CostTerms(SPACE, Nothing(SPACE, {"macs": lambda genes: np.ones((len(genes), 2))}))
    assert set(terms.groups) == {"resolution", "resolution alone"}


def test_the_process_knows_how_unsure_it_is():
    def truth(genes):
        up = genes / np.maximum(SPACE.n_choices - 1, 1)
        return 1 - 0.4 * np.exp(-up.mean(axis=1) - 0.3 * up[:, 1] * up[:, 3])

    train, unseen = sample(40), sample(400, seed=1)
    noise = 0.002 * np.random.default_rng(0).standard_normal(40)
    process = GaussianProcessPredictor(Levels(SPACE)).fit(train, truth(train) + noise)
    deviations = process.deviation(unseen)
    assert deviations.shape == (400,) and (deviations > 0).all()
    assert 0.4 < ((process.predict(unseen) - truth(unseen)) / deviations).std() < 2
    assert process.deviation(train).mean() < deviations.mean()
    few = GaussianProcessPredictor(Levels(SPACE)).fit(train[:12], truth(train[:12]) + noise[:12])
    assert few.deviation(unseen).mean() > 1.2 * deviations.mean()
    assert process.deviation(unseen[:0]).shape == (0,)
