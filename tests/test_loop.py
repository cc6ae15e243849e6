"""The measuring loop on a clock of our own: how long it goes on, what it bears, and whom it blames."""

import itertools
import math
import random

import numpy as np
import pytest

from hardware import DeviceGoneError, Sampling
from hardware.loop.turns import Course, half_widths, one_line, take_turns
from hardware.loop.two_way import fit_two_way


class Machine:
    """Networks whose calls take `base` seconds times the speed of the machine, 100 times that in the first few."""

    def __init__(self, noise=0.01, base=1e-3, seed=0, slow_calls=3):
        self.noise, self.base, self.slow_calls = noise, base, slow_calls
        self.rng = random.Random(seed)
        self.clock, self.speed = 0.0, 1.0
        self.order: list[str] = []
        self.happens = {}  # by name: called with the number of the run and its seconds, returns seconds

    def now(self):
        return self.clock

    def course(self, name, sampling, base=None):
        made, runs = itertools.count(), itertools.count(1)

        def run(calls):
            self.order.append(name)
            warm_up = sum(0.1 for _ in range(calls) if next(made) < self.slow_calls)
            own = calls * (base or self.base) * self.speed
            seconds = warm_up + own * math.exp(self.rng.gauss(0, self.noise))
            self.clock += seconds
            happens = self.happens.get(name)
            return seconds if happens is None else happens(next(runs), seconds)

        return Course(name, run, sampling)


def warmed(machine, sampling, n=4):
    courses = [machine.course(str(i), sampling) for i in range(n)]
    for course in courses:
        course.warm_up()
    return courses


def seconds_of(turns):
    """(n_networks, n_turns)"""
    return np.array([turn.seconds for turn in turns], dtype=float).T


def test_warm_up_is_over_before_the_first_turn():
    machine, sampling = Machine(), Sampling()
    turns = list(take_turns(warmed(machine, sampling), sampling, machine.now))
    assert seconds_of(turns).max() < 2e-3 and len(turns) >= sampling.min_turns


def test_it_goes_on_until_relative_latencies_are_known():
    lengths = []
    for noise in (0.001, 0.05, 0.5):
        machine, sampling = Machine(noise), Sampling(relative_half_width=0.02, max_turns=200)
        turns = list(take_turns(warmed(machine, sampling, 8), sampling, machine.now))
        lengths.append(len(turns))
        assert max(half_widths([turn.seconds for turn in turns])) <= 0.02 or len(turns) == 200
    assert lengths[0] == 20 < lengths[1] < lengths[2] == 200


def test_what_the_machine_does_to_all_is_no_reason_to_go_on():
    machine, sampling = Machine(0.002), Sampling()
    turns = []
    for turn in take_turns(warmed(machine, sampling, 8), sampling, machine.now):
        turns.append(turn)
        machine.speed = math.exp(machine.rng.gauss(0, 0.3))
    assert len(turns) == sampling.min_turns


def test_the_quick_look_agrees_with_the_analysis():
    for n in (2, 3, 9, 30):
        ratios = []
        for seed in range(8):
            machine, sampling = Machine(0.03, seed=seed), Sampling(min_turns=60, max_turns=60)
            turns = list(take_turns(warmed(machine, sampling, n), sampling, machine.now))
            quick, careful = half_widths([turn.seconds for turn in turns]), fit_two_way(seconds_of(turns)).half_widths()
            ratios.append(np.mean(quick) / careful.mean())
        assert np.median(ratios) == pytest.approx(1, rel=0.4)
    assert half_widths([[1.0, None], [1.0, None]]) == [math.inf] * 2  # relative to what?


def test_a_network_takes_no_more_turns_than_it_has_time():
    sampling = Sampling(relative_half_width=1e-6, max_seconds=0.05)
    machine = Machine(noise=0.1, slow_calls=0)
    courses = [*warmed(machine, sampling, 3), machine.course("slow", sampling, base=0.02)]
    courses[-1].warm_up()
    turns = list(take_turns(courses, sampling, machine.now))
    counts = (~np.isnan(seconds_of(turns))).sum(axis=1)
    assert counts[3] == sampling.min_turns < counts[0] < sampling.max_turns
    assert all(course.spent < 0.06 for course in courses[:3])


