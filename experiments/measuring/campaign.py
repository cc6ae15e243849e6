"""Campaigns: measure until so many are done or the time is up, never the same thing twice, and carry on later."""

from __future__ import annotations

import time
from collections.abc import Sequence

from experiments.measuring.measure import architectures, measure_missing, profilers
from experiments.plans import campaign_plan
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.device_changes import explain_earlier
from hardware.store import Store
from supernet.architecture import Architecture

__all__ = ["latencies", "run_campaign"]

_STEP = 64  # architectures by which a plan without an end grows


def run_campaign(
    run: RunFolder, report: Reporter, *, device: str | None = None, n: int | None = None, minutes: float | None = None
) -> None:
    """Measure the first `n` architectures of the run's design, or for so many minutes, on every device or on one.

    The design covers every choice at every position and spreads over the multiply-accumulates; see `covering_design`.
    With both limits, whichever comes first ends it. Latency does not depend on the weights: nothing need be trained.

    Raises:
        ValueError: no such device.
    """
    for profiler in profilers(run, device):
        name, deadline = profiler.device.name, None if minutes is None else time.monotonic() + 60 * minutes
        wanted = _STEP if n is None else n
        measured = failed = 0
        seconds = 0.0
        while True:
            plan = campaign_plan(run, wanted)
            with run.store() as store:
                networks, make = architectures(run, plan.archs[:wanted])
                done = measure_missing(store, profiler, networks, make, report, deadline)
            measured, failed, seconds = measured + done.measured, failed + done.failed, seconds + done.seconds
            late = deadline is not None and time.monotonic() >= deadline
            if n is not None or done.left or late or len(plan.archs) < wanted:
                break
            wanted += _STEP
        left = f", {done.left} of {wanted if n is not None else len(plan.archs)} left" if done.left else ""
        report.say(f"  {name}: {measured} measured in {seconds / 60:.1f} min, {failed} failed{left}")
        if done.left:
            limit = f"--n {n}" if n is not None else f"--minutes {minutes:g}"
            report.say(f"    go on with `supernet profile {run.path} --device {name} {limit}`")


def latencies(
    run: RunFolder, store: Store, device: Device, archs: Sequence[Architecture], report: Reporter
) -> tuple[list[Architecture], list[float]]:
    """Those of `archs` and of the run's campaign that were measured on the device, and their medians in seconds.

    Raises:
        ValueError: none of `archs` was; the message says what was measured before something changed.
    """
    measured = {(m.key, m.resolution): m.median for m in store.measurements(device)}
    n = sum((arch.id, arch.resolution) in measured for arch in archs)
    if n == 0:
        reasons = [f"nothing planned is measured on {device}", *explain_earlier(store, device)]
        raise ValueError("\n".join([*reasons, f"measure it with `supernet profile {run.path} --device {device.name}`"]))
    if n < len(archs):
        report.say(f"  {device.name}: measured {n} of {len(archs)} planned sub-networks so far")
    plan = run.plan("campaign")
    known = dict.fromkeys([*archs, *(plan.archs if plan else ())])
    found = [arch for arch in known if (arch.id, arch.resolution) in measured]
    return found, [measured[arch.id, arch.resolution] for arch in found]
