"""Sessions and measurements: what is said of networks out of all sessions, and what people should know of these."""

from dataclasses import replace

import numpy as np
import pytest

from hardware import Device, Measurements, Session
from hardware.loop.session import MeasuredNetwork, new_session_id
from hardware.loop.two_way import fit_two_way

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)


def session(keys, *, factor=1.0, change=0.0, drift=0.02, n_turns=30, began=0.0, seed=0, **more):
    """A network "7" takes 7 ms, times `factor` and what the machine does."""
    rng = np.random.default_rng(seed)
    keys = list(keys)
    logs = np.log([1e-3 * int(key) * factor for key in keys]) + change * rng.standard_normal(len(keys))
    seconds = np.exp(
        logs[:, None] + drift * rng.standard_normal(n_turns) + 0.01 * rng.standard_normal((len(keys), n_turns))
    )
    networks = tuple(MeasuredNetwork(str(key), 32, extras={"file_bytes": 5.0}) for key in keys)
    began = 1.7e9 + 3600 * began
    more.setdefault("doubts", ("",) * n_turns)
    return Session(
        more.pop("id", new_session_id()), DEVICE, began, networks, seconds, np.full(seconds.shape, np.nan), **more
    )


def test_a_measurement_is_on_the_common_level_with_its_repeats():
    first, second = session(range(1, 20), factor=1.4, extras={"clock_hz": 2.0}), session(range(10, 40), began=1)
    found = Measurements(DEVICE, [first, second])
    assert found.at is second and set(found) == {(str(i), 32) for i in range(1, 40)} and len(found) == 39
    for i in (5, 15, 35):
        measurement = found[str(i), 32]
        assert measurement.latency == pytest.approx(1e-3 * i, rel=0.04)
        low, high = measurement.interval
        assert low < measurement.latency < high < 1.1 * low and measurement.deviation < 0.02
        assert np.median(measurement.repeats) == pytest.approx(measurement.latency, rel=0.02)
        assert measurement.network == (str(i), 32) and measurement.extras["file_bytes"] == 5.0
    assert found["15", 32].sessions == (first.id, second.id) and len(found["15", 32].repeats) == 60
    assert found["35", 32].sessions == (second.id,) and "clock_hz" not in found["35", 32].extras
    assert found["5", 32].extras["clock_hz"] == 2.0
    assert "5 at 32 px: 5." in str(found["5", 32]) and "on test, 30 repeats" in str(found["5", 32])


def test_an_exported_file_does_not_change_the_size_of_the_network():
    first, later = session(range(1, 20)), session(range(1, 20), began=1)
    networks = tuple(replace(one, extras={"file_bytes": 9.0, "peak_memory_bytes": 7.0}) for one in later.networks)
    exported = replace(later, networks=networks, purpose="export")
    assert Measurements(DEVICE, [first, exported])["5", 32].extras == {"file_bytes": 5.0, "peak_memory_bytes": 7.0}
    assert Measurements(DEVICE, [first, replace(exported, purpose="again")])["5", 32].extras["file_bytes"] == 9.0


def test_the_level_is_of_what_is_compared_else_of_the_largest_session_unless_told():
    small, large, later = session(range(1, 5)), session(range(1, 9), factor=2.0, began=1), session(range(1, 9), began=2)
    final = session(range(1, 4), factor=3.0, began=3, purpose="final")
    assert Measurements(DEVICE, [small, large]).at is large
    assert Measurements(DEVICE, [small, large, later]).at is later
    assert Measurements(DEVICE, [small, final, later]).at is final
    told = Measurements(DEVICE, [small, large, final], at=large.id)
    assert told.at is large and told["4", 32].latency == pytest.approx(8e-3, rel=0.05)
    with pytest.raises(KeyError, match="no session nowhere"):
        _ = Measurements(DEVICE, [small], at="nowhere").at


def test_of_nothing_nothing_is_said():
    empty = Measurements(DEVICE, [session(range(1, 4), n_turns=5)])
    assert len(empty) == 0 and list(empty) == [] and empty.notes == [] and ("1", 32) not in empty
    with pytest.raises(KeyError):
        empty["1", 32]
    with pytest.raises(KeyError, match="nothing was measured"):
        _ = empty.at


def test_a_moody_machine_is_nothing_to_tell_people():
    sessions = [
        session(range(1, 12), factor=factor, drift=0.2, began=k, seed=k) for k, factor in enumerate((1, 1.3, 0.9))
    ]
    assert Measurements(DEVICE, sessions).notes == []


def test_a_machine_that_has_changed_for_good_is_told():
    before, after = session(range(1, 12), factor=2.0), session(range(1, 12), began=1)
    (note,) = Measurements(DEVICE, [before, after]).notes
    assert "everything is 2.0 times faster on" in note and "the later level" in note and "\n" not in note
    (note,) = Measurements(DEVICE, [before, after], at=before.id).notes
    assert "everything was 2.0 times slower on" in note and "the earlier level" in note


