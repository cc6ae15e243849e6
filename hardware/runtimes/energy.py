"""Energy of one call, where the machine can tell: NVML on a GPU, RAPL on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Literal

from hardware.profiling import Runner
from hardware.runtimes.gpu import gpu_energy_meter

__all__ = ["EnergyMeter", "cpu_energy_meter", "energy_meter", "joules_per_call"]

EnergyMeter = Callable[[], float]  # joules used so far, since some moment

_POWERCAP = Path("/sys/class/powercap")


def energy_meter(where: Literal["cpu", "cuda"]) -> EnergyMeter:
    """The meter of this machine's CPU or of the current GPU.

    Raises:
        ValueError: it has none that can be read.
    """
    meter = cpu_energy_meter() if where == "cpu" else gpu_energy_meter()
    if meter is None:
        reason = f"no counter under {_POWERCAP} can be read" if where == "cpu" else "NVML does not tell it"
        raise ValueError(f"this machine cannot tell the energy of its {where}: {reason}; take energy out of the costs")
    return meter


def cpu_energy_meter(root: Path = _POWERCAP) -> EnergyMeter | None:
    """Reads the joules that all CPU packages of this machine have used; None where it does not tell.

    Linux shows the counters of Intel and AMD (running average power limit, RAPL) as files, which on most machines only
    root may read. They count microjoules and begin again at 0 when they are full.
    """
    packages = [p for p in sorted(root.glob("intel-rapl:*")) if p.name.count(":") == 1]
    if not packages:
        return None
    total = dict.fromkeys(packages, 0)
    try:
        full = {package: int((package / "max_energy_range_uj").read_text()) for package in packages}
        last = {package: int((package / "energy_uj").read_text()) for package in packages}
    except (OSError, ValueError):
        return None

    def joules() -> float:
        for package in packages:
            now = int((package / "energy_uj").read_text())
            total[package] += now - last[package] if now >= last[package] else now + full[package] - last[package]
            last[package] = now
        return sum(total.values()) * 1e-6

    return joules


def joules_per_call(run: Runner, meter: EnergyMeter, seconds: float = 1.0) -> float:
    """The energy of one call, from as many as fit into `seconds`; counters change only some times in a second.

    It is all that the chip used in that time, what other programs did included.

    Raises:
        OSError: the meter stood still or cannot be read any more.
    """
    calls, start, before = 0, perf_counter(), meter()
    while perf_counter() - start < seconds:
        run(8)
        calls += 8
    used = meter() - before
    if used <= 0:
        raise OSError(f"the energy meter of this machine stood still over {calls} calls")
    return used / calls
