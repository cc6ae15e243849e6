"""What lies in a store, as a person reads it in a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise

import numpy as np
from rich.console import Console

from experiments.budgets import format_count, format_seconds
from hardware.device import Device
from hardware.device_changes import differences
from hardware.loop.measurement import Measurements
from hardware.loop.session import Network
from hardware.store.store import Record, Store

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
    measurements, failures = store.measurements(device), store.failures(device)
    sessions = measurements.sessions
    lines = [f"{device.fingerprint} {device}"]
    if sessions:
        latencies = [measurement.latency for measurement in measurements.values()]
        names = {name for session in sessions for name in session.names}
        when = sorted({_when(session.began) for session in (sessions[0], sessions[-1])})
        moved = max(session.spread[1] / session.spread[0] - 1 for session in sessions)
        lines += [
            f"  {_count(len(names), 'network')} in {_count(len(sessions), 'session')}, {' to '.join(when)}; "
            f"{format_seconds(min(latencies))} to {format_seconds(max(latencies))} on one level",
            f"  within {'the session' if len(sessions) == 1 else 'sessions'} the machine's speed moved by up to "
            f"{moved:.0%}, which is taken out",
        ]
    if failures:
        first = failures[0]
        lines.append(f"  {len(failures)} failed; the first: {first.key} at {first.resolution} px: {first.reason}")
        lines.append("    they are not tried again; `supernet measurements retry` has them tried")
    done = store.measured(device) | {(failure.key, failure.resolution) for failure in failures}
    if left := [network for network in store.planned(device) if network not in done]:
        lines.append(f"  {len(left)} are planned and not measured yet")
    return [*lines, *(f"  note: {note}" for note in measurements.notes)]


def print_network(store: Store, devices: Sequence[Device], key: str) -> None:
    """Every measurement and failure of the network whose key is, or begins with, `key`.

    Raises:
        ValueError: there is none, or several networks begin so.
    """
    records = [record for device in devices for record in store.records(device)]
    failures = [f for device in devices for f in store.failures(device) if f.key.startswith(key)]
    measured = {network.key for record in records for network in record.session.networks}
    keys = {one for one in measured if one.startswith(key)} | {failure.key for failure in failures}
    keys = {key} if key in keys else keys
    if not key or not keys:
        raise ValueError(f"nothing with the id {key!r} is in {store.path}; `supernet measurements list` says what is")
    if len(keys) > 1:
        raise ValueError(f"{key!r} begins the ids of {len(keys)} networks: {', '.join(sorted(keys)[:4])}; give more")
    (key,) = keys
    lines = []
    for device in devices:
        own = [record for record in records if record.session.device == device]
        measurements = Measurements(device, [record.session for record in own])
        names = dict.fromkeys(one.name for record in own for one in record.session.networks if one.key == key)
        for name in names:
            lines += _network_lines(measurements, own, name)
    for failure in failures:
        if failure.key == key:
            lines.append(f"{key} at {failure.resolution} px failed on {failure.device}")
            lines.append(f"  on {_when(failure.added)}: {failure.reason}")
    console = Console(highlight=False)
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def _network_lines(measurements: Measurements, records: Sequence[Record], name: Network) -> list[str]:
    lines, warnings = [f"{name[0]} at {name[1]} px on {measurements.device}"], ()
    if name in measurements:
        measurement = measurements[name]
        (low, high), repeats, warnings = measurement.interval, measurement.repeats, measurement.warnings
        p5, p95 = np.quantile(repeats, [0.05, 0.95])
        half = (high - low) / 2 / measurement.latency
        lines += [
            f"  {format_seconds(measurement.latency)}, 95 % interval {format_seconds(low)} to {format_seconds(high)} "
            f"(±{half:.1%}), on the level of the session of {_when(measurements.at.began)}",
            f"  {_count(len(repeats), 'repeat')} on this level; nine of ten between {format_seconds(p5)} and "
            f"{format_seconds(p95)}",
            f"  {histogram(repeats)}",
        ]
    for record in records:
        lines += [f"  {line}" for line in _session_lines(record, name)]
    return [*lines, *(f"  warning: {warning}" for warning in warnings)]


def _session_lines(record: Record, name: Network) -> Iterator[str]:
    """What one session says by itself."""
    session = record.session
    network = next((network for network in session.networks if network.name == name), None)
    if network is None:
        return
    origin = f", imported from {record.origin}" if record.origin else ""
    where = f"session {session.id} ({session.purpose}) of {_when(session.began)}{origin}"
    if (place := session.places.get(name)) is None:
        yield f"{where}: too few repeats"
        return
    half = session.fit.half_widths()[place]
    yield (
        f"{where}: {format_seconds(float(np.exp(session.fit.levels[place])))} ±{half:.1%} beside "
        f"{_count(len(session.names) - 1, 'other network')}, {len(session.repeats(name))} repeats of "
        f"{_count(network.calls_per_repeat, 'call')}"
    )


def _count(n: int, what: str) -> str:
    return f"{format_count(n)} {what}{'' if n == 1 else 's'}"


def histogram(seconds: np.ndarray) -> str:
    """The distribution of repeats in one line; the slowest hundredth shares the last bar."""
    end = max(float(np.quantile(seconds, 0.99)), float(seconds.min()) * 1.0001)
    counts, _ = np.histogram(np.minimum(seconds, end), bins=min(_BINS, len(seconds)), range=(float(seconds.min()), end))
    heights = np.ceil(counts / counts.max() * (len(_BARS) - 1)).astype(int)
    return f"{format_seconds(float(seconds.min()))} {''.join(_BARS[h] for h in heights)} {format_seconds(end)}"


def _when(added: float) -> str:
    return datetime.fromtimestamp(added).strftime("%Y-%m-%d %H:%M")
