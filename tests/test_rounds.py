"""The rounds of a search: its budget in sub-networks and minutes, when it ends, and what its last ones are for."""

import itertools

import numpy as np
import pytest

from experiments import rounds as rounds_module
from experiments.progress import Reporter
from experiments.proposing import Proposed
from experiments.quantities import limit
from experiments.rounds import FIRST_BATCH, LARGEST_BATCH, Focus, Rounds
from experiments.run_folder import RunFolder


@pytest.fixture
def start(recipe_path, tmp_path, monkeypatch):
    """Starts a run with other settings of the search; what is proposed is random, and `asked` says what was asked."""

    def create(gain=0.01, most=100, **settings):
        run = RunFolder.start(recipe_path, tmp_path / "run")
        search = run.recipe.search.model_copy(update={"batch": None, **settings})
        run.__dict__["recipe"] = run.recipe.model_copy(update={"search": search})
        asked = []

        def propose(run, goals, number, n, report, device, focused):
            asked.append((n, focused))
            n = min(n, most)
            archs = run.untrained_supernet.space.sample(n, np.random.default_rng(number))
            limits = [str(one) for goal in goals for one in goal.limits] if focused else []
            return Proposed(tuple(archs), ({"within": limits},) * n, gain)

        monkeypatch.setattr(rounds_module, "propose_round", propose)
        return run, asked

    return create


def carried_out(rounds, cost=None):
    """Sizes of all rounds, each of which took `cost`."""
    sizes = []
    while (plan := rounds.next()) is not None:
        sizes.append(len(plan.archs))
        rounds.cost.seconds = dict(cost or {})
    return sizes


def test_the_budget_is_spent_and_rounds_are_as_large_as_pays(start):
    run, _ = start(evaluations=30)
    dear = {"profile": 12.0, "score": 40.0, "fit": 2.0, "propose": 2.0}
    sizes = carried_out(Rounds(run, Reporter()), dear)
    assert sum(sizes) == 30 and sizes[0] == FIRST_BATCH and max(sizes[1:]) <= 2
    assert carried_out(Rounds(run, Reporter())) == sizes  # again: nothing but what is planned


def test_rounds_that_are_only_looked_at_again_say_nothing_of_their_cost(start):
    run, _ = start(evaluations=12)
    first = Rounds(run, Reporter())
    first.next()
    quick = {"profile": 0.001, "score": 0.001, "fit": 1.0}
    assert carried_out(Rounds(run, Reporter()), quick)[:2] == [FIRST_BATCH, FIRST_BATCH]


def test_rounds_of_a_device_elsewhere_are_as_large_as_they_may_be(start, monkeypatch):
    run, _ = start(evaluations=40)
    monkeypatch.setattr(type(run), "added_devices", lambda run: {"phone": None})
    dear = {"profile": 1.0, "score": 100.0}
    assert carried_out(Rounds(run, Reporter(), "phone"), dear) == [LARGEST_BATCH, LARGEST_BATCH, 8]


def test_rounds_of_a_fixed_size_and_the_rest(start):
    run, asked = start(evaluations=7, batch=3)
    assert carried_out(Rounds(run, Reporter()), {"fit": 100.0}) == [3, 3, 1]
    assert not any(focused for _, focused in asked)  # there are no limits


def test_a_search_that_was_stopped_goes_on(start):
    run, asked = start(evaluations=8, batch=2)
    first = Rounds(run, Reporter())
    for _ in range(3):
        first.next()
    assert carried_out(Rounds(run, Reporter())) == [2, 2, 2, 2] and len(asked) == 4


def test_it_ends_where_nothing_is_to_be_gained_if_it_was_told_to(start):
    for until, n in (("no gain", 0), (None, 8)):
        run, _ = start(gain=0.001, evaluations=8, until=until)
        assert sum(carried_out(Rounds(run, Reporter()))) == n


def test_it_ends_where_nothing_is_proposed(start):
    run, asked = start(most=0)
    assert carried_out(Rounds(run, Reporter())) == [] and len(asked) == 1


def test_no_round_begins_after_the_minutes(start, monkeypatch):
    run, _ = start(evaluations=100, batch=4, minutes=1.0)
    clock = itertools.count(step=10)  # every look at it takes ten seconds
    monkeypatch.setattr(rounds_module.time, "monotonic", lambda: float(next(clock)))
    assert 1 <= len(carried_out(Rounds(run, Reporter()))) < 6


def test_the_last_ones_of_every_device_are_for_its_limits(start):
    run, asked = start(evaluations=20, batch=8, focused=3, constraints=("macs <= 100k",))
    assert sum(carried_out(Rounds(run, Reporter()))) == 20
    assert asked == [(8, False), (6, False), (6, True)]  # two devices


def test_limits_of_ones_own_have_a_budget_of_their_own(start):
    run, asked = start(evaluations=4, batch=4)
    carried_out(Rounds(run, Reporter()))
    focus = Focus((limit("macs <= 100k", ["one", "eight"]),), 6)
    assert carried_out(Rounds(run, Reporter(), focus=focus)) == [4, 4, 2]  # the first is of before
    assert asked[1:] == [(4, True), (2, True)]
    other = Focus((limit("macs <= 200k", ["one", "eight"]),), 3)
    assert sum(carried_out(Rounds(run, Reporter(), focus=other))) == 10 + 3
