"""The measuring loop on a clock of our own: what it keeps, repeats, warns of, and survives."""

import itertools
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest

from hardware import Device, DeviceGoneError, Sampling, Workload
from hardware.interleaving import measure_interleaved
from hardware.profiling import Prepared

DEVICE = Device("clock", "clock", "none", "0", "none", threads=1, batch_size=1)


class Clock:
    """Runners whose call takes 1 ms times the speed of the machine, 100 times that in the first three calls."""

    def __init__(self, noise: float = 0.0) -> None:
        self.speed = 1.0
        self.noise = noise
        self.rng = np.random.default_rng(0)
        self.order: list[str] = []
        self.fast_again = 10**9  # the run after which the speed is 1 again

    def prepare(self, workload: Workload) -> Prepared:
        calls_made = itertools.count()

        def runner(calls: int) -> float:
            self.order.append(workload.key)
            speed = self.speed if len(self.order) < self.fast_again else 1.0
            warm_up = sum(0.1 for _ in range(calls) if next(calls_made) < 3)
            return warm_up + calls * 1e-3 * speed * self.rng.lognormal(0, self.noise)

        return Prepared(runner)


def workloads(n: int) -> Iterator[Workload]:
    return (Workload(str(i), b"", 32) for i in range(n))


# On a clock of our own nothing interrupts and no core is better than another.
measured = partial(
    measure_interleaved,
    reference=Workload("reference", b"", 32),
    interruptions=lambda: 0,
    choose_cores=lambda n: (),
)


def run(clock: Clock, sampling: Sampling, n: int = 4, **more):
    return measured(DEVICE, workloads(n), clock.prepare, sampling=sampling, **more)


def test_warm_up_is_not_among_the_samples():
    for measurement in run(Clock(noise=0.001), Sampling()):
        assert max(measurement.seconds) < 2e-3
        assert measurement.warnings == ()
        assert len(measurement.seconds) == Sampling().min_repeats


def test_a_tight_network_drops_out_and_a_noisy_one_is_repeated():
    clock = Clock(noise=0.05)
    measurements = list(run(clock, Sampling()))
    assert len({len(measurement.seconds) for measurement in measurements}) > 1
    assert max(len(measurement.seconds) for measurement in measurements) > Sampling().min_repeats
    for measurement in measurements:
        assert measurement.relative_half_width <= Sampling().relative_half_width


def test_a_median_that_stays_loose_says_what_to_do():
    for measurement in run(Clock(noise=1.0), Sampling(max_repeats=30)):
        assert 30 <= len(measurement.seconds) < 60  # repeats of stretches taken for disturbed are made again
        assert any("allow more repeats" in warning for warning in measurement.warnings)


def test_time_is_bounded():
    for measurement in run(Clock(noise=1.0), Sampling(max_seconds=0.05, drift=9.0)):
        assert sum(measurement.seconds) < 0.2


def test_turns_are_interleaved_in_an_order_made_by_the_seed():
    orders = []
    for seed in (0, 0, 1):
        clock = Clock()
        list(run(clock, Sampling(seed=seed)))
        orders.append(clock.order)
    assert orders[0] == orders[1] != orders[2]
    last = orders[0][-100:]
    assert set(last) == {"0", "1", "2", "3", "reference"}


def test_lasting_drift_is_measured_again_and_then_warned_of():
    clock = Clock(noise=0.001)
    stream = run(clock, Sampling(group_size=1), n=5)
    assert not any(next(stream).warnings for _ in range(3))
    clock.speed = 1.5
    drifted = next(stream)
    assert any("reference network ran 50% slower" in warning for warning in drifted.warnings)
    assert all(1.4e-3 < s < 1.6e-3 for s in drifted.seconds)


def test_passing_drift_is_measured_away():
    clock = Clock(noise=0.001)
    stream = run(clock, Sampling(group_size=1), n=4)
    for _ in range(3):
        next(stream)
    clock.speed = 1.5
    clock.fast_again = len(clock.order) + 4 * Sampling().min_repeats  # 2 networks, 2 runs a turn
    last = next(stream)
    assert last.warnings == ()
    assert last.median < 1.1e-3
    assert max(last.reference_seconds) < 1.1e-3