def test_turns_are_in_random_order_made_by_the_seed():
    orders = []
    for seed in (0, 0, 1):
        machine, sampling = Machine(), Sampling()
        courses = warmed(machine, sampling)
        machine.order.clear()
        turns = list(take_turns(courses, sampling, machine.now, seed))
        orders.append(machine.order)
        # Every network runs twice in a turn: it settles, and is timed.
        assert machine.order[::2] == machine.order[1::2] and len(machine.order) == 8 * len(turns)
        starts = [sorted(range(4), key=lambda i, turn=turn: turn.started[i] or 0.0) for turn in turns]
        assert [str(i) for turn in starts for i in turn] == machine.order[::2]
    assert orders[0] == orders[1] != orders[2]


def test_short_calls_are_timed_several_at_a_time():
    machine, sampling = Machine(base=1e-5), Sampling(min_repeat_seconds=2e-4, settling_seconds=1e-3)
    (course,) = warmed(machine, sampling, 1)
    assert 15 <= course.calls <= 25 and 80 <= course.settling_calls <= 120
    assert course.repeat() == pytest.approx(1e-5, rel=0.1)


def test_a_doubtful_turn_counts_neither_as_measured_nor_towards_the_most():
    machine, sampling = Machine(noise=0.5), Sampling(max_turns=30)
    turns = []
    for turn in take_turns(warmed(machine, sampling), sampling, machine.now):
        turn.doubt = "" if len(turns) % 3 else "busy"
        turns.append(turn)
    assert sum(not turn.doubt for turn in turns) == 30 and 30 < len(turns) < 60


def test_doubts_without_end_have_one():
    machine, sampling = Machine(), Sampling(min_turns=20, max_turns=30)
    turns = []
    for turn in take_turns(warmed(machine, sampling), sampling, machine.now):
        turn.doubt = "always"
        turns.append(turn)
    assert len(turns) == 60


# -- accidents --------------------------------------------------------------------------------------------------------


def test_who_fails_is_left_out_and_the_others_go_on():
    def breaks(run, seconds):
        if run > 20:
            raise RuntimeError("out of memory\nwith a long trace")
        return seconds

    machine, sampling = Machine(), Sampling()
    machine.happens["1"] = breaks
    courses = warmed(machine, sampling)
    turns = list(take_turns(courses, sampling, machine.now))
    error = courses[1].error
    assert error is not None and one_line(error) == "out of memory with a long trace"
    assert [course.error for course in courses if course is not courses[1]] == [None] * 3
    counts = (~np.isnan(seconds_of(turns))).sum(axis=1)
    assert counts[1] < 10 and (counts[[0, 2, 3]] == len(turns)).all() and len(turns) >= sampling.min_turns


def test_where_nobody_runs_any_more_the_device_is_gone():
    def gone(run, seconds):
        if machine.clock > 1.5:
            raise OSError("unplugged")
        return seconds

    machine, sampling = Machine(), Sampling(min_turns=100)
    machine.happens = dict.fromkeys("0123", gone)
    courses = warmed(machine, sampling)
    found = []
    with pytest.raises(DeviceGoneError, match="unplugged"):
        for turn in take_turns(courses, sampling, machine.now):
            found.append(turn)
    assert 0 < len(found) < 100 and not np.isnan(seconds_of(found)).any()


def test_a_runner_that_knows_that_the_device_is_gone_is_believed():
    def gone(run, seconds):
        if run > 20:
            raise DeviceGoneError("switched off")
        return seconds

    machine, sampling = Machine(), Sampling()
    machine.happens["0"] = gone
    with pytest.raises(DeviceGoneError, match="switched off"):
        list(take_turns(warmed(machine, sampling, 1), sampling, machine.now))


@pytest.mark.parametrize("wrong", [-1.0, 0.0, math.nan, math.inf])
def test_a_clock_that_jumps_is_asked_again_and_not_believed_for_ever(wrong):
    machine, sampling = Machine(), Sampling()
    machine.happens["1"] = lambda run, seconds: wrong if run % 3 == 0 else seconds
    turns = list(take_turns(warmed(machine, sampling), sampling, machine.now))
    assert seconds_of(turns).min() > 0.8e-3 and seconds_of(turns).max() < 1.2e-3
    machine.happens["0"] = lambda run, seconds: wrong
    with pytest.raises(ValueError, match="20 times in a row; see that nothing sets it while measuring"):
        machine.course("0", sampling).warm_up()


@pytest.mark.parametrize(
    "wrong",
    [{"min_turns": 5}, {"max_turns": 10}, {"max_seconds": 0.0}, {"turn_seconds": 0.0}, {"session_networks": 1},
     {"relative_half_width": 0.0}, {"settling_seconds": 0.0}, {"patience_seconds": -1.0}],
)  # fmt: skip
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError):
        Sampling(**wrong)
