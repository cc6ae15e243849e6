"""The measuring loop, whatever the runtime: interleaved, warmed up, repeated until the median is known well enough."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from statistics import median
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from hardware.device import Device
from hardware.disturbance import disturbed_turns, quiet_level
from hardware.measurement import Measurement, median_interval
from hardware.process import interruptions, quietest_cores, undisturbed
from hardware.profiling import DeviceGoneError, OnFailure, OnTurn, Prepared, Sampling, Workload

__all__ = ["measure_interleaved"]

_MEMORY_SHARE = 8  # files of a group fill at most one part in so many; sessions take about twice as much as files
_IMPOSSIBLE_TIMES = 5  # in a row, after which the clock of a device is not believed any more


def measure_interleaved(
    device: Device,
    workloads: Iterable[Workload],
    prepare: Callable[[Workload], Prepared],
    reference: Workload,
    sampling: Sampling,
    *,
    failed: OnFailure | None = None,
    on_turn: OnTurn | None = None,
    state: Callable[[], Mapping[str, float]] | None = None,
    interruptions: Callable[[], int] = interruptions,
    choose_cores: Callable[[int], Collection[int]] = quietest_cores,
) -> Iterator[Measurement]:
    """Measure `workloads` in groups that take turns in random order, the reference network taking part throughout.

    The larger a group, the better networks compare with each other, since all have the same share of the machine's good
    and bad moments: two campaigns agreed to a Kendall τ of 0.96 in groups of 8 and 24, and of 0.98 in one of 57
    (`repeatability.py`). It is limited by `Sampling`, and by a share of the memory of this machine.

    Turns spread a disturbance over all networks of a group instead of falling on one (random interleaving as in
    google/benchmark). A repeat during which another program had the core, and all repeats of a stretch of turns in
    which the reference network was slow, are marked and made again. Where a group finds no quiet, all its repeats
    count and its measurements carry a warning.

    Args:
        device: what the measurements hold for.
        workloads: read one by one, as the groups fill.
        prepare: makes a workload ready; a ValueError says in one line why it does not run.
        reference: the same in all campaigns.
        sampling: how long to measure.
        failed, on_turn: see `Profiler.measure`.
        state: clocks and the like, read before and after each group into the extras; ``throttled`` above 0 is warned
            of.
        interruptions: how often this process has lost its core so far.
        choose_cores: the cores on which the measuring thread is to stay, for a number of threads; none: anywhere, and
            without precedence over other programs. See `undisturbed`.

    Raises:
        ValueError: the reference network does not run, or a workload does not and `failed` was not given.
        DeviceGoneError: the reference network does not run any more.
    """
    campaign = _Campaign(device, sampling, interruptions, choose_cores, state, on_turn)
    campaign.reference = campaign.course(reference, prepare)
    courses: list[_Course] = []
    for workload in workloads:
        try:
            courses.append(course := campaign.course(workload, prepare))
        except ValueError as error:
            _fail(workload, error, failed)
            continue
        campaign.attempt(course, course.try_out)
        if campaign.is_full(courses):
            yield from campaign.run(courses, failed)
            courses = []
    if courses:
        yield from campaign.run(courses, failed)


def _fail(workload: Workload, error: Exception, failed: OnFailure | None) -> None:
    if failed is not None:
        failed(workload, _one_line(error))
    elif isinstance(error, ValueError):
        raise error
    else:
        raise ValueError(f"{workload.key!r} does not run: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@dataclass
class _Course:
    """One network on its way to a tight interval."""

    workload: Workload
    prepared: Prepared
    campaign: _Campaign
    calls: int = 0  # for each repeat; 0 until warmed up
    settling_calls: int = 0
    call_seconds: float = 0.0  # about, before warming up
    turns: list[int] = field(default_factory=list)
    started: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    interrupted: list[bool] = field(default_factory=list)
    error: Exception | None = None

    def try_out(self) -> None:
        """What a call takes about: the second one, since the first may compile something."""
        self._timed(1)
        self.call_seconds = self._timed(1)

    def warm_up(self) -> None:
        """Run until no call is faster than the fastest before by more than 2 %, three times in a row."""
        sampling = self.campaign.sampling
        fastest, settled, spent = math.inf, 0, 0.0
        while settled < 3 and (spent < sampling.max_seconds / 4 or math.isinf(fastest)):
            call = self._timed(1)
            settled = 0 if call < 0.98 * fastest else settled + 1
            fastest = min(fastest, call)
            spent += call
        self.calls = math.ceil(sampling.min_repeat_seconds / fastest)
        self.settling_calls = math.ceil(sampling.settling_seconds / fastest)

    def repeat(self, turn: int) -> None:
        """Settle, then one repeat.

        Without settling, a network of 0.05 ms takes 2.5 times and one of 5 ms 1.03 times as long. More repeats in a
        turn would only look more exact: neighbours in one turn correlate (Spearman 0.66 on a shared two-core machine),
        those of different turns do not (0.06), and the interval of the median assumes that they do not.
        """
        self.prepared.run(self.settling_calls)
        before, started = self.campaign.interruptions(), self.campaign.now()
        seconds = self._timed(self.calls) / self.calls
        self.turns.append(turn)
        self.started.append(started)
        self.seconds.append(seconds)
        self.interrupted.append(self.campaign.interruptions() > before)

    def _timed(self, calls: int) -> float:
        seconds = 0.0
        for _ in range(_IMPOSSIBLE_TIMES):
            seconds = self.prepared.run(calls)
            if math.isfinite(seconds) and seconds > 0:
                return seconds
        raise ValueError(
            f"the clock of {self.campaign.device.name!r} gave {seconds} s for {self.workload.key!r}, "
            f"{_IMPOSSIBLE_TIMES} times in a row; see that nothing sets it while measuring"
        )

    def quiet(self, disturbed: NDArray[np.bool_]) -> list[int]:
        """The repeats that count: neither interrupted nor in a disturbed turn."""
        return [i for i, turn in enumerate(self.turns) if not (self.interrupted[i] or disturbed[turn])]

    def counted(self, disturbed: NDArray[np.bool_]) -> list[int]:
        """The repeats that count, or all where too few do."""
        quiet = self.quiet(disturbed)
        return quiet if len(quiet) >= self.campaign.sampling.min_repeats else list(range(len(self.turns)))

    def done(self, disturbed: NDArray[np.bool_]) -> bool:
        sampling, quiet = self.campaign.sampling, self.quiet(disturbed)
        n_disturbed = len(self.turns) - len(quiet)
        if len(quiet) >= sampling.max_repeats or sum(self.seconds) * self.calls >= sampling.max_seconds:
            return len(self.turns) >= sampling.min_repeats
        if n_disturbed >= len(quiet) + 2 * sampling.min_repeats or len(self.turns) >= 2 * sampling.max_repeats:
            return True  # there is no quiet to wait for
        return len(quiet) >= sampling.min_repeats and self.half_width(quiet) <= sampling.relative_half_width

    def share(self, disturbed: NDArray[np.bool_]) -> float:
        """How much of it is done, about: twice the least number of repeats is common."""
        if self.error is not None or self.done(disturbed):
            return 1.0
        return min(0.95, len(self.turns) / (2 * self.campaign.sampling.min_repeats))

    def half_width(self, indices: Sequence[int]) -> float:
        seconds = [self.seconds[i] for i in indices]
        low, high = median_interval(seconds)
        return (high - low) / 2 / median(seconds)

    def doubts(self, counted: Sequence[int]) -> Iterator[str]:
        """What is doubtful about this network alone."""
        wanted, found = self.campaign.sampling.relative_half_width, self.half_width(counted)
        if found > wanted:
            yield (
                f"the median is known to ±{found:.1%} only, wanted was ±{wanted:.1%} ({len(counted)} repeats); "
                "close other programs or allow more repeats, and measure again"
            )
        interrupted = sum(self.interrupted[i] for i in counted)
        if interrupted:
            yield (
                f"other programs had the core during {interrupted} of {len(counted)} repeats; close them, or leave a "
                "core free, and measure again"
            )


class _Campaign:
    """What the groups of a campaign share: the reference network, its level, the clock, and the cores."""

    reference: _Course

    def __init__(
        self,
        device: Device,
        sampling: Sampling,
        interruptions: Callable[[], int],
        choose_cores: Callable[[int], Collection[int]],
        state: Callable[[], Mapping[str, float]] | None,
        on_turn: OnTurn | None,
    ) -> None:
        self.device = device
        self.sampling = sampling
        self.interruptions = interruptions
        self.choose_cores = choose_cores
        self.state = state
        self.on_turn = on_turn
        self.rng = np.random.default_rng(sampling.seed)
        self.levels: list[float] = []  # of the reference network, one for each group
        self.cores: Collection[int] | None = None  # None: to be chosen
        self.start = perf_counter()

    def now(self) -> float:
        """Seconds since the start, to the microsecond."""
        return round(perf_counter() - self.start, 6)

    def course(self, workload: Workload, prepare: Callable[[Workload], Prepared]) -> _Course:
        return _Course(workload, prepare(workload), self)

    def is_full(self, courses: Sequence[_Course]) -> bool:
        """Whether no more should be measured beside these."""
        sampling = self.sampling
        turn = sum(
            max(course.call_seconds, sampling.min_repeat_seconds) + max(course.call_seconds, sampling.settling_seconds)
            for course in courses
        )
        n_bytes = sum(course.prepared.extras.get("file_bytes", 0.0) for course in courses)
        return (
            len(courses) >= sampling.group_size
            or turn * sampling.min_repeats >= sampling.group_seconds
            or n_bytes * _MEMORY_SHARE >= _memory()
        )

    def run(self, courses: Sequence[_Course], failed: OnFailure | None) -> Iterator[Measurement]:
        """Measure a group and hand out its measurements."""
        if self.cores is None:
            self.cores = self.choose_cores(self.device.threads)
        before = self._state()
        with undisturbed(self.cores, realtime=self.device.threads == 1):
            self._take_turns(courses)
        after = self._state()
        disturbed = self._disturbed()
        counted = self.reference.counted(disturbed)
        level = quiet_level([self.reference.seconds[i] for i in counted])
        self.levels.append(level)
        drift = level / quiet_level(self.levels) - 1
        if abs(drift) > self.sampling.drift or np.mean(disturbed) > 0.5:
            self.cores = None  # perhaps others have become quieter
        shared = [*_drift_doubts(drift, self.sampling.drift), *_throttling(before, after)]
        extras = {f"{name}_before": value for name, value in before.items()}
        extras |= {f"{name}_after": value for name, value in after.items()}
        for course in courses:
            if course.error is not None:
                _fail(course.workload, course.error, failed)
            else:
                yield self._measurement(course, disturbed, shared, extras)

    def _take_turns(self, courses: Sequence[_Course]) -> None:
        """Until every network that runs has repeats enough."""
        reference = self.reference
        for values in (reference.turns, reference.started, reference.seconds, reference.interrupted):
            values.clear()
        if not reference.calls:
            self.attempt(reference, reference.warm_up)
        for course in courses:
            if course.error is None:  # what failed when it was tried out is not tried again
                self.attempt(course, course.warm_up)
        for turn in count():
            disturbed = self._disturbed()
            active = [course for course in courses if course.error is None and not course.done(disturbed)]
            if not active:
                return
            if self.on_turn is not None:
                self.on_turn(sum(course.share(disturbed) for course in courses) / len(courses))
            active.append(reference)
            for i in self.rng.permutation(len(active)):
                self.attempt(active[i], partial(active[i].repeat, turn))

    def attempt(self, course: _Course, action: Callable[[], object]) -> None:
        """Whatever a runtime raises when a network runs on it, the others go on; unless the reference fails as well."""
        try:
            action()
        except Exception as error:
            course.error = error
            if course is not self.reference:
                self.attempt(self.reference, partial(self.reference.prepared.run, 1))
                return
            raise DeviceGoneError(
                f"device {self.device.name!r} stopped working: {_one_line(error)}; bring it back and run the same "
                "command again, what was measured is kept"
            ) from error

    def _disturbed(self) -> NDArray[np.bool_]:
        """Per turn of the group so far, whether the reference network was slow."""
        seconds = self.reference.seconds
        if not seconds:
            return np.zeros(0, dtype=bool)
        level = quiet_level([*self.levels, quiet_level(seconds)])
        return disturbed_turns(seconds, level, self.sampling.drift)

    def _state(self) -> Mapping[str, float]:
        return self.state() if self.state is not None else {}

    def _measurement(
        self, course: _Course, disturbed: NDArray[np.bool_], shared: Sequence[str], extras: Mapping[str, float]
    ) -> Measurement:
        counted, reference = course.counted(disturbed), self.reference
        marked = sorted(set(range(len(course.turns))) - set(counted))
        turns = {course.turns[i] for i in counted}
        beside = [i for i in reference.quiet(disturbed) if reference.turns[i] in turns]
        if len(beside) < self.sampling.min_repeats:
            beside = list(range(len(reference.turns)))
        return Measurement(
            device=self.device,
            key=course.workload.key,
            resolution=course.workload.resolution,
            seconds=tuple(course.seconds[i] for i in counted),
            calls_per_repeat=course.calls,
            reference_seconds=tuple(reference.seconds[i] for i in beside),
            warnings=(*course.doubts(counted), *shared),
            started=tuple(course.started[i] for i in counted),
            reference_started=tuple(reference.started[i] for i in beside),
            disturbed=tuple((course.started[i], course.seconds[i]) for i in marked),
            extras={**course.prepared.extras, **extras},
        )


def _memory() -> float:
    """Bytes of this machine, as far as the platform tells."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):  # Windows
        return 4e9


def _drift_doubts(drift: float, tolerance: float) -> Iterator[str]:
    if abs(drift) > tolerance:
        slower = "slower" if drift > 0 else "faster"
        yield (
            f"the machine drifted: the reference network ran {abs(drift):.0%} {slower} than in the rest of the "
            "campaign; let the machine come to rest and measure again"
        )


def _throttling(before: Mapping[str, float], after: Mapping[str, float]) -> Iterator[str]:
    if before.get("throttled", 0) > 0 or after.get("throttled", 0) > 0:
        yield "the device throttled itself (heat or power); cool it or let it rest, and measure again"
