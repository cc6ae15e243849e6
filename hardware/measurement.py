"""Measurements: raw repeats of one network on one device, and what can be said from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from statistics import median
from typing import Any, Self

from hardware.device import Device

__all__ = ["Measurement", "median_interval"]


@dataclass(frozen=True)
class Measurement:
    """How long one forward call of one batch takes, with every repeat kept.

    `started` gives with every repeat when it began, in seconds since the start of its campaign: sorted over all
    measurements of a campaign they are the order in which everything was run. Measurements that were imported from
    elsewhere or are older may have none.

    Raises:
        ValueError: no repeats, one that is not a positive finite number of seconds, starting times for some of them
            only, or an extra that is not a finite number.
    """

    device: Device
    key: str  # the id of an architecture, or the name of a model
    resolution: int  # pixels
    seconds: tuple[float, ...]  # per repeat: the time of one call, in the order in which they were taken
    calls_per_repeat: int = 1  # very short calls are timed several at a time; a repeat is their mean
    reference_seconds: tuple[float, ...] = ()  # the same for the reference network, taken in between
    warnings: tuple[str, ...] = ()  # what is doubtful, and what to do about it
    started: tuple[float, ...] = ()  # per repeat, or empty
    reference_started: tuple[float, ...] = ()
    # Repeats from stretches in which the reference network was slow, as (started, seconds). They were made again and
    # take no part in the median.
    disturbed: tuple[tuple[float, float], ...] = ()
    # What else was found out, by name with its unit: peak_memory_bytes, file_bytes, energy_joules (of one call).
    extras: Mapping[str, float] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError(f"the measurement of {self.key!r} has no repeats")
        for value in (*self.seconds, *self.reference_seconds, *(seconds for _, seconds in self.disturbed)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the measurement of {self.key!r} has a repeat of {value} s; times are positive")
        for value in (*self.started, *self.reference_started, *(started for started, _ in self.disturbed)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(
                    f"the measurement of {self.key!r} has a repeat that began at {value} s, before the start"
                )
        for what, repeats, starts in (
            ("repeats", self.seconds, self.started),
            ("repeats of the reference network", self.reference_seconds, self.reference_started),
        ):
            if len(starts) not in (0, len(repeats)):
                raise ValueError(
                    f"the measurement of {self.key!r} has {len(repeats)} {what}, {len(starts)} with a start"
                )
        for name, value in self.extras.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} of the measurement of {self.key!r} is {value}; only finite numbers are kept")
        if self.resolution < 1 or self.calls_per_repeat < 1:
            raise ValueError(
                f"the measurement of {self.key!r} has resolution {self.resolution} and "
                f"{self.calls_per_repeat} calls per repeat; both are at least 1"
            )

    @cached_property
    def median(self) -> float:
        """Seconds of one forward call of one batch."""
        return median(self.seconds)

    @cached_property
    def interval(self) -> tuple[float, float]:
        """A 95 % confidence interval of the median, in seconds; see `median_interval`."""
        return median_interval(self.seconds)

    @property
    def relative_half_width(self) -> float:
        """Half the width of the interval as a share of the median; 0.02 means ±2 %."""
        low, high = self.interval
        return (high - low) / 2 / self.median

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "device": self.device.to_dict(),
            "key": self.key,
            "resolution": self.resolution,
            "seconds": list(self.seconds),
            "calls_per_repeat": self.calls_per_repeat,
            "reference_seconds": list(self.reference_seconds),
            "warnings": list(self.warnings),
            "started": list(self.started),
            "reference_started": list(self.reference_started),
            "disturbed": [list(repeat) for repeat in self.disturbed],
            "extras": dict(self.extras),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; what older versions did not write (from `started` on) may be missing.

        Raises:
            ValueError: something else is missing, is not of the form that `to_dict` writes, or is no possible time.
        """
        try:
            return cls(
                device=Device.from_dict(data["device"]),
                key=str(data["key"]),
                resolution=int(data["resolution"]),
                seconds=tuple(map(float, data["seconds"])),
                calls_per_repeat=int(data["calls_per_repeat"]),
                reference_seconds=tuple(map(float, data["reference_seconds"])),
                warnings=tuple(map(str, data["warnings"])),
                started=tuple(map(float, data.get("started", ()))),
                reference_started=tuple(map(float, data.get("reference_started", ()))),
                disturbed=tuple((float(start), float(seconds)) for start, seconds in data.get("disturbed", ())),
                extras={str(name): float(value) for name, value in data.get("extras", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a measurement: {str(data)[:80]!r} ({error})") from error

    def __str__(self) -> str:
        low, high = self.interval
        milliseconds = f"{self.median * 1e3:.3f} ms [{low * 1e3:.3f}, {high * 1e3:.3f}]"
        return f"{self.key} at {self.resolution} px: {milliseconds} on {self.device.name}, {len(self.seconds)} repeats"


def median_interval(samples: Sequence[float], coverage: float = 0.95) -> tuple[float, float]:
    """A confidence interval of the median between two order statistics, whatever the distribution of the samples.

    The number of samples below the true median is binomial, so the k-th smallest and the k-th largest enclose it with
    a probability that is known (Conover 1999, section 3.2). Fewer than 6 samples cannot give 95 %: (0, inf).
    """
    rank = _rank(len(samples), coverage)
    if rank == 0:
        return 0.0, math.inf
    ordered = sorted(samples)
    return ordered[rank - 1], ordered[-rank]


@lru_cache(maxsize=4096)
def _rank(n: int, coverage: float) -> int:
    """The largest k for which the k-th smallest and k-th largest of `n` samples reach the coverage; 0 if none does."""
    # Counted in integers, since 0.5**n is 0 for the thousands of repeats that a client may hand in.
    limit = 2**n * round((1 - coverage) / 2 * 10**6) // 10**6
    k, ways, tail = 0, 1, 1  # tail: in how many of the 2**n cases at most k samples are below the median
    while tail <= limit:
        ways = ways * (n - k) // (k + 1)
        k += 1
        tail += ways
    return k
