"""The card of a predictor is kept up with what becomes known after it was fitted."""

import json

import pytest

from experiments.fitting import Promise


@pytest.mark.parametrize(
    ("n", "held", "broken"), [(16, 14, False), (16, 12, False), (16, 9, True), (1, 0, False), (3, 0, True)]
)
def test_a_promise_is_broken_where_chance_hardly_does_it(n, held, broken):
    promise = Promise(n, held, 0.9, 0.05)
    assert promise.broken == broken
    assert f"of {n} new ones, {held} lie in the intervals of 90%" in str(promise)
    assert ("broken" in str(promise)) == broken


def test_promises_add_up():
    both = Promise(10, 9, 0.9, 0.02) + Promise(30, 20, 0.9, 0.06)
    assert (both.n, both.held) == (40, 29) and both.error == pytest.approx(0.05)
    assert both + None == both


def test_a_run_says_how_its_predictors_did_on_what_its_search_found(finished_run):
    cards = [json.loads(path.read_text()) for path in sorted((finished_run / "predictors").glob("*.card.json"))]
    promises = [card["promise"] for card in cards if card["promise"] is not None]
    assert promises and all(0 <= one["held"] <= one["n"] and one["error"] >= 0 for one in promises)
