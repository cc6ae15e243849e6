"""Disturbed stretches: what the reference network shows, and what is only noise."""

import numpy as np
import pytest

from hardware.disturbance import disturbed_turns, quiet_level


def times(noise: float, n: int = 200, seed: int = 0) -> np.ndarray:
    return 1e-3 * np.random.default_rng(seed).lognormal(0, noise, n)


@pytest.mark.parametrize("noise", [0.002, 0.02])
def test_a_stretch_is_marked_from_end_to_end_and_nothing_else(noise):
    seconds = times(noise)
    seconds[60:90] *= 1.4
    marked = disturbed_turns(seconds, quiet_level(seconds), 0.05)
    assert marked[60:90].all()
    assert not marked[:59].any() and not marked[91:].any()


def test_single_slow_repeats_mark_nothing():
    seconds = times(0.005)
    seconds[::7] *= 3
    assert not disturbed_turns(seconds, quiet_level(seconds), 0.05).any()


@pytest.mark.parametrize("noise", [0.01, 0.05, 0.2])
def test_noise_alone_marks_next_to_nothing(noise):
    seconds = times(noise, 2000)
    assert disturbed_turns(seconds, quiet_level(seconds), 0.05).mean() < 0.03


def test_a_slow_beginning_and_a_slow_end_are_marked():
    seconds = times(0.005, 40)
    seconds[:3] *= 1.5
    seconds[-3:] *= 1.5
    assert list(np.flatnonzero(disturbed_turns(seconds, quiet_level(seconds), 0.05))) == [0, 1, 2, 37, 38, 39]


def test_a_level_from_before_marks_everything_that_is_slower():
    assert disturbed_turns(times(0.01) * 1.2, 1e-3, 0.05).all()
    assert not disturbed_turns(times(0.01) * 0.8, 1e-3, 0.05).any()


def test_two_turns_are_too_few_to_say():
    assert not disturbed_turns([1e-3, 9e-3], 1e-3, 0.05).any()
    assert disturbed_turns([], 1e-3, 0.05).shape == (0,)
