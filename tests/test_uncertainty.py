"""How sure comparisons of fronts are: intervals that hold, and probabilities that are what happens."""

import numpy as np
import pytest

from search.attainment import attained
from search.front import hypervolume
from search.uncertainty import Noisy, compared, over_repeats

CORNER = np.array([1.2, 1.2])


def front(n, below=0.0):
    """Points on a curve, the lower the better."""
    x = np.linspace(0.05, 1, n)
    return np.stack([x, (1 - np.sqrt(x)) * 1.0 - below + 0.1], axis=1)


def seen(true, deviation, rng):
    deviations = np.broadcast_to(deviation, true.shape)
    return Noisy(true + deviations * rng.standard_normal(true.shape), deviations)


@pytest.mark.parametrize("deviation", [(0.02, 0.0), (0.03, 0.01)])
def test_intervals_hold_what_they_promise(deviation):
    true, other, rng = front(12, 0.05), front(9), np.random.default_rng(0)
    volumes = [hypervolume(one, CORNER) for one in (true, other)]
    held = np.zeros(2)
    n = 120
    for _ in range(n):
        found = compared(seen(true, deviation, rng), {"other": seen(other, deviation, rng)}, CORNER, draws=300)["other"]
        held += [
            found.interval[0] <= volumes[1] <= found.interval[1],
            found.share[0] <= volumes[1] / volumes[0] <= found.share[1],
        ]
    assert (held / n > 0.8).all() and (held / n < 0.99).all(), held / n


def test_a_front_that_is_surely_better_is_said_to_be_and_an_equal_one_is_not():
    rng = np.random.default_rng(1)
    better, same = front(12, 0.1), front(12)
    sure = [
        compared(seen(better, 0.01, rng), {"o": seen(same, 0.01, rng)}, CORNER, draws=300)["o"].probability
        for _ in range(10)
    ]
    even = [
        compared(seen(same, 0.02, rng), {"o": seen(same, 0.02, rng)}, CORNER, draws=300)["o"].probability
        for _ in range(40)
    ]
    assert min(sure) > 0.99
    assert 0.35 < np.mean(even) < 0.65 and np.std(even) > 0.1  # any value is as likely


def test_what_is_exact_is_sure():
    exact = Noisy(front(5), np.zeros((5, 2)))
    worse = Noisy(front(5)[1:], np.zeros((4, 2)))
    found = compared(exact, {"worse": worse, "nothing": Noisy(front(5)[:0], np.zeros((0, 2)))}, CORNER)
    assert found["worse"].interval == pytest.approx((found["worse"].value,) * 2)
    assert found["worse"].probability == found["nothing"].probability == 1.0
    assert found["nothing"].value == 0.0 and found["nothing"].share == pytest.approx((0.0, 0.0))
    three = Noisy(np.random.default_rng(0).random((6, 3)), np.full((6, 3), 0.01))
    assert compared(three, {"same": three}, np.ones(3))["same"].value > 0


def test_what_half_of_the_repeats_attain_is_counted():
    rng = np.random.default_rng(0)
    fronts = [rng.random((6, 2)) for _ in range(5)]
    for share, needed in ((0.0, 1), (0.5, 3), (1.0, 5)):
        corners = attained(fronts, share)
        assert (np.diff(corners[:, 1]) > 0).all() and (np.diff(corners[:, 0]) < 0).all()
        for point in rng.random((300, 2)):
            by = sum(bool((front <= point).all(axis=1).any()) for front in fronts)
            assert (by >= needed) == bool((corners <= point).all(axis=1).any())
    for wrong, message in ((([], 0.5), "0 fronts"), ((fronts, 1.5), "share 1.5")):
        with pytest.raises(ValueError, match=message):
            attained(*wrong)


def test_repeats_say_how_sure_it_is_that_fronts_are_better():
    rng = np.random.default_rng(1)
    reference = np.array([1.0, 1.0])

    def repeats(below, n=6):
        fronts = [front(12, below + rng.normal(0, 0.01)) for _ in range(n)]
        return [seen(one, np.full_like(one, 0.01), rng) for one in fronts]

    found = over_repeats({"front": repeats(0.0), "worse": repeats(-0.05), "alike": repeats(0.0)}, reference)
    assert found["front"].share == 1 and found["front"].front_is_larger is None
    worse, alike = found["worse"], found["alike"]
    assert worse.front_is_larger is not None and alike.front_is_larger_on_average is not None
    assert (worse.front_is_larger_on_average or 0) > 0.99 > alike.front_is_larger_on_average > 0.01
    assert worse.front_is_larger > 0.9
    assert worse.share_interval[1] < 1
    for one in found.values():
        assert one.interval[0] < one.mean < one.interval[1] and len(one.values) == 6
