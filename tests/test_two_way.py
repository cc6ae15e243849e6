"""The two-way model on simulated sessions: it tells machine and networks apart, and knows how well."""

import numpy as np
import pytest

from hardware.loop.two_way import fit_two_way

NETWORKS, TURNS = 48, 80


def drifting(n_turns, rng):
    """(n_turns,) log effects of a machine whose speed wanders by half and more."""
    return np.cumsum(rng.normal(0, 0.1, n_turns))


def plain(shape, rng):
    return 0.02 * rng.standard_normal(shape)


def correlated(shape, rng):
    """First-order autoregressive, 0.6 from turn to turn."""
    errors = rng.standard_normal(shape)
    for turn in range(1, shape[1]):
        errors[:, turn] = 0.6 * errors[:, turn - 1] + 0.8 * errors[:, turn]
    return 0.02 * errors


def bursty(shape, rng):
    """Turns differ tenfold in how noisy they are."""
    return 0.01 * rng.standard_normal(shape) * np.exp(rng.normal(0, 1, shape[1]))


def simulated(n_networks, n_turns, noise, rng):
    """Log levels, and (n_networks, n_turns) seconds."""
    levels = rng.normal(np.log(1e-3), 0.5, n_networks)
    return levels, np.exp(levels[:, None] + drifting(n_turns, rng) + noise((n_networks, n_turns), rng))


def relative(values):
    return values - values.mean()


def test_levels_are_found_under_drift_and_bursts_where_medians_are_lost():
    rng = np.random.default_rng(0)
    levels, seconds = simulated(NETWORKS, TURNS, bursty, rng)
    # A neighbour comes for ten turns: twice as slow, ten times as noisy, and networks take part half of the time.
    seconds[:, 30:40] *= 2 * np.exp(10 * bursty((NETWORKS, 10), rng))
    seconds[rng.random(seconds.shape) < 0.3] = np.nan
    fit = fit_two_way(seconds)
    error = relative(fit.levels) - relative(levels)
    by_medians = relative(np.nanmedian(np.log(seconds), axis=1)) - relative(levels)
    assert np.abs(error).max() < 0.01 and by_medians.std() > 10 * error.std()
    assert np.median(fit.turns) == pytest.approx(0) and fit.scales[30:40].min() > np.median(fit.scales)


@pytest.mark.parametrize("noise", [plain, correlated, bursty])
@pytest.mark.parametrize(("n_networks", "n_turns"), [(NETWORKS, 40), (NETWORKS, 80), (9, 40), (3, 40)])
def test_intervals_of_95_percent_hold(noise, n_networks, n_turns):
    covered = []
    for seed in range(20 if n_networks == NETWORKS else 60):
        levels, seconds = simulated(n_networks, n_turns, noise, np.random.default_rng(seed))
        fit = fit_two_way(seconds)
        covered += list(np.abs(relative(fit.levels) - relative(levels)) < fit.half_widths())
    assert 0.90 <= np.mean(covered) <= 0.99


@pytest.mark.parametrize("seed", range(5))
def test_neither_the_order_of_networks_nor_that_of_turns_matters(seed):
    rng = np.random.default_rng(seed)
    _, seconds = simulated(7, 25, bursty, rng)
    seconds[rng.random(seconds.shape) < 0.2] = np.nan
    fit = fit_two_way(seconds)
    networks, turns = rng.permutation(7), rng.permutation(25)
    other = fit_two_way(seconds[networks])
    for name in ("levels", "deviations", "degrees"):
        np.testing.assert_allclose(getattr(other, name), getattr(fit, name)[networks], rtol=1e-9)
    np.testing.assert_allclose(other.turns, fit.turns, atol=1e-12)
    # Deviations know neighbouring turns, since errors of neighbours correlate; levels do not.
    other = fit_two_way(seconds[:, turns])
    np.testing.assert_allclose(other.levels, fit.levels, rtol=1e-12)
    np.testing.assert_allclose(other.turns, fit.turns[turns], atol=1e-12)


def test_another_unit_of_time_shifts_levels_and_nothing_else():
    _, seconds = simulated(10, 30, bursty, np.random.default_rng(0))
    fit, scaled = fit_two_way(seconds), fit_two_way(1e3 * seconds)
    np.testing.assert_allclose(scaled.levels, fit.levels + np.log(1e3), rtol=1e-12)
    for name in ("deviations", "turns", "scales"):
        np.testing.assert_allclose(getattr(scaled, name), getattr(fit, name), atol=1e-9)


def test_what_is_missing_is_neither_guessed_nor_in_the_way():
    rng = np.random.default_rng(0)
    levels, seconds = simulated(12, 60, plain, rng)
    seconds[:6, 30:] = np.nan  # half of them only before the machine slows down, the others throughout
    seconds[:, 30:] *= 1.5
    seconds[11], seconds[:, 59] = np.nan, np.nan
    fit = fit_two_way(seconds)
    np.testing.assert_allclose(relative(fit.levels[:11]), relative(levels[:11]), atol=0.02)
    assert np.isnan(fit.levels[11]) and np.isnan(fit.turns[59])
    assert fit.deviations[:6].mean() > fit.deviations[6:11].mean()  # half of the turns


def test_one_network_or_one_turn_tells_nothing_of_the_other():
    seconds = np.exp(np.random.default_rng(0).normal(0, 0.1, (1, 20)))
    alone = fit_two_way(seconds)
    assert alone.levels[0] == pytest.approx(np.median(np.log(seconds))) and np.isfinite(alone.turns).all()
    once = fit_two_way(seconds.T)
    np.testing.assert_allclose(relative(once.levels), relative(np.log(seconds[0])))
    assert (once.half_widths() == np.inf).all()
    for empty in (np.ones((0, 3)), np.ones((3, 0)), np.ones(3)):
        with pytest.raises(ValueError, match="at least one network and one turn"):
            fit_two_way(empty)


def test_a_machine_without_noise_is_no_division_by_zero():
    seconds = np.outer([1e-3, 2e-3, 4e-3], np.ones(20))
    fit = fit_two_way(seconds)
    np.testing.assert_allclose(np.exp(fit.levels), [1e-3, 2e-3, 4e-3])
    assert fit.half_widths().max() < 1e-6
