"""What is known of sub-networks: every quantity, from what is stored, measured or counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.data.image_data import EvaluationSplit
from experiments.measuring.measure import profilers
from experiments.measuring.quantized import int8_scores
from experiments.progress import Reporter
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.device import Device
from hardware.loop.measurement import Measurement, Measurements
from supernet.architecture import Architecture

__all__ = ["Column", "Known"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Column:
    """One quantity of several architectures (n_archs,); NaN where it is not known."""

    values: Values
    deviations: Values  # standard deviations: of the logarithm for latencies, else of the value; 0 where it is exact


class Known:
    """Everything that is known of sub-networks of a run; what can be scored is scored when it is asked for.

    Measurements are read once, when a device is first asked for: make a new one after measuring.
    """

    def __init__(self, run: RunFolder, scorer: Scorer, report: Reporter) -> None:
        self.run, self.scorer, self.report = run, scorer, report
        self._measurements: dict[str, Measurements] = {}

    def measurements(self, device: str) -> Measurements:
        """All of a device, on one level."""
        if device not in self._measurements:
            with self.run.store() as store:
                self._measurements[device] = store.measurements(self.device(device))
        return self._measurements[device]

    def device(self, name: str) -> Device:
        """The device of that name; ValueError where there is none."""
        return profilers(self.run, name)[0].device

    def measurement(self, device: str, arch: Architecture) -> Measurement | None:
        """What was measured of an architecture there."""
        return self.measurements(device).get((arch.id, arch.resolution))

    def column(self, quantity: Quantity, archs: Sequence[Architecture]) -> Column:
        """The values of a quantity.

        Raises:
            ValueError: no such device, or weights that are not there.
        """
        kind = quantity.kind
        exact = np.zeros(len(archs))
        if kind.count is not None:
            supernet = self.run.untrained_supernet
            return Column(np.asarray(kind.count(supernet, supernet.space.encode(archs)), dtype=float), exact)
        if kind.source == "score":
            return Column(self.scores(quantity, archs, "validation"), exact)
        found = [self._measured(quantity.device, arch, kind.extra) for arch in archs]
        if kind.quantile is not None:
            slow = _tails(found, kind.quantile)
            return _stability(found, slow) if kind.of_median else slow
        if kind.is_time:
            values = [np.nan if one is None else one.latency for one in found]
            return Column(np.array(values), np.array([0.0 if one is None else one.deviation for one in found]))
        return Column(np.array([np.nan if one is None else one.extras[kind.extra] for one in found]), exact)

    def _measured(self, device: str | None, arch: Architecture, extra: str) -> Measurement | None:
        """On the device, or, without one, on the first of the recipe that knows what is asked for."""
        names = [one.name for one in self.run.recipe.devices] if device is None else [device]
        for name in names:
            found = self.measurement(name, arch)
            if found is not None and (not extra or extra in found.extras):
                return found
        return None

    def scores(self, quantity: Quantity, archs: Sequence[Architecture], split: EvaluationSplit) -> Values:
        """(n_archs,) accuracy, or metric of the task, on a split; of the file itself, where the quantity is of a device
        that runs int8.
        """
        if (batch_size := self.int8_batch_size(quantity)) is not None:
            found = int8_scores(self.run, self.scorer, archs, batch_size, self.report, split)
            return np.array([found[arch.id] for arch in archs])
        scores = self.scorer.score(archs, split, self.report)
        return np.array([scores[arch.id].metrics[quantity.kind.name] for arch in archs])

    def int8_batch_size(self, quantity: Quantity) -> int | None:
        """That of the device whose int8 files a quantity is of; None where the network is as it was trained."""
        settings = {one.name: one for one in self.run.recipe.devices}.get(quantity.device or "")
        return settings.batch_size if settings is not None and settings.precision == "int8" else None


def _tails(measurements: Sequence[Measurement | None], quantile: float) -> Column:
    """A quantile of the calls of each; how unsure it is follows from how many of them lie near it (Wilks 1962)."""
    values, deviations = np.full(len(measurements), np.nan), np.zeros(len(measurements))
    for i, one in enumerate(measurements):
        if one is None:
            continue
        reach = np.sqrt(quantile * (1 - quantile) / len(one.repeats))
        low, found, high = np.quantile(one.repeats, np.clip([quantile - reach, quantile, quantile + reach], 0, 1))
        values[i], deviations[i] = found, np.hypot(one.deviation, 0.5 * np.log(high / low))
    return Column(values, deviations)


def _stability(measurements: Sequence[Measurement | None], slow: Column) -> Column:
    """The median call of each as a share of its slow one, from 0 to 1; the median is sure beside that."""
    medians = np.array([np.nan if one is None else float(np.median(one.repeats)) for one in measurements])
    values = medians / slow.values
    own = np.array([0.0 if one is None else one.deviation for one in measurements])
    return Column(values, values * np.sqrt(np.maximum(slow.deviations**2 - own**2, 0.0)))  # the level is of both
