"""Measuring in sessions on a clock of our own: who is beside whom, what is kept, waited for, and told."""

import itertools
import os
import random

import numpy as np
import pytest

from hardware import Device, DeviceGoneError, Measurements, Prepared, Sampling, Store, Watcher, Workload, measure
from hardware.loop.cpu import cpu_description

DEVICE = Device("clock", "a clock", "none", "0", "none", threads=1, batch_size=1)
SAMPLING = Sampling(min_turns=20, max_turns=40)


class Clock:
    """A profiler and the time. A call of network "7" takes 7 ms and some, times the speed of the machine."""

    def __init__(self, noise=0.01, file_bytes=1e3, device=DEVICE):
        self.device, self.noise, self.file_bytes = device, noise, file_bytes
        self.rng, self.now, self.speed = random.Random(0), 1e9, 1.0
        self.prepared: list[str] = []
        self.broken: dict[str, float] = {}  # from when on a network fails
        self.slept: list[float] = []

    def seconds(self, key):
        return 1e-3 * int(key)

    def prepare(self, workload):
        self.prepared.append(workload.key)
        if self.broken.get(workload.key, 2e9) == 0:
            raise ValueError(f"no such operator in {workload.key}")

        def run(calls):
            if self.now >= self.broken.get(workload.key, 2e9):
                raise RuntimeError(f"{workload.key} is out of\nmemory")
            seconds = calls * self.seconds(workload.key) * self.speed * self.rng.lognormvariate(0, self.noise)
            self.now += seconds
            return seconds

        return Prepared(run, {"file_bytes": self.file_bytes})

    # The module `time`, as far as it is needed.

    def time(self):
        return self.now

    perf_counter = time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("hardware.loop.measuring.time", clock)
    return clock


class Heard(Watcher):
    def __init__(self):
        self.failures, self.sessions, self.shares, self.waited = {}, [], [], []

    def failed(self, workload, reason):
        self.failures[workload.key] = reason

    def progressed(self, session, share):
        self.sessions.append(session)
        self.shares.append(share)

    def waits(self, reason, seconds):
        self.waited.append((reason, seconds))


def workloads(*numbers):
    return [Workload(str(number), b"", 32) for number in numbers]


def keys(session):
    return [network.key for network in session.networks]


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_everything_is_measured_side_by_side(clock):
    (session,) = measure(clock, workloads(*range(1, 9)), SAMPLING)
    assert keys(session) == list("12345678") and session.device == DEVICE and session.purpose == "planned"
    assert 20 <= session.n_turns <= 40 and session.doubts == ("",) * session.n_turns
    assert not np.isnan(session.seconds).any() and not np.isnan(session.started).any()
    # When they began tells who was before whom, and that nobody was beside anybody.
    ends = session.started + session.seconds
    order = np.argsort(session.started.T.ravel())
    assert (session.started.T.ravel()[order][1:] >= ends.T.ravel()[order][:-1] - 1e-6).all()
    assert abs(session.began - 1e9) < 10 and session.networks[0].extras == {"file_bytes": 1e3}
    found = Measurements(DEVICE, [session])
    assert [found[key, 32].latency for key in "12345678"] == pytest.approx([1e-3 * i for i in range(1, 9)], rel=0.02)


def test_what_is_noisy_takes_more_turns(clock):
    lengths = []
    for noise in (0.001, 0.04, 0.5):
        clock.noise = noise
        (session,) = measure(clock, workloads(1, 2, 3, 4), Sampling(relative_half_width=0.015, max_turns=100))
        lengths.append(session.n_turns)
    assert lengths[0] == 20 < lengths[1] < lengths[2] == 100


def test_time_is_bounded(clock):
    clock.noise = 0.5
    (session,) = measure(clock, workloads(1, 50), Sampling(max_seconds=0.06))
    fast, slow = (~np.isnan(session.seconds)).sum(axis=1)
    assert slow == 20 < fast <= 70


