"""Measuring what plans name: each architecture once per device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from experiments.devices import create_profiler
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.measurement import Measurement
from hardware.profiling import Profiler, Workload
from hardware.store import Store
from supernet.architecture import Architecture

__all__ = ["measure_architectures", "measure_models", "profilers"]


def profilers(run: RunFolder) -> list[Profiler]:
    """One profiler for every device of the recipe, in its order."""
    return [create_profiler(device, run.recipe.measure, run.recipe.seed) for device in run.recipe.devices]


def measure_architectures(run: RunFolder, archs: Sequence[Architecture], report: Reporter) -> int:
    """Measure those sub-networks, on every device, that were not; returns how many measurements were made.

    Latency does not depend on the weights, so the supernet need not be trained.
    """
    supernet, channels = run.untrained_supernet, run.data.in_channels

    def workload(arch: Architecture) -> Workload:
        return Workload(arch.id, supernet.extract(arch).eval(), arch.resolution, channels)

    made = 0
    with run.store() as store:
        for profiler in profilers(run):
            missing = [a for a in archs if not store.has_measurement(a.id, a.resolution, profiler.device)]
            made += _measure(store, profiler, map(workload, missing), len(missing), report)
    return made


def measure_models(run: RunFolder, models: dict[str, nn.Module], report: Reporter) -> None:
    """Measure ordinary networks at the largest resolution, on every device where they were not."""
    resolution, channels = run.data.resolution, run.data.in_channels
    with run.store() as store:
        for profiler in profilers(run):
            missing = [key for key in models if not store.has_measurement(key, resolution, profiler.device)]
            workloads = (Workload(key, models[key], resolution, channels) for key in missing)
            _measure(store, profiler, workloads, len(missing), report)


def _measure(store: Store, profiler: Profiler, workloads: Iterable[Workload], n: int, report: Reporter) -> int:
    if n == 0:
        return 0
    doubtful: list[Measurement] = []
    with report.bar(f"measuring on {profiler.device.name}", n) as advance:
        for done, measurement in enumerate(profiler.measure(workloads), start=1):
            store.add_measurement(measurement)
            advance(done, f"{measurement.median * 1e3:.3f} ms")
            if measurement.warnings:
                doubtful.append(measurement)
    report.say(f"  {profiler.device.name}: {n} measured" + (f", {len(doubtful)} with a warning" if doubtful else ""))
    if doubtful:
        report.say(f"    the first: {doubtful[0].key}: {doubtful[0].warnings[0]}")
    return n
