"""Sessions tied by the networks they share: one level for all, and intervals that know what a tie cannot."""

import numpy as np
import pytest

from hardware import Device, Session
from hardware.loop.session import MeasuredNetwork
from hardware.loop.tying import tie_sessions

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
RNG = np.random.default_rng(0)
LEVELS = RNG.normal(np.log(1e-3), 0.5, 400)  # of networks "0", "1" and so on


def session(numbers, rng, *, level=0.0, change=0.0, n_turns=40, noise=0.02, id="s", began=0.0, levels=LEVELS):
    """These networks side by side; the machine is exp(level) times as slow, and each network changed for itself."""
    numbers = list(numbers)
    own = levels[numbers] + change * rng.standard_normal(len(numbers)) + level
    turns = np.cumsum(rng.normal(0, 0.1, n_turns))
    logs = own[:, None] + turns - np.median(turns) + noise * rng.standard_normal((len(numbers), n_turns))
    networks = tuple(MeasuredNetwork(str(number), 32) for number in numbers)
    return Session(id, DEVICE, began, networks, np.exp(logs), np.full(logs.shape, np.nan), ("",) * n_turns)


def errors(tie, here, levels=LEVELS):
    """(n_networks,) of the tied levels, relative to the networks `here` of the session whose level it is."""
    found = np.array([int(key) for key, _ in tie.networks])
    error = tie.levels - levels[found]
    return found, error - np.median(error[np.isin(found, list(here))])


def test_eight_anchors_take_a_machine_of_another_speed_out():
    rng = np.random.default_rng(1)
    slow = session([*range(8), *range(8, 60)], rng, level=np.log(1.4))
    now = session([*range(8), *range(60, 112)], rng)
    tie = tie_sessions([slow, now], at=1)
    assert len(tie.networks) == 112
    found, error = errors(tie, range(60, 112))
    elsewhere = (found >= 8) & (found < 60)
    assert abs(error[elsewhere].mean()) < 0.01 and np.abs(error[elsewhere]).max() < 0.03
    assert tie.shifts[0] == pytest.approx(np.log(1.4), abs=0.1) and tie.shifts[1] == 0
    assert tie_sessions([slow, now], at=0).shifts[1] == pytest.approx(-tie.shifts[0], abs=0.02)


def test_sessions_are_tied_through_others():
    rng = np.random.default_rng(2)
    chain = [
        session(range(40), rng, level=0.3),
        session(range(30, 70), rng, level=-0.2),
        session(range(60, 100), rng),
    ]
    tie = tie_sessions(chain, at=2)
    assert len(tie.networks) == 100
    found, error = errors(tie, range(60, 100))
    assert abs(error[found < 30].mean()) < 0.02
    # The further away, the less sure.
    widths = tie.half_widths()
    assert widths[found < 30].mean() > widths[(found >= 40) & (found < 60)].mean() > widths[found >= 70].mean()
    assert tie.shift_deviations[0] > tie.shift_deviations[1] > tie.shift_deviations[2] == 0


def test_a_session_that_shares_nothing_is_left_out():
    rng = np.random.default_rng(3)
    sessions = [session(range(10), rng), session(range(20, 30), rng), session(range(5, 15), rng)]
    tie = tie_sessions(sessions, at=2)
    assert {int(key) for key, _ in tie.networks} == set(range(15))
    assert np.isnan(tie.shifts[1]) and np.isnan(tie.changes[1]) and not np.isnan(tie.shifts[[0, 2]]).any()
    lone = tie_sessions(sessions, at=1)
    assert len(lone.networks) == 10
    np.testing.assert_allclose(lone.levels, sessions[1].fit.levels, rtol=1e-12)


@pytest.mark.parametrize("n_sessions", [2, 5])
@pytest.mark.parametrize("change", [0.01, 0.03])
def test_intervals_hold_where_networks_changed_between_sessions(n_sessions, change):
    covered = []
    for seed in range(30 // n_sessions):
        rng = np.random.default_rng(seed)
        sessions = [
            session(
                [*range(8), *range(8 + 32 * k, 40 + 32 * k)], rng, level=rng.normal(0, 0.2), change=change * (k > 0)
            )
            for k in range(n_sessions)
        ]  # the first is the truth
        tie = tie_sessions(sessions, at=0)
        found, error = errors(tie, range(40))
        # What was measured elsewhere would have changed here in its own way, too.
        error = error + change * rng.standard_normal(len(error)) * (found >= 40)
        covered += list((np.abs(error) < tie.half_widths())[found >= 8])
    assert 0.88 <= np.mean(covered) <= 0.99


def test_the_order_of_sessions_does_not_matter():
    rng = np.random.default_rng(4)
    sessions = [session([*range(6), *range(10 * k, 10 * k + 9)], rng, change=0.01) for k in range(1, 6)]
    tie = tie_sessions(sessions, at=2)
    order = [3, 0, 4, 2, 1]
    other = tie_sessions([sessions[k] for k in order], at=order.index(2))
    places = [other.networks.index(name) for name in tie.networks]
    np.testing.assert_allclose(other.levels[places], tie.levels, atol=1e-9)
    np.testing.assert_allclose(other.half_widths()[places], tie.half_widths(), rtol=1e-6)
    np.testing.assert_allclose(other.shifts, tie.shifts[order], atol=1e-9)


def test_more_shared_networks_tie_tighter():
    widths = []
    for n in (4, 8, 16, 32):
        some = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            numbers = [[*range(n), *range(100 + 40 * k, 140 + 40 * k)] for k in range(2)]
            tie = tie_sessions([session(one, rng, change=0.01) for one in numbers], at=1)
            some.append(tie.shift_deviations[0])
        widths.append(np.mean(some))
    assert widths == sorted(widths, reverse=True)


def test_the_level_is_that_of_the_session_asked_for():
    rng = np.random.default_rng(6)
    sessions = [session(range(40), rng, level=level) for level in (0.0, 0.4)]
    first, second = (tie_sessions(sessions, at) for at in (0, 1))
    gap = second.levels - first.levels
    np.testing.assert_allclose(gap, 0.4, atol=0.06)
    for tie, one in ((first, sessions[0]), (second, sessions[1])):
        # What was measured there stays near what was seen there, although the other session saw it, too.
        assert (np.abs(tie.levels - one.fit.levels) < one.fit.half_widths()).mean() > 0.95


def test_what_was_measured_side_by_side_stays_so_among_hundreds_of_others():
    rng = np.random.default_rng(7)
    others = [session([*range(8), *range(50 + 40 * k, 90 + 40 * k)], rng, level=0.1 * k, change=0.02) for k in range(8)]
    here = session(range(50), rng)
    tie = tie_sessions([*others, here], at=8)
    places = [tie.networks.index(name) for name in here.names]
    moved = np.abs(tie.levels[places] - here.fit.levels)
    assert (moved < here.fit.half_widths()).all()
    assert (tie.half_widths()[places] < 1.2 * here.fit.half_widths()).all()
    np.testing.assert_allclose(tie.levels[places[8:]], here.fit.levels[8:], rtol=1e-12)  # those it has to itself


def test_a_session_that_measured_nothing_is_no_level():
    rng = np.random.default_rng(8)
    short = session(range(5), rng, n_turns=3)
    assert short.measured == ()
    for at in (1, -1):
        with pytest.raises(ValueError, match="no session"):
            tie_sessions([session(range(5), rng), short], at)
    tie = tie_sessions([session(range(5), rng), short], 0)
    assert len(tie.networks) == 5 and np.isnan(tie.shifts[1])
