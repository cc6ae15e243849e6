"""When enough is measured: goals as people write them, and what is said where they are not reached."""

import numpy as np
import pytest

from predictors.stopping import Goal, Progress


def test_goals_are_read_as_they_are_written():
    assert Goal.parse("error <= 5%") == Goal.parse("error ≤ 0.05") == Goal(True, 0.05)
    assert Goal.parse("tau>=0.9") == Goal(False, 0.9)
    assert [str(Goal.parse(text)) for text in ("error<=2.5%", "tau >= .9")] == ["error <= 2.5%", "tau >= 0.9"]
    for text in ("error >= 5%", "tau <= 0.9", "error <= 0", "error <= 120%", "better"):
        with pytest.raises(ValueError, match="no goal of a predictor; write"):
            Goal.parse(text)


def test_an_error_must_be_below_the_limit_by_what_it_is_unsure_of():
    goal, rng = Goal.parse("error <= 5%"), np.random.default_rng(0)
    y = rng.uniform(1, 2, 40)
    for size, met in ((0.04, True), (0.048, False), (0.06, False)):
        predicted = y * (1 + size * rng.choice([-0.5, 0.5, 1.5, -1.5], 40))
        progress = goal.progress(y, predicted)
        assert progress.n == 40 and progress.value == pytest.approx(size, rel=0.25)
        assert goal.met(progress) == met
    assert goal.met(Progress(20, 0.04, 0.009)) and not goal.met(Progress(20, 0.045, 0.009))


def test_tau_is_kendalls_and_its_standard_error_is_that_of_repeated_draws():
    goal, rng = Goal.parse("tau >= 0.5"), np.random.default_rng(0)
    found = []
    for _ in range(200):
        y = rng.standard_normal(40)
        found.append(goal.progress(y, y + rng.standard_normal(40)))
    values = np.array([one.value for one in found])
    assert values.mean() == pytest.approx(0.5, abs=0.02)  # of two normals that correlate by 1/sqrt(2)
    assert np.mean([one.deviation for one in found]) == pytest.approx(values.std(), rel=0.2)


def test_a_curve_says_what_it_takes_or_that_nothing_does():
    goal = Goal.parse("error <= 5%")
    falling = [Progress(n, 0.02 + 0.9 / n, 0.0) for n in (10, 14, 20)]
    assert goal.needed(falling) in (30, 31)
    assert "takes about 3" in goal.verdict(falling)
    level = [Progress(n, 0.07 + 0.1 / n, 0.0) for n in (10, 14, 20)]
    assert goal.needed(level) is None and "no number of architectures" in goal.verdict(level)
    assert goal.needed(falling[:2]) is None and "measure more" in goal.verdict(falling[:2])
    rising = [Progress(n, 0.95 - 1.0 / n, 0.0) for n in (10, 14, 18)]
    assert Goal.parse("tau >= 0.92").needed(rising) in (34, 35)
