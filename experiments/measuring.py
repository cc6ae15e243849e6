"""Measuring and scoring what plans name: each architecture once per device and once per split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from experiments.devices import create_profiler
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.measurement import Measurement
from hardware.profiling import Profiler, Workload
from hardware.store import Score, Store
from supernet.architecture import Architecture
from supernet.calibration import evaluate, recalibrate

__all__ = ["Scorer", "measure_architectures", "measure_models", "profilers"]


def profilers(run: RunFolder, device: str | None = None) -> list[Profiler]:
    """One profiler for every device of the recipe, in its order; or that of one device, which may be an added one.

    Raises:
        ValueError: there is no device of that name.
    """
    chosen = [settings for settings in run.recipe.devices if device in (None, settings.name)]
    if not chosen and device is not None:
        from experiments.remote import StoredProfiler

        return [StoredProfiler(run, device)]
    return [create_profiler(settings, run.recipe.measure, run.recipe.seed) for settings in chosen]


def measure_architectures(
    run: RunFolder, archs: Sequence[Architecture], report: Reporter, device: str | None = None
) -> int:
    """Measure those sub-networks, on every device or on one, that were not; returns how many measurements were made.

    Latency does not depend on the weights, so the supernet need not be trained.
    """
    supernet, channels = run.untrained_supernet, run.data.in_channels

    def workload(arch: Architecture) -> Workload:
        return Workload(arch.id, supernet.extract(arch).eval(), arch.resolution, channels)

    made = 0
    with run.store() as store:
        for profiler in profilers(run, device):
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


class Scorer:
    """Accuracy of sub-networks of the trained supernet, each recalibrated, with its weights as they are."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @cached_property
    def digest(self) -> str:
        """Names the weights, the data and the calibration: equal digests, equal scores."""
        settings = self.run.recipe.score
        text = f"{self.run.weights_digest} {self.run.data.digest} {settings.calibration_images} {settings.batch_size}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def subnet(self, arch: Architecture) -> nn.Module:
        """The sub-network with its own BatchNorm statistics, in eval mode."""
        return recalibrate(self.run.supernet.extract(arch), self._calibration, arch.resolution).eval()

    def score(
        self, archs: Sequence[Architecture], split: Literal["validation", "test"], report: Reporter
    ) -> dict[str, Score]:
        """Scores by id of all `archs`; those that are not in the store are made and added."""
        with self.run.store() as store:
            missing = [arch for arch in archs if not store.has_score(arch.id, self.digest, split)]
            if missing:
                images = list(self.run.data.evaluation_batches(split, self.run.recipe.score.batch_size))
                with report.bar(f"scoring on {split}", len(missing)) as advance:
                    for done, arch in enumerate(missing, start=1):
                        found = evaluate(self.subnet(arch), images, arch.resolution)
                        metrics = {"accuracy": found.accuracy, "loss": found.loss, "n_images": found.n_images}
                        store.add_score(Score(arch.id, self.digest, split, metrics))
                        advance(done, f"{found.accuracy:.1%}")
                report.say(f"  {len(missing)} sub-networks scored on {split}")
            return {arch.id: store.score(arch.id, self.digest, split) for arch in archs}

    @cached_property
    def _calibration(self) -> list[Tensor]:
        settings = self.run.recipe.score
        return list(self.run.data.calibration_batches(settings.calibration_images, settings.batch_size))
