"""Measuring, whatever the runtime: interleaved, warmed up, repeated until the median is known well enough."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
from torch import nn

from hardware.device import Device
from hardware.measurement import Measurement, median_interval

__all__ = ["Profiler", "Runner", "Sampling", "Workload", "measure_interleaved"]

# Runs a prepared network so many times in a row and returns the seconds that this took.
Runner = Callable[[int], float]


@dataclass(frozen=True)
class Workload:
    """What is measured: a torch module or an ONNX file (its bytes or path) on square images.

    `key` names it in the measurement: the id of an architecture or the name of a model.
    """

    key: str
    model: nn.Module | bytes | Path
    resolution: int  # pixels
    channels: int = 3


class Profiler(Protocol):
    """Measures networks on one device. Third parties bring a device on board by writing one of these."""

    @property
    def device(self) -> Device:
        """What the measurements hold for."""
        ...

    def measure(self, workloads: Iterable[Workload]) -> Iterator[Measurement]:
        """One measurement for each workload and in no particular order, each handed out as soon as it is final.

        The workloads are read a few at a time, so a generator may build them while it is asked for them.
        """
        ...


@dataclass(frozen=True)
class Sampling:
    """How long to measure. A workload is done when the 95 % interval of its median is narrow enough.

    Raises:
        ValueError: limits that cannot be met.
    """

    relative_half_width: float = 0.02  # wanted: half the interval as a share of the median
    min_repeats: int = 15  # below 6 there is no 95 % interval
    max_repeats: int = 400
    max_seconds: float = 10.0  # timed seconds for each workload
    min_repeat_seconds: float = 2e-4  # shorter calls are timed several at a time: clocks and loops cost some 100 ns
    settling_seconds: float = 1e-3  # untimed calls at the start of a turn: the caches hold what the others used
    group_size: int = 8  # workloads measured side by side; what a kill can lose
    drift: float = 0.05  # tolerated deviation of the reference network from its level over the campaign
    seed: int = 0  # of the order in which the networks take turns

    def __post_init__(self) -> None:
        if not 6 <= self.min_repeats <= self.max_repeats:
            raise ValueError(
                f"min_repeats {self.min_repeats} and max_repeats {self.max_repeats} must ascend and be at least 6, "
                "else the median has no 95 % interval"
            )
        times = self.max_seconds, self.min_repeat_seconds, self.settling_seconds
        if min(self.relative_half_width, self.drift, *times) <= 0:
            raise ValueError(f"limits of sampling must be positive; got {self}")
        if self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} must be at least 1")


def measure_interleaved(
    device: Device,
    workloads: Iterable[Workload],
    prepare: Callable[[Workload], Runner],
    reference: Workload,
    sampling: Sampling,
) -> Iterator[Measurement]:
    """Measure `workloads` in groups that take turns in random order, the reference network taking part throughout.

    Turns spread a disturbance over all networks of a group instead of falling on one (random interleaving as in
    google/benchmark), and the reference network shows it: where its median in a group is off its level over the
    campaign, the group is measured once more, and if that does not help its measurements carry a warning.
    """
    rng = np.random.default_rng(sampling.seed)
    remaining = iter(workloads)
    campaign = _Campaign(_Course(reference, prepare(reference), sampling), sampling, rng)
    while group := list(islice(remaining, sampling.group_size)):
        courses = [_Course(workload, prepare(workload), sampling) for workload in group]
        with _without_garbage_collection():
            reference_seconds, drift = campaign.run(courses)
        for course in courses:
            warnings = tuple(filter(None, (course.doubt(), drift)))
            yield course.measurement(device, reference_seconds, warnings)


@dataclass
class _Course:
    """One network on its way to a tight interval."""

    workload: Workload
    runner: Runner
    sampling: Sampling
    calls: int = 0  # for each repeat; 0 until warmed up
    settling_calls: int = 0
    seconds: list[float] = field(default_factory=list)

    def warm_up(self) -> None:
        """Run until no call is faster than the fastest before by more than 2 %, three times in a row."""
        fastest, settled, spent = math.inf, 0, 0.0
        while settled < 3 and (spent < self.sampling.max_seconds / 4 or math.isinf(fastest)):
            call = self.runner(1)
            settled = 0 if call < 0.98 * fastest else settled + 1
            fastest = min(fastest, call)
            spent += call
        self.calls = math.ceil(self.sampling.min_repeat_seconds / fastest)
        self.settling_calls = math.ceil(self.sampling.settling_seconds / fastest)

    def repeat(self) -> None:
        """One turn: settle, then one repeat.

        Without settling, a network of 0.05 ms takes 2.5 times and one of 5 ms 1.03 times as long. More repeats in a
        turn would only look more exact: neighbours in one turn correlate (Spearman 0.66 on a shared two-core machine),
        those of different turns do not (0.06), and the interval of the median assumes that they do not.
        """
        self.runner(self.settling_calls)
        self.seconds.append(self.runner(self.calls) / self.calls)

    @property
    def half_width(self) -> float:
        low, high = median_interval(self.seconds)
        return (high - low) / 2 / median(self.seconds)

    @property
    def done(self) -> bool:
        if len(self.seconds) < self.sampling.min_repeats:
            return False
        return self._exhausted or self.half_width <= self.sampling.relative_half_width

    @property
    def _exhausted(self) -> bool:
        spent = sum(self.seconds) * self.calls
        return len(self.seconds) >= self.sampling.max_repeats or spent >= self.sampling.max_seconds

    def doubt(self) -> str | None:
        if self.half_width <= self.sampling.relative_half_width:
            return None
        return (
            f"the median is known to ±{self.half_width:.1%} only, wanted was ±{self.sampling.relative_half_width:.1%} "
            f"({len(self.seconds)} repeats); close other programs or allow more repeats, and measure again"
        )

    def measurement(self, device: Device, reference_seconds: Sequence[float], warnings: tuple[str, ...]) -> Measurement:
        return Measurement(
            device=device,
            key=self.workload.key,
            resolution=self.workload.resolution,
            seconds=tuple(self.seconds),
            calls_per_repeat=self.calls,
            reference_seconds=tuple(reference_seconds),
            warnings=warnings,
        )


@dataclass
class _Campaign:
    """The reference network and its level so far."""

    reference: _Course
    sampling: Sampling
    rng: np.random.Generator
    levels: list[float] = field(default_factory=list)  # medians of the reference network, one for each group

    def run(self, courses: Sequence[_Course]) -> tuple[list[float], str | None]:
        """Measure a group; return the repeats of the reference network and, if it drifted, a warning."""
        if not self.reference.calls:
            self.reference.warm_up()
        for course in courses:
            course.warm_up()
        drift = self._run_once(courses)
        if abs(drift) > self.sampling.drift:
            drift = self._run_once(courses)
        warning = None
        if abs(drift) > self.sampling.drift:
            slower = "slower" if drift > 0 else "faster"
            warning = (
                f"the machine drifted: the reference network ran {abs(drift):.0%} {slower} than in the rest of the "
                "campaign; let the machine come to rest and measure again"
            )
        return list(self.reference.seconds), warning

    def _run_once(self, courses: Sequence[_Course]) -> float:
        """Take turns until all are done; return the deviation of the reference network from its level."""
        everybody = [self.reference, *courses]
        for course in everybody:
            course.seconds.clear()
        while active := [course for course in courses if not course.done]:
            active.append(self.reference)
            for turn in self.rng.permutation(len(active)):
                active[turn].repeat()
        level = median(self.reference.seconds)
        self.levels.append(level)
        return level / median(self.levels) - 1


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
