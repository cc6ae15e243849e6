"""What is measured and how well, whatever the runtime; the loop that does it is in `interleaving`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from hardware.device import Device
from hardware.measurement import Measurement

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Cost", "DeviceGoneError", "OnFailure", "OnTurn", "Prepared", "Profiler", "Runner", "Sampling", "Workload"]

# What a device can be asked for beside the latency; each becomes an extra of the measurement.
Cost = Literal["memory", "energy"]

# Runs a prepared network so many times in a row and returns the seconds that this took.
Runner = Callable[[int], float]


class DeviceGoneError(OSError):
    """A device stopped working in the middle of a campaign; what was handed out before is good."""


@dataclass(frozen=True)
class Workload:
    """What is measured: a torch module or an ONNX file (its bytes or path) on square images.

    `key` names it in the measurement: the id of an architecture or the name of a model.
    """

    key: str
    model: nn.Module | bytes | Path
    resolution: int  # pixels
    channels: int = 3


# Told of a workload that does not run on the device, with the reason in one line.
OnFailure = Callable[[Workload, str], None]
# Told now and then which share, about, is done of what is being measured side by side.
OnTurn = Callable[[float], None]


@dataclass(frozen=True)
class Prepared:
    """A network ready to run on a device, and what is known of it without running it."""

    run: Runner
    extras: Mapping[str, float] = field(default_factory=dict)  # by name with its unit, such as file_bytes


class Profiler(Protocol):
    """Measures networks on one device. Third parties bring a device on board by writing one of these."""

    @property
    def device(self) -> Device:
        """What the measurements hold for."""
        ...

    def measure(
        self, workloads: Iterable[Workload], failed: OnFailure | None = None, on_turn: OnTurn | None = None
    ) -> Iterator[Measurement]:
        """One measurement for each workload and in no particular order, each handed out as soon as it is final.

        The workloads are read a few at a time, so a generator may build them while it is asked for them. One that does
        not run on the device is given to `failed`, and the others are measured.

        Raises:
            ValueError: a workload does not run on the device, and `failed` was not given.
            DeviceGoneError: nothing runs there any more.
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
    max_repeats: int = 400  # undisturbed ones; of all together no more than twice as many
    max_seconds: float = 10.0  # timed seconds for each workload
    min_repeat_seconds: float = 2e-4  # shorter calls are timed several at a time: clocks and loops cost some 100 ns
    settling_seconds: float = 1e-3  # untimed calls at the start of a turn: the caches hold what the others used
    group_size: int = 64  # workloads measured side by side at most; what a kill can lose
    group_seconds: float = 20.0  # fewer where they would take longer: about, and at least
    drift: float = 0.05  # the reference network may be off its level by this share before a stretch counts as disturbed
    seed: int = 0  # of the order in which the networks take turns

    def __post_init__(self) -> None:
        if not 6 <= self.min_repeats <= self.max_repeats:
            raise ValueError(
                f"min_repeats {self.min_repeats} and max_repeats {self.max_repeats} must ascend and be at least 6, "
                "else the median has no 95 % interval"
            )
        times = self.max_seconds, self.min_repeat_seconds, self.settling_seconds, self.group_seconds
        if min(self.relative_half_width, self.drift, *times) <= 0:
            raise ValueError(f"limits of sampling must be positive; got {self}")
        if self.group_size < 1:
            raise ValueError(f"group_size {self.group_size} must be at least 1")