@pytest.mark.parametrize(
    ("limits", "file_bytes", "sizes"),
    [
        ({}, 1e3, [9]),
        ({"session_networks": 4}, 1e3, [4, 4, 1]),
        # In a turn a network runs twice, first to settle: 2, 4, 6, ... 18 ms.
        ({"turn_seconds": 0.036}, 1e3, [6, 3]),
        ({"turn_seconds": 1e-9}, 1e3, [1] * 9),
        ({}, 1e6, [4, 4, 1]),
    ],
)
def test_sessions_are_as_large_as_memory_and_turns_allow(clock, monkeypatch, limits, file_bytes, sizes):
    monkeypatch.setattr("hardware.loop.measuring._memory", lambda: 8 * 4e6)
    clock.file_bytes = file_bytes
    sessions = list(measure(clock, workloads(*range(1, 10)), Sampling(max_turns=20, **limits)))
    assert [len(session.networks) for session in sessions] == sizes
    assert len({session.id for session in sessions}) == len(sizes)


def test_each_session_is_handed_out_before_the_next_is_built(clock):
    stream = measure(clock, iter(workloads(*range(1, 7))), Sampling(max_turns=20, session_networks=2))
    next(stream)
    assert clock.prepared == ["1", "2"]
    assert [keys(session) for session in stream] == [["3", "4"], ["5", "6"]]


def test_anchors_are_in_every_session_and_built_once(clock):
    sampling = Sampling(max_turns=20, session_networks=4)
    sessions = list(measure(clock, workloads(1, 2, 3, 4, 5), sampling, anchors=workloads(8, 9)))
    assert [keys(session) for session in sessions] == [["8", "9", "1", "2"], ["8", "9", "3", "4"], ["8", "9", "5"]]
    assert sorted(clock.prepared) == list("1234589")
    assert all(not np.isnan(session.seconds).any() for session in sessions)
    found = Measurements(DEVICE, sessions)
    assert len(found) == 7 and found["9", 32].latency / found["1", 32].latency == pytest.approx(9, rel=0.03)


def test_an_anchor_that_is_wanted_for_itself_is_measured_once(clock):
    assert list(measure(clock, [], SAMPLING, anchors=workloads(8, 9))) == []
    (session,) = measure(clock, workloads(9), SAMPLING, anchors=workloads(8, 9))
    assert keys(session) == ["8", "9"]
    # It was in the first session, so there is no other one for it alone.
    sampling = Sampling(max_turns=20, session_networks=4)
    sessions = list(measure(clock, workloads(1, 2, 9), sampling, anchors=workloads(8, 9)))
    assert [keys(session) for session in sessions] == [["8", "9", "1", "2"]]


def test_a_network_that_is_asked_for_twice_is_measured_once(clock):
    (session,) = measure(clock, workloads(1, 2, 1), SAMPLING)
    assert keys(session) == ["1", "2"]


def test_time_between_anchors_is_their_own_in_every_session(clock):
    """What an anchor spent in one session is no reason to leave it out of the next."""
    clock.noise = 0.5
    sampling = Sampling(max_turns=40, max_seconds=0.6, session_networks=2)
    for session in measure(clock, workloads(1, 2, 3, 4), sampling, anchors=workloads(9)):
        assert (~np.isnan(session.seconds[0])).sum() == 40


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("when", "reason"),
    [
        (0, "no such operator in 3"),
        (1, "'3' does not run: 3 is out of memory"),
        (1e9 + 0.5, "'3' does not run: 3 is out"),
    ],
)
def test_what_does_not_run_is_told_and_the_others_are_measured(clock, when, reason):
    """At once, at the first call, and in the middle of its session."""
    clock.broken["3"] = when
    heard = Heard()
    (session,) = measure(clock, workloads(1, 2, 3, 4), Sampling(min_turns=40, max_turns=80), watcher=heard)
    assert heard.failures.keys() == {"3"} and heard.failures["3"].startswith(reason)
    assert {key for key, _ in session.names} >= {"1", "2", "4"}
    assert not np.isnan(session.seconds[[key != "3" for key in keys(session)]]).any()
    clock.now, clock.broken["3"] = 1e9, when
    found = []
    with pytest.raises(ValueError, match=reason):  # nobody listens
        for session in measure(clock, workloads(1, 2, 3, 4), Sampling(min_turns=40, max_turns=80)):
            found.append(session)
    assert len(found) == (when > 1)  # what was measured is handed out first


def test_an_anchor_that_fails_is_left_out_and_told_where_it_is_wanted(clock):
    heard = Heard()
    clock.broken |= {"8": 0, "9": 1e9 + 1.5}
    sampling = Sampling(max_turns=40, min_turns=40, session_networks=6)
    sessions = list(measure(clock, workloads(1, 2, 3, 9, 4, 5), sampling, anchors=workloads(7, 8, 9), watcher=heard))
    assert [keys(session) for session in sessions] == [["7", "9", "1", "2", "3", "4"], ["7", "5"]]
    assert heard.failures.keys() == {"9"}
    # Anchors are a means; nobody asked for the eighth.
    sessions = list(measure(clock, workloads(8, 1), SAMPLING, anchors=workloads(7, 8), watcher=heard))
    assert [keys(session) for session in sessions] == [["7", "1"]] and heard.failures.keys() == {"8", "9"}


