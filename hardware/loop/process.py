"""The process that measures: on the quietest core and before other programs."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["quietest_cores", "undisturbed"]

_STAT = Path("/proc/stat")


@contextmanager
def undisturbed(cores: Collection[int], realtime: bool = False) -> Iterator[None]:
    """Inside, the calling thread stays on `cores` and nothing is garbage collected; afterwards all is as it was.

    With `realtime` no ordinary program gets its core in the meantime, where the system allows it (on Linux to root and
    whoever may set CAP_SYS_NICE). On a machine with other work that decides: with load 8 on two cores a network of 8 ms
    took 17 ms without it and 8.3 ms with it. Only for networks on one thread, since threads that wait for each other
    must share cores as equals.

    No cores, or a platform on which a thread cannot be kept on cores (macOS, Windows): it runs where and as it likes,
    so no machine is left without a core for others.
    """
    collecting = gc.isenabled()
    before = os.sched_getaffinity(0) if cores and hasattr(os, "sched_setaffinity") else None
    policy = None
    gc.disable()
    try:
        if before is not None:
            os.sched_setaffinity(0, cores)
            policy = _become_realtime() if realtime else None
        yield
    finally:
        if collecting:
            gc.enable()
        try:
            if policy is not None:
                os.sched_setscheduler(0, *policy)
        finally:
            if before is not None:
                os.sched_setaffinity(0, before)


def _become_realtime() -> tuple[int, os.sched_param] | None:
    """The scheduling that the calling thread had; None where it may not be changed."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        # Threads and processes that it starts do not inherit it.
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except OSError:  # not permitted, or not known in a sandbox
        return None
    return before


def quietest_cores(n: int, seconds: float = 0.1, stat: Path = _STAT) -> tuple[int, ...]:
    """The `n` cores that other programs used least during the next `seconds`, in which the caller sleeps.

    A tick more or less is chance. Of equally quiet cores the first are taken, so that sessions use the same ones: two
    cores of one machine were seen to differ by 3 %.

    No core where there is nothing to choose: the process may use no more than `n`, or the platform does not say how
    busy they are.
    """
    if not hasattr(os, "sched_getaffinity") or not stat.exists():
        return ()
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) <= n:
        return ()
    before = _busy_ticks(stat)
    time.sleep(seconds)
    after = _busy_ticks(stat)
    return tuple(sorted(allowed, key=lambda core: (after.get(core, 0) - before.get(core, 0)) // 2)[:n])


def _busy_ticks(stat: Path) -> dict[int, int]:
    """Per core, the clock ticks in which it was neither idle nor waiting for a disk; steal is part of them."""
    ticks = {}
    for line in stat.read_text().splitlines():
        name, *values = line.split()
        if name.startswith("cpu") and name[3:].isdigit():
            counts = list(map(int, values[:8]))  # user, nice, system, idle, iowait, irq, softirq, steal
            ticks[int(name[3:])] = sum(counts) - counts[3] - counts[4]
    return ticks