def test_each_group_is_handed_out_before_the_next_is_built():
    built = []

    def building() -> Iterator[Workload]:
        for workload in workloads(6):
            built.append(workload.key)
            yield workload

    stream = measured(DEVICE, building(), Clock().prepare, sampling=Sampling(group_size=2))
    next(stream)
    assert built == ["0", "1"]
    assert {m.key for m in stream} == {"1", "2", "3", "4", "5"}


def test_groups_are_smaller_where_networks_are_slow_or_large(monkeypatch):
    def group_sizes(sampling: Sampling, file_bytes: float = 0.0) -> list[int]:
        clock, built, seen = Clock(), [], []

        def prepare(workload: Workload) -> Prepared:
            built.append(workload.key)
            return Prepared(clock.prepare(workload).run, {"file_bytes": file_bytes})

        for _ in measured(DEVICE, workloads(7), prepare, sampling=sampling):
            if not seen or len(built) != seen[-1]:
                seen.append(len(built))
        return np.diff([1, *seen]).tolist()  # the reference network is built first

    assert group_sizes(Sampling()) == [7]
    # A call of the fake takes 0.1 s at first, twice in a turn, in 15 turns: 3 s each.
    assert group_sizes(Sampling(group_seconds=8.0)) == [3, 3, 1]
    assert group_sizes(Sampling(group_seconds=1.0)) == [1] * 7
    monkeypatch.setattr("hardware.interleaving._memory", lambda: 8 * 4.0e6)
    assert group_sizes(Sampling(), file_bytes=1e6) == [4, 3]


def test_what_fails_when_it_joins_a_group_is_not_run_again():
    clock, runs, failures = Clock(), [], []

    def prepare(workload: Workload) -> Prepared:
        if workload.key != "1":
            return clock.prepare(workload)

        def fails(calls: int) -> float:
            runs.append(calls)
            raise RuntimeError("operator missing")

        return Prepared(fails)

    found = measured(DEVICE, workloads(3), prepare, sampling=Sampling(), failed=lambda *why: failures.append(why[1]))
    assert {m.key for m in found} == {"0", "2"}
    assert runs == [1] and failures == ["operator missing"]


def test_how_far_a_group_is_can_be_watched():
    shares: list[float] = []
    list(run(Clock(noise=0.05), Sampling(group_size=4), n=4, on_turn=shares.append))
    assert shares[0] == 0 and 0.5 < shares[-1] < 1 and len(shares) > 15
    assert np.diff(shares).min() > -0.05  # a repeat that turns out to be disturbed takes a little back


