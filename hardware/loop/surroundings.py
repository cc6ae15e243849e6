"""What takes a machine's usual speed away for a while: throttling, quotas, other guests. Waited for, not measured."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hardware.device import Device
from hardware.loop.cpu import control_groups

__all__ = ["Surroundings"]

_STEAL = 0.1  # share of the time that the machine's host gave to others
_QUOTA = 0.05  # share of the time that a container stood still for its quota
_CLOCK = 0.6  # of the frequency that the CPU keeps up, or of its highest
_STOPPED = {"throttled_usec": 1e-6, "throttled_time": 1e-9}  # seconds of a unit, in control groups of version 2 and 1
_SYSTEM = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc")


class Surroundings:
    """Asked now and then while a session is measured, tells what was wrong since it was last asked.

    What slows everything for a moment alike (a neighbour, a busy loop) is no matter: the analysis of a session takes it
    out. This is about what makes a device another one for as long as it lasts.

    Args:
        device: on this machine.
        state: clocks and the like of a GPU; ``throttled`` above 0 means that it is slowed.
        root: of the file system.
    """

    def __init__(
        self, device: Device, state: Callable[[], Mapping[str, float]] | None = None, root: Path = Path("/")
    ) -> None:
        self._cpu = state is None
        self._threads = device.threads
        self._state = state or dict
        self._system, self._cgroups = root / _SYSTEM.relative_to("/"), root / _CGROUPS.relative_to("/")
        self._process = root / _PROCESS.relative_to("/")
        self._before = self._read()

    def disturbances(self) -> list[str]:
        """Why what was measured since the last question is not what the device usually does; mostly nothing."""
        if not self._cpu:
            throttled = self._state().get("throttled", 0) > 0
            return ["the GPU throttled itself (heat or power)"] if throttled else []
        before, self._before = self._before, self._read()
        seconds = max(self._before["time"] - before["time"], 1e-3)
        grown = {name: value - before.get(name, value) for name, value in self._before.items()}
        found = []
        if grown["stopped"] / seconds > _QUOTA:
            found.append(
                f"the CPU quota of this container stopped it for {min(1.0, grown['stopped'] / seconds):.0%} of the time"
            )
        if grown["steal"] > _STEAL * max(grown["ticks"], 1.0) and grown["ticks"] >= 20:
            found.append(f"the host of this machine gave {grown['steal'] / grown['ticks']:.0%} of its time to others")
        if grown["hot"] > 0:
            found.append("the CPU throttled itself (heat)")
        if self._before["cores"] < self._threads:
            n = int(self._before["cores"])
            found.append(f"{self._threads} threads have {n} core{'s' * (n != 1)} only")
        if self._before["clock"] < _CLOCK:
            found.append(f"the CPU is clocked down to {self._before['clock']:.0%} of its frequency")
        return found

    def _read(self) -> dict[str, float]:
        if not self._cpu:
            return {}
        ticks, steal = self._ticks()
        return {
            "time": time.monotonic(),
            "stopped": self._stopped(),
            "ticks": ticks,
            "steal": steal,
            "hot": float(sum(_number(path) for path in self._system.glob("cpu*/thermal_throttle/core_throttle_count"))),
            "cores": float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float("inf"),
            "clock": self._clock(),
        }

    def _ticks(self) -> tuple[float, float]:
        """All clock ticks of this machine so far, and those that its host gave to others."""
        try:
            values = list(map(float, (self._process / "stat").read_text().splitlines()[0].split()[1:9]))
            busy = sum(values) - values[3] - values[4]  # idle time is nobody's
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0
        return busy, values[7] if len(values) > 7 else 0.0

    def _stopped(self) -> float:
        """Seconds for which this process's control group, or one that it is in, stood still for its quota so far."""
        seconds = 0.0
        for where in control_groups(self._process, self._cgroups):
            for line in _lines(where / "cpu.stat"):
                name, _, value = line.partition(" ")
                if name in _STOPPED and value.isdigit():
                    seconds += int(value) * _STOPPED[name]
        return seconds

    def _clock(self) -> float:
        """The frequency of the core that this runs on as a share of what it should have; 1 where nothing tells."""
        folder = self._system / f"cpu{_core()}" / "cpufreq"
        now = _number(folder / "scaling_cur_freq")
        # The highest frequency is for moments and for one core; a laptop at work has half of it, and nothing is wrong.
        usual = _number(folder / "base_frequency") or _number(folder / "cpuinfo_max_freq")
        return now / usual if now and usual else 1.0


def _core() -> int:
    try:
        return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36])
    except (OSError, ValueError, IndexError):
        return 0


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):
        return 0.0
