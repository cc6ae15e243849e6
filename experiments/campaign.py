"""Campaigns: measure until so many are done or the time is up, never the same thing twice, and carry on later."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from experiments.measuring import profilers
from experiments.progress import Reporter
from experiments.run_folder import Plan, RunFolder
from hardware.profiling import Profiler, Workload
from hardware.store import Store
from supernet.design import covering_design

__all__ = ["Network", "Outcome", "campaign_plan", "chosen_profilers", "measure_missing", "run_campaign"]

_STEP = 64  # architectures by which a plan without an end grows

Network = tuple[str, int]  # key and resolution


@dataclass(frozen=True)
class Outcome:
    """What became of the networks of a campaign on one device."""

    measured: int
    failed: int
    left: int  # time was up before these
    seconds: float


def run_campaign(
    run: RunFolder, report: Reporter, *, device: str | None = None, n: int | None = None, minutes: float | None = None
) -> None:
    """Measure the first `n` architectures of the run's design, or for so many minutes, on every device or on one.

    The design covers every choice at every position and spreads over the multiply-accumulates; see `covering_design`.
    With both limits, whichever comes first ends it. Latency does not depend on the weights: nothing need be trained.

    Raises:
        ValueError: no such device.
    """
    for profiler in chosen_profilers(run, device):
        name, deadline = profiler.device.name, None if minutes is None else time.monotonic() + 60 * minutes
        wanted = _STEP if n is None else n
        measured = failed = 0
        seconds = 0.0
        while True:
            plan = campaign_plan(run, wanted)
            with run.store() as store:
                done = _measure_plan(run, plan, wanted, store, profiler, deadline, report)
            measured, failed, seconds = measured + done.measured, failed + done.failed, seconds + done.seconds
            if n is not None or done.left or len(plan.archs) < wanted:
                break
            wanted += _STEP
        left = f", {done.left} of {wanted if n is not None else len(plan.archs)} left" if done.left else ""
        report.say(f"  {name}: {measured} measured in {seconds / 60:.1f} min, {failed} failed{left}")
        if done.left:
            limit = f"--n {n}" if n is not None else f"--minutes {minutes:g}"
            report.say(f"    go on with `supernet profile {run.path} --device {name} {limit}`")


def campaign_plan(run: RunFolder, n: int) -> Plan:
    """The plan ``campaign``, at least `n` architectures long where the space has as many; it only ever grows."""
    found = run.plan("campaign")
    if found is not None and len(found.archs) >= n:
        return found
    supernet = run.untrained_supernet
    archs = supernet.space.decode(covering_design(supernet.space, n, supernet.macs, run.recipe.seed))
    if found is not None and len(archs) <= len(found.archs):  # the space has no more
        return found
    return run.write_plan("campaign", archs, [{"origin": "campaign"}] * len(archs))


def chosen_profilers(run: RunFolder, device: str | None) -> list[Profiler]:
    """The profilers of the run, or the one of that name.

    Raises:
        ValueError: there is no such device; the message names those there are.
    """
    found = profilers(run)
    chosen = [profiler for profiler in found if device in (None, profiler.device.name)]
    if not chosen:
        names = ", ".join(profiler.device.name for profiler in found)
        raise ValueError(f"no device {device!r} in {run.path}; there are {names}")
    return chosen


def _measure_plan(
    run: RunFolder,
    plan: Plan,
    n: int,
    store: Store,
    profiler: Profiler,
    deadline: float | None,
    report: Reporter,
) -> Outcome:
    supernet, channels = run.untrained_supernet, run.data.in_channels
    archs = {(arch.id, arch.resolution): arch for arch in plan.archs[:n]}

    def workload(network: Network) -> Workload:
        arch = archs[network]
        return Workload(arch.id, supernet.extract(arch).eval(), arch.resolution, channels)

    return measure_missing(store, profiler, list(archs), workload, deadline, report)


def measure_missing(
    store: Store,
    profiler: Profiler,
    networks: Sequence[Network],
    make: Callable[[Network], Workload],
    deadline: float | None,
    report: Reporter,
) -> Outcome:
    """Measure those networks that were neither measured on this device nor failed there, in their order.

    What does not run is written down with the reason. A network is made only when its turn comes. At the deadline (of
    `time.monotonic`, which no clock change moves) no new one is begun; what has begun is finished.

    Raises:
        ValueError: the device does not run anything.
        OSError: the store cannot be written.
    """
    device = profiler.device
    store.add_planned(networks, device)
    known = store.measured(device) | {(failure.key, failure.resolution) for failure in store.failures(device)}
    waiting = [network for network in networks if network not in known][::-1]
    begun: dict[Network, Workload] = {}
    started, total, failed = time.monotonic(), len(waiting), 0

    def workloads() -> Iterator[Workload]:
        while waiting and (deadline is None or time.monotonic() < deadline):
            network = waiting.pop()
            begun[network] = make(network)
            yield begun[network]

    def measure(some: Iterator[Workload]) -> None:
        for measurement in profiler.measure(some):
            store.add_measurement(measurement)
            begun.pop((measurement.key, measurement.resolution), None)
            advance(total - len(waiting) - len(begun), f"{measurement.median * 1e3:.3f} ms")

    with report.bar(f"measuring on {device.name}", total) as advance:
        while True:
            try:
                measure(workloads())
                break
            except ValueError:
                if not begun:
                    raise
                # One of a group does not run. Which one shows when each is alone; the device itself must still work.
                for network, workload in list(begun.items()):
                    try:
                        measure(iter([workload]))
                    except ValueError as reason:
                        list(profiler.measure([]))  # raises if the reference network does not run either
                        store.add_failure(*network, device, str(reason))
                        failed += 1
                    begun.pop(network, None)
    return Outcome(total - len(waiting) - failed, failed, len(waiting), time.monotonic() - started)