@pytest.mark.parametrize("wrong", [{"min_repeats": 5}, {"max_repeats": 10}, {"drift": 0.0}, {"group_size": 0}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError):
        Sampling(**wrong)


# -- interruptions, failures and other accidents ----------------------------------------------------------------------


class Accidents(Clock):
    """A clock in whose calls number `when` (counted over all networks) something happens to network `key`."""

    def __init__(self, key: str, happens) -> None:
        super().__init__(noise=0.001)
        self.key, self.happens, self.calls_of_key = key, happens, 0
        self.lost_cores = 0

    def prepare(self, workload: Workload) -> Prepared:
        run = super().prepare(workload).run

        def runner(calls: int) -> float:
            seconds = run(calls)
            if workload.key == self.key:
                self.calls_of_key += 1
                return self.happens(self, seconds)
            return seconds

        return Prepared(runner, {"file_bytes": 5.0})


def test_an_interrupted_repeat_is_made_again():
    def every_third(clock: Accidents, seconds: float) -> float:
        if clock.calls_of_key > 20 and clock.calls_of_key % 3 == 0:
            clock.lost_cores += 1
            return seconds + 4e-3
        return seconds

    clock = Accidents("1", every_third)
    found = {m.key: m for m in run(clock, Sampling(), interruptions=lambda: clock.lost_cores)}
    assert max(found["1"].seconds) < 1.1e-3 and len(found["1"].seconds) >= Sampling().min_repeats
    assert found["1"].disturbed and all(seconds > 4e-3 for _, seconds in found["1"].disturbed)
    assert found["0"].disturbed == ()
    assert not any(measurement.warnings for measurement in found.values())


def test_where_nothing_but_interruptions_is_to_be_had_all_count_and_a_warning_says_so():
    def always(clock: Accidents, seconds: float) -> float:
        clock.lost_cores += 1
        return 2 * seconds

    clock = Accidents("1", always)
    found = {m.key: m for m in run(clock, Sampling(), interruptions=lambda: clock.lost_cores)}
    repeats = found["1"].seconds
    assert len(repeats) == 2 * Sampling().min_repeats and all(1.9e-3 < s < 2.1e-3 for s in repeats)
    assert any(f"during {len(repeats)} of {len(repeats)} repeats; close them" in text for text in found["1"].warnings)
    assert found["0"].warnings == ()


def test_times_give_the_order_in_which_everything_was_run():
    clock = Clock(noise=0.001)
    found = list(run(clock, Sampling()))
    starts = [(start, m.key) for m in found for start in m.started]
    starts += [(start, "reference") for start in found[0].reference_started]
    order = [key for _, key in sorted(starts)]
    assert len(set(starts)) == len(order)
    # In a turn every network runs twice: it settles, and is timed.
    assert order == clock.order[-2 * len(order) :: 2]


def test_what_does_not_run_is_a_failure_and_the_others_are_measured():
    def breaks(clock: Accidents, seconds: float) -> float:
        if clock.calls_of_key > 10:
            raise RuntimeError("out of memory\nwith a long trace")
        return seconds

    failures = []
    clock = Accidents("1", breaks)

    def prepare(workload: Workload) -> Prepared:
        if workload.key == "2":
            raise ValueError("no such operator: Einsum")
        return clock.prepare(workload)

    stream = measured(
        DEVICE, workloads(4), prepare, sampling=Sampling(), failed=lambda w, why: failures.append((w.key, why))
    )
    assert {measurement.key for measurement in stream} == {"0", "3"}
    assert failures == [("2", "no such operator: Einsum"), ("1", "out of memory with a long trace")]
    with pytest.raises(ValueError, match="'1' does not run: out of memory with a long trace"):
        list(measured(DEVICE, workloads(2), Accidents("1", breaks).prepare, sampling=Sampling()))


def test_what_was_measured_before_a_device_went_away_is_handed_out():
    def gone(clock: Accidents, seconds: float) -> float:
        if clock.calls_of_key > 100:
            raise OSError("unplugged")
        return seconds

    failures = []
    stream = run(Accidents("reference", gone), Sampling(group_size=1), 20, failed=lambda *why: failures.append(why))
    found = []
    with pytest.raises(DeviceGoneError, match="device 'clock' stopped working: unplugged; bring it back and run"):
        for measurement in stream:
            found.append(measurement.key)
    assert found[:2] == ["0", "1"] and len(found) < 5
    assert failures == []  # the network whose turn it was is innocent


@pytest.mark.parametrize("wrong", [-1.0, 0.0, math.nan, math.inf])
def test_a_clock_that_jumps_is_asked_again_and_not_believed_for_ever(wrong):
    jumps = Accidents("1", lambda clock, seconds: wrong if clock.calls_of_key % 4 == 0 else seconds)
    for measurement in run(jumps, Sampling()):
        assert min(measurement.seconds) > 0.9e-3 and max(measurement.seconds) < 1.1e-3
    failures = {}
    stream = run(
        Accidents("1", lambda clock, seconds: wrong), Sampling(), failed=lambda w, why: failures.update({w.key: why})
    )
    assert {measurement.key for measurement in stream} == {"0", "2", "3"}
    assert "5 times in a row; see that nothing sets it" in failures["1"]


def test_the_state_of_the_device_is_kept_and_throttling_is_warned_of():
    clocks = itertools.count(1000.0)
    state = lambda: {"sm_clock_hz": next(clocks), "throttled": 0.0}  # noqa: E731
    for measurement in run(Accidents("1", lambda clock, seconds: seconds), Sampling(), state=state):
        assert measurement.extras == {
            "file_bytes": 5.0,
            "sm_clock_hz_before": 1000.0,
            "sm_clock_hz_after": 1001.0,
            "throttled_before": 0.0,
            "throttled_after": 0.0,
        }
        assert measurement.warnings == ()
    (hot, *_) = run(Clock(noise=0.001), Sampling(), state=lambda: {"throttled": 1.0})
    assert any("throttled itself" in warning for warning in hot.warnings)
