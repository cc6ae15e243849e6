"""Cascades: a small network answers where it is sure enough, and a larger one where it is not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from experiments.cascade import Answers, Cascade, best_cascades, judged


@pytest.fixture
def known() -> tuple[Answers, np.ndarray]:
    """Three networks on 40 images, the slower the better, sure of what they have right."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(0, 1, 40)
    right = np.stack([hard < able for able in (0.6, 0.75, 0.9)])
    return Answers(np.clip(1 - hard + rng.normal(0, 0.1, (3, 40)), 0.1, 1), right), np.array([1.0, 2.0, 4.0])


def test_the_front_of_cascades_is_that_of_all_pairs_and_thresholds(known):
    answers, seconds = known
    every = [
        judged(Cascade(small, large, threshold), answers, seconds)
        for small in range(3)
        for large in range(small + 1, 3)
        for threshold in np.linspace(0, 1.2, 2000)
    ]
    every = [one for one in every if 0 < one.passed_on < 1]
    points = {(one.seconds, one.accuracy) for one in every}
    best = {p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q != p for q in points)}
    found = [judged(cascade, answers, seconds) for cascade in best_cascades(answers, seconds)]
    np.testing.assert_allclose([(one.seconds, one.accuracy) for one in found], sorted(best))


def test_a_cascade_costs_the_small_one_always_and_the_large_one_at_times(known):
    answers, seconds = known
    everything, nothing = (judged(Cascade(0, 2, threshold), answers, seconds) for threshold in (2.0, 0.0))
    assert (everything.seconds, everything.passed_on) == (5.0, 1.0) and (nothing.seconds, nothing.passed_on) == (1.0, 0)
    assert everything.accuracy == answers.right[2].mean() and nothing.accuracy == answers.right[0].mean()


def test_networks_that_take_as_long_make_no_cascade(known):
    assert best_cascades(known[0], np.ones(3)) == []


def test_cascades_of_a_run_by_the_command(command, copied_run, tmp_path):
    out = tmp_path / "cascade"
    printed = command("cascade", copied_run, "--device", "one", "--latency", "1s", "--out", out).stdout
    found = json.loads((copied_run / "cascade.json").read_text())
    assert found["device"] == "one" and found["images"] == {"validation": 200, "test": 200}
    fastest, best = found["front"][0], found["front"][-1]
    assert fastest["validation"]["seconds"] < best["validation"]["seconds"] and best["small"] in printed
    told = json.loads((out / "levels.json").read_text())
    assert [level["id"] for level in told["levels"]] == [best["small"], best["large"]]
    assert told["cascade"]["threshold"] == best["threshold"]
    for wrong, why in (
        (["--device", "eight"], "batch size 1"),
        (["--device", "one", "--latency", "1us"], "no cascade takes"),
        (["--device", "one", "--out", out], "--out needs --latency"),
    ):
        assert why in command("cascade", copied_run, *wrong, check=2).stderr
