"""What lies in a store, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
from rich.console import Console

from experiments.budgets import format_count, format_seconds
from hardware.device import Device
from hardware.device_changes import differences
from hardware.store import Record, Store

__all__ = ["print_devices", "print_network"]

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 40


def print_devices(store: Store, devices: Sequence[Device]) -> None:
    """What lies there of each device, and what tells those of one name apart."""
    console = Console(highlight=False)
    lines = [line for device in devices for line in _device_lines(store, device)]
    for name in dict.fromkeys(device.name for device in devices):
        for before, after in pairwise(device for device in devices if device.name == name):
            changed = "; ".join(differences(before, after))
            lines.append(f"{name}: {before.fingerprint} and {after.fingerprint} are kept apart: {changed}")
    for line in lines or [f"nothing was measured in {store.path} yet"]:
        console.print(line, soft_wrap=True, markup=False)


def _device_lines(store: Store, device: Device) -> list[str]:
    records, failures = store.records(device), store.failures(device)
    lines = [f"{device.fingerprint} {device}"]
    if records:
        medians = [record.measurement.median for record in records]
        times = [record.added for record in records]
        doubtful = sum(bool(record.measurement.warnings) for record in records)
        lines.append(
            f"  {len(records)} measured, medians {format_seconds(min(medians))} to {format_seconds(max(medians))}, "
            f"{_when(min(times))} to {_when(max(times))}; {doubtful} with a warning"
        )
    if failures:
        first = failures[0]
        lines.append(f"  {len(failures)} failed; the first: {first.key} at {first.resolution} px: {first.reason}")
    done = store.measured(device) | {(failure.key, failure.resolution) for failure in failures}
    if left := [network for network in store.planned(device) if network not in done]:
        lines.append(f"  {len(left)} are planned and not measured yet")
    return lines


def print_network(store: Store, devices: Sequence[Device], key: str) -> None:
    """Every measurement and failure of the network whose key is, or begins with, `key`.

    Raises:
        ValueError: there is none, or several networks begin so.
    """
    records = [r for device in devices for r in store.records(device) if r.measurement.key.startswith(key)]
    failures = [f for device in devices for f in store.failures(device) if f.key.startswith(key)]
    keys = {record.measurement.key for record in records} | {failure.key for failure in failures}
    keys = {key} if key in keys else keys
    if not key or not keys:
        raise ValueError(f"nothing with the id {key!r} is in {store.path}; `supernet measurements list` says what is")
    if len(keys) > 1:
        raise ValueError(f"{key!r} begins the ids of {len(keys)} networks: {', '.join(sorted(keys)[:4])}; give more")
    (key,) = keys
    console = Console(highlight=False)
    for record in records:
        if record.measurement.key == key:
            for line in _record_lines(record):
                console.print(line, soft_wrap=True, markup=False)
    for failure in failures:
        if failure.key == key:
            where = f"{key} at {failure.resolution} px failed on {failure.device}"
            console.print(f"{where}\n  on {_when(failure.added)}: {failure.reason}", soft_wrap=True, markup=False)


def _record_lines(record: Record) -> list[str]:
    measurement, seconds = record.measurement, np.array(record.measurement.seconds)
    low, high = measurement.interval
    p5, p95 = np.quantile(seconds, [0.05, 0.95])
    lines = [
        f"{measurement.key} at {measurement.resolution} px on {measurement.device}",
        f"  {format_seconds(measurement.median)}, 95 % interval {format_seconds(low)} to {format_seconds(high)} "
        f"(±{measurement.relative_half_width:.1%})" if np.isfinite(high) else f"  {format_seconds(measurement.median)}",
        f"  {len(seconds)} repeats of {format_count(measurement.calls_per_repeat)} calls; nine of ten between "
        f"{format_seconds(p5)} and {format_seconds(p95)}",
        f"  {histogram(seconds)}",
    ]  # fmt: skip
    if measurement.reference_seconds:
        lines.append(
            f"  the reference network beside it: {format_seconds(float(np.median(measurement.reference_seconds)))}"
        )
    lines.append(f"  added on {_when(record.added)}" + (f", imported from {record.origin}" if record.origin else ""))
    return [*lines, *(f"  warning: {warning}" for warning in measurement.warnings)]


def histogram(seconds: np.ndarray) -> str:
    """The distribution of repeats in one line; the slowest hundredth shares the last bar."""
    end = max(float(np.quantile(seconds, 0.99)), float(seconds.min()) * 1.0001)
    counts, _ = np.histogram(np.minimum(seconds, end), bins=min(_BINS, len(seconds)), range=(float(seconds.min()), end))
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return f"{format_seconds(float(seconds.min()))} {''.join(_BARS[h] for h in heights)} {format_seconds(end)}"


def _when(added: float) -> str:
    return datetime.fromtimestamp(added).strftime("%Y-%m-%d %H:%M")