def test_networks_that_changed_relative_to_each_other_are_told():
    sessions = [*(session(range(1, 30), change=0.08, seed=k, began=k) for k in (1, 2)), session(range(1, 30), began=3)]
    (note,) = Measurements(DEVICE, sessions).notes  # of the larger of two changes
    assert "networks have changed relative to each other by" in note and "supernet profile --again" in note


def test_a_session_that_nothing_ties_is_told_and_takes_no_part():
    sessions = [session(range(1, 5)), session(range(10, 20), began=1)]
    found = Measurements(DEVICE, sessions)
    (note,) = found.notes
    assert "shares no network with the rest" in note and set(found) == {(str(i), 32) for i in range(10, 20)}


def test_notes_of_a_session_are_warnings_of_its_networks():
    doubtful = session(range(1, 9), notes=("the CPU is clocked down; mend that",))
    found = Measurements(DEVICE, [doubtful, session(range(5, 30), began=1)])
    assert found["1", 32].warnings == ("the CPU is clocked down; mend that",) and found["20", 32].warnings == ()
    assert any(note.endswith("the CPU is clocked down; mend that") for note in found.notes)


def test_every_session_is_analysed_once_however_much_is_asked(monkeypatch):
    fitted = []
    monkeypatch.setattr("hardware.loop.session.fit_two_way", lambda y: fitted.append(y.shape) or fit_two_way(y))
    sessions = [session([*range(1, 9), *range(50 * k + 9, 50 * k + 59)], began=k, n_turns=20) for k in range(20)]
    found = Measurements(DEVICE, sessions)
    assert dict(found).keys() == dict(found).keys() and len(dict(found)) == 1008 and found.notes == []
    assert fitted == [(58, 20)] * 20


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_doubtful_turns_do_not_count_unless_there_are_too_few_others():
    doubts = ("busy",) * 10 + ("",) * 20
    one = session(range(1, 6), doubts=doubts)
    assert one.counted.sum() == 20 and len(one.repeats(("3", 32))) == 20 and len(one.fit.turns) == 20
    two = session(range(1, 6), doubts=("busy",) * 26 + ("",) * 4)
    assert two.counted.all() and len(two.repeats(("3", 32))) == 30


def test_a_network_of_few_turns_is_not_measured():
    one = session(range(1, 6))
    seconds = one.seconds.copy()
    seconds[2, 5:] = np.nan
    one = Session(one.id, DEVICE, one.began, one.networks, seconds, one.started, one.doubts)
    assert one.measured == (0, 1, 3, 4) and ("3", 32) not in one.names and one.places["4", 32] == 2
    with pytest.raises(KeyError):
        one.repeats(("3", 32))
    low, high = one.spread
    assert low < 1 < high


@pytest.mark.parametrize(
    ("seconds", "started", "message"),
    [
        ([[1.0, 2.0]], [[0.0, 1.0]], "1 networks and 1 turns"),
        ([[0.0]], [[0.0]], "not a positive number"),
        ([[-1.0]], [[0.0]], "not a positive number"),
        ([[np.inf]], [[0.0]], "not a positive number"),
        ([[1.0]], [[-0.1]], "began before it"),
        ([[1.0]], [[np.inf]], "began before it"),
        ([[np.nan]], [[1.0]], "took no time"),
    ],
)
def test_what_is_no_session_is_refused(seconds, started, message):
    with pytest.raises(ValueError, match=message):
        Session("s", DEVICE, 0.0, (MeasuredNetwork("a", 32),), np.array(seconds), np.array(started), ("",))


def test_a_network_is_in_a_session_once():
    with pytest.raises(ValueError, match="a network twice"):
        session([3, 3])


def test_turns_with_gaps_become_a_session():
    networks = [MeasuredNetwork("a", 32), MeasuredNetwork("b", 32, 4)]
    turns = [([0.0, None], [1e-3, None], ""), ([2.0, 1.0], [1e-3, 2e-3], "busy")]
    one = Session.of_turns(DEVICE, networks, turns, id="s", began=5.0, notes=["n"], extras={"x": 1.0})
    np.testing.assert_array_equal(one.seconds, [[1e-3, 1e-3], [np.nan, 2e-3]])
    np.testing.assert_array_equal(one.started, [[0.0, 2.0], [np.nan, 1.0]])
    assert one.doubts == ("", "busy") and one.notes == ("n",) and one.n_turns == 2 and one.purpose == "planned"
    empty = Session.of_turns(DEVICE, networks, [], id="s", began=5.0)
    assert empty.seconds.shape == (2, 0) and empty.measured == ()
