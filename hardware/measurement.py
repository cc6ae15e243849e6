"""Measurements: raw repeats of one network on one device, and what can be said from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import median
from typing import Any, Self

from hardware.device import Device

__all__ = ["Measurement", "median_interval"]


@dataclass(frozen=True)
class Measurement:
    """How long one forward call of one batch takes, with every repeat kept.

    Raises:
        ValueError: no repeats, or one that is not a positive finite number of seconds.
    """

    device: Device
    key: str  # the id of an architecture, or the name of a model
    resolution: int  # pixels
    seconds: tuple[float, ...]  # per repeat: the time of one call, in the order in which they were taken
    calls_per_repeat: int = 1  # very short calls are timed several at a time; a repeat is their mean
    reference_seconds: tuple[float, ...] = ()  # the same for the reference network, taken in between
    warnings: tuple[str, ...] = ()  # what is doubtful, and what to do about it

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError(f"the measurement of {self.key!r} has no repeats")
        for value in (*self.seconds, *self.reference_seconds):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"the measurement of {self.key!r} has a repeat of {value} s; times are positive")
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
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: something is missing, is not of the form that `to_dict` writes, or is no possible time.
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
            )
        except (KeyError, TypeError) as error:
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