def test_what_was_measured_before_a_device_went_away_is_handed_out(clock):
    heard, found = Heard(), []
    clock.broken = dict.fromkeys("123456", 1e9 + 0.8)
    sampling = Sampling(max_turns=20, session_networks=3)
    with pytest.raises(DeviceGoneError, match=r"'clock' stopped working: . is out of memory; bring it back and run"):
        for session in measure(clock, workloads(4, 5, 6, 1, 2, 3, 1), sampling, watcher=heard):
            found.append(session)
    assert keys(found[0]) == ["4", "5", "6"] and found[0].measured == (0, 1, 2)
    assert [session.n_turns < 20 for session in found] == [False, True]
    assert heard.failures == {}  # the network whose turn it was is innocent


def test_a_device_that_goes_away_in_the_middle_of_a_session_leaves_its_turns(clock):
    clock.broken = dict.fromkeys("45", 1e9 + 0.5)
    stream = measure(clock, workloads(4, 5), Sampling(min_turns=90))
    session = next(stream)
    assert 10 < session.n_turns < 40 and session.measured == (0, 1)
    with pytest.raises(DeviceGoneError):
        next(stream)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be kept on cores here")
def test_the_process_is_afterwards_as_it_was(monkeypatch):
    here = Clock(device=Device("here", cpu_description(), "none", "0", "cpu", threads=1, batch_size=1))
    before, policy, seen = os.sched_getaffinity(0), os.sched_getscheduler(0), []
    core = max(before)
    monkeypatch.setattr("hardware.loop.measuring.quietest_cores", lambda n: (core,))
    monkeypatch.setattr("hardware.loop.measuring.time", here)

    class Fails(Watcher):
        def progressed(self, session, share):
            seen.append(os.sched_getaffinity(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(measure(here, workloads(8, 9), Sampling(min_turns=100), watcher=Fails(), surroundings=list))
    assert seen == [{core}] and os.sched_getaffinity(0) == before and os.sched_getscheduler(0) == policy
    for session in measure(here, workloads(8, 9), SAMPLING, surroundings=list):
        assert session.measured and os.sched_getaffinity(0) == before


# -- progress ---------------------------------------------------------------------------------------------------------


def test_a_session_is_told_while_it_goes_on_and_keeps_its_id(clock, tmp_path):
    heard = Heard()
    (session,) = measure(clock, workloads(7, 8, 9), Sampling(min_turns=60), watcher=heard)
    assert {one.id for one in heard.sessions} == {session.id}
    lengths = [one.n_turns for one in heard.sessions]
    assert lengths == sorted(set(lengths)) and len(lengths) >= 2 and lengths[-1] <= session.n_turns
    assert heard.shares == sorted(heard.shares) and 0 < heard.shares[0] < heard.shares[-1] < 1
    with Store(tmp_path / "store.sqlite") as store:  # as it would be after a kill, and at the end
        for one in [*heard.sessions, session]:
            store.add_session(one)
            (there,) = store.sessions(DEVICE)
            np.testing.assert_array_equal(there.seconds, one.seconds)


# -- surroundings -----------------------------------------------------------------------------------------------------


def test_a_disturbance_is_waited_out_and_what_it_spoilt_is_measured_again(clock):
    heard = Heard()

    def disturbances():
        disturbed = 1e9 + 2 < clock.now < 1e9 + 9
        clock.speed = 3.0 if disturbed else 1.0
        return ["the host went to lunch"] if disturbed else []

    (session,) = measure(
        clock, workloads(7, 8, 9), Sampling(min_turns=60), watcher=heard, surroundings=disturbances
    )  # fmt: skip
    doubted = [doubt for doubt in session.doubts if doubt]
    assert 0 < len(doubted) < 60 and set(doubted) == {"the host went to lunch"}
    assert session.n_turns - len(doubted) >= 60 and session.notes == ()
    assert session.seconds[:, session.counted].max() < 1.2 * 9e-3
    assert clock.slept == [seconds for _, seconds in heard.waited]
    assert clock.slept[:2] == [0.5, 1.0] and max(clock.slept) <= 8


def test_a_disturbance_that_stays_does_not_end_with_nothing(clock):
    heard = Heard()
    (session,) = measure(
        clock,
        workloads(7, 8, 9),
        Sampling(min_turns=60, patience_seconds=5.0),
        watcher=heard,
        surroundings=lambda: ["the CPU is clocked down"],
    )
    assert sum(clock.slept) == pytest.approx(5.0)
    assert session.counted.sum() >= 60 and session.measured == (0, 1, 2)
    (note,) = session.notes
    assert note.startswith("the CPU is clocked down; it did not pass while there was patience to wait")
    assert "supernet profile --again" in note
    assert Measurements(DEVICE, [session]).notes and len(Measurements(DEVICE, [session])) == 3


def test_without_patience_nothing_is_waited_for(clock):
    (session,) = measure(
        clock, workloads(8, 9), Sampling(min_turns=60, patience_seconds=0.0), surroundings=lambda: ["throttled"]
    )
    assert clock.slept == [] and session.doubts == ("",) * session.n_turns and len(session.notes) == 1


def test_what_is_wrong_in_the_last_second_costs_its_turns_or_is_noted(clock):
    def disturbances():
        return ["hot"] if clock.now > start + 2.5 else []

    start = clock.now
    sampling = Sampling(min_turns=20, max_turns=60, relative_half_width=1e-6)
    (session,) = measure(clock, workloads(7, 8, 9), sampling, surroundings=disturbances)
    assert session.n_turns == 60 and 20 <= session.counted.sum() < 60 and session.notes == ()
    assert session.doubts[-1] == "hot" and clock.slept == []
    start = clock.now
    (session,) = measure(clock, workloads(7, 8, 9), Sampling(min_turns=60), surroundings=disturbances)
    assert session.doubts == ("",) * 60 and session.notes[0].startswith("hot; ")


def test_no_other_device_is_asked_how_this_machine_is(clock, monkeypatch):
    monkeypatch.setattr("hardware.loop.measuring.Surroundings", None)
    monkeypatch.setattr("hardware.loop.measuring.quietest_cores", None)
    (session,) = measure(clock, workloads(1, 2), SAMPLING)
    assert session.measured == (0, 1)


def test_the_state_of_a_gpu_is_kept(clock, monkeypatch):
    clock.device = Device("gpu", "a GPU", "none", "0", "cuda", threads=1, batch_size=1)
    hertz, throttled = itertools.count(1000.0), iter([0.0] * 2 + [1.0] * 99)
    monkeypatch.setattr(
        "hardware.loop.measuring.gpu_state", lambda: {"sm_clock_hz": next(hertz), "throttled": next(throttled)}
    )
    monkeypatch.setattr("hardware.loop.measuring.quietest_cores", lambda n: ())
    (session,) = measure(clock, workloads(8, 9), Sampling(min_turns=60, patience_seconds=1.0))
    assert session.extras["sm_clock_hz_before"] == 1000.0 < session.extras["sm_clock_hz_after"]
    assert any("the GPU throttled itself" in note for note in session.notes)


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 149. GiB"), RuntimeError("bad_alloc")])
def test_what_does_not_fit_is_its_own_failure(clock, monkeypatch, error):
    prepare = clock.prepare

    def short_of_memory(workload):
        if workload.key == "8":
            raise error
        return prepare(workload)

    monkeypatch.setattr(clock, "prepare", short_of_memory)
    heard = Heard()
    (session,) = measure(clock, workloads(7, 8, 9), SAMPLING, watcher=heard)
    assert [key for key, _ in session.names] == ["7", "9"]
    assert heard.failures == {"8": f"'8' cannot be prepared: {error}"}


def test_images_that_are_larger_than_the_machine_are_not_even_tried(monkeypatch):
    here = Clock(device=Device("here", cpu_description(), "none", "0", "cpu", threads=1, batch_size=1))
    monkeypatch.setattr("hardware.loop.measuring.time", here)
    heard = Heard()
    large = Workload("8", b"", 2_000_000)
    (session,) = measure(here, [*workloads(7), large, *workloads(9)], SAMPLING, watcher=heard, surroundings=list)
    assert here.prepared == ["7", "9"] and [key for key, _ in session.names] == ["7", "9"]
    assert "images of 4.8e+04 GB at a time, and this machine has" in heard.failures["8"]
