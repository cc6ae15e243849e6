"""Measuring what plans name: each architecture once per device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from experiments.measuring.devices import create_profiler
from experiments.measuring.remote import StoredProfiler
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.measurement import Measurement
from hardware.profiling import Profiler, Workload
from hardware.store import Store
from supernet.architecture import Architecture

__all__ = [
    "Network", "Outcome", "architectures", "measure_architectures", "measure_missing", "measure_models",
    "measured_architectures", "profilers",
]  # fmt: skip

Network = tuple[str, int]  # key and resolution


@dataclass(frozen=True)
class Outcome:
    """What became of networks that were to be measured on one device."""

    measured: int
    failed: int
    left: int  # not begun before the deadline
    seconds: float


def profilers(run: RunFolder, device: str | None = None) -> list[Profiler]:
    """One profiler for every device of the recipe, in its order; or that of one device, which may be an added one.

    Raises:
        ValueError: there is no device of that name.
    """
    chosen = [settings for settings in run.recipe.devices if device in (None, settings.name)]
    if not chosen and device is not None:
        return [StoredProfiler(run, device)]
    return [create_profiler(settings, run.recipe.measure, run.recipe.seed) for settings in chosen]


def measure_architectures(
    run: RunFolder, archs: Sequence[Architecture], report: Reporter, device: str | None = None
) -> int:
    """Measure those sub-networks, on every device or on one, that were not; returns how many measurements were made.

    Latency does not depend on the weights, so the supernet need not be trained. What does not run on a device is
    written down as its failure and is not tried again.
    """
    with run.store() as store:
        return sum(
            measure_missing(store, profiler, *architectures(run, archs), report).measured
            for profiler in profilers(run, device)
        )


def measure_models(run: RunFolder, models: dict[str, nn.Module], report: Reporter) -> None:
    """Measure ordinary networks at the largest resolution, on every device where they were not."""
    resolution, channels = run.data.resolution, run.data.in_channels

    def workload(network: Network) -> Workload:
        return Workload(network[0], models[network[0]], resolution, channels)

    with run.store() as store:
        for profiler in profilers(run):
            measure_missing(store, profiler, [(key, resolution) for key in models], workload, report)


def measured_architectures(
    store: Store, archs: Iterable[Architecture], device: Device
) -> dict[Architecture, Measurement]:
    """The measurements of those of `archs` that were measured; others do not run on the device."""
    measured = store.measured(device)
    return {
        arch: store.measurement(arch.id, arch.resolution, device)
        for arch in archs
        if (arch.id, arch.resolution) in measured
    }


def architectures(run: RunFolder, archs: Sequence[Architecture]) -> tuple[list[Network], Callable[[Network], Workload]]:
    """Sub-networks as `measure_missing` takes them."""
    supernet, channels = run.untrained_supernet, run.data.in_channels
    named = {(arch.id, arch.resolution): arch for arch in archs}

    def workload(network: Network) -> Workload:
        return Workload(network[0], supernet.extract(named[network]).eval(), network[1], channels)

    return list(named), workload


def measure_missing(
    store: Store,
    profiler: Profiler,
    networks: Sequence[Network],
    make: Callable[[Network], Workload],
    report: Reporter,
    deadline: float | None = None,
) -> Outcome:
    """Measure those networks that were neither measured on this device nor failed there, in their order.

    A network is made only when its turn comes. At the deadline, a time of `time.monotonic`, which no change of the
    clock moves, no new one is begun; what has begun is finished, and one always begins. What does not run is written
    down with the reason.

    Raises:
        OSError: the device has gone, or the store cannot be written; what was measured before is stored.
    """
    device = profiler.device
    known = store.measured(device) | {(failure.key, failure.resolution) for failure in store.failures(device)}
    waiting = [network for network in networks if network not in known]
    started, measured, begun = time.monotonic(), 0, 0
    doubtful: list[Measurement] = []
    failures: list[str] = []

    def workloads() -> Iterator[Workload]:
        nonlocal begun
        for network in waiting:
            begun += 1
            yield make(network)
            if deadline is not None and time.monotonic() >= deadline:
                return

    def failed(workload: Workload, reason: str) -> None:
        store.add_failure(workload.key, workload.resolution, device, reason)
        failures.append(f"{workload.key}: {reason}")

    if waiting:
        store.add_planned(waiting, device)
        with report.bar(f"measuring on {device.name}", len(waiting)) as advance:
            shown = 0.0  # what is side by side counts in part, before the first of it is handed out

            def show(done: float, note: str) -> None:
                nonlocal shown
                advance(shown := max(shown, done), note)

            def on_turn(share: float) -> None:
                done = measured + len(failures)
                show(done + share * (begun - done), f"{begun - done} side by side")

            for measurement in profiler.measure(workloads(), failed, on_turn):
                measured += 1
                store.add_measurement(measurement)
                show(measured + len(failures), f"{measurement.median * 1e3:.3f} ms")
                if measurement.warnings:
                    doubtful.append(measurement)
        report.say(f"  {device.name}: {measured} measured" + (f", {len(doubtful)} with a warning" if doubtful else ""))
    if doubtful:
        report.say(f"    the first: {doubtful[0].key}: {doubtful[0].warnings[0]}")
    if failures:
        report.say(f"    {len(failures)} do not run there, the first: {failures[0]}")
    return Outcome(measured, len(failures), len(waiting) - begun, time.monotonic() - started)
