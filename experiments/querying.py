"""Questions to a stored front: needs neither torch nor the supernet, so the answer comes at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.files import read_json
from hardware.device import Device
from hardware.device_changes import changed_here
from search.front import Axis, Candidate, ParetoFront

__all__ = ["answer", "device_results", "what_changed"]

_AXES = {
    "latency": Axis("latency", "s", maximize=False),
    "macs": Axis("macs", "", maximize=False),
    "parameters": Axis("parameters", "", maximize=False),
    "size": Axis("size", "B", maximize=False),
    "memory": Axis("memory", "B", maximize=False),
    "energy": Axis("energy", "J", maximize=False),
}
# Budgets that are extras of a measurement.
_EXTRAS = {"size": "file_bytes", "memory": "peak_memory_bytes", "energy": "energy_joules"}


def device_results(run: Path, device: str | None) -> tuple[str, dict[str, Any]]:
    """Name and results of a device in ``front.json``; without a name, of the only one.

    Raises:
        ValueError: no search was done, or there is no such device; the message names those there are.
    """
    if not run.is_dir():
        raise ValueError(f"{run} is not a folder; give the folder of a run, such as runs/digits")
    if not (run / "front.json").exists():
        raise ValueError(f"{run} has no front.json; search first: `supernet search {run}`")
    devices = read_json(run / "front.json")["devices"]
    if device is None and len(devices) > 1:
        raise ValueError(f"{run} has {len(devices)} devices; name one with --device: {', '.join(devices)}")
    name = device or next(iter(devices))
    if name not in devices:
        raise ValueError(f"no device {name!r} in {run}; there are {', '.join(devices)}")
    return name, devices[name]


def what_changed(run: Path, name: str, results: Mapping[str, Any]) -> list[str]:
    """What is no longer as it was when a device of this machine was measured; a device elsewhere is not looked at."""
    if (run / "devices" / f"{name}.json").exists():
        return []
    return changed_here(Device.from_dict(results["device"]))


def answer(results: Mapping[str, Any], budgets: Mapping[str, float], top: int) -> list[dict[str, Any]]:
    """The `top` most accurate measured sub-networks that hold every budget, best first, as plain data.

    `budgets` are upper limits by name: latency in seconds (compared with what was measured), macs, parameters, size
    and memory in bytes, energy in joules. With a latency budget, ``share_of_runs_within`` is the share of the measured
    runs that took no longer.

    Raises:
        ValueError: nothing holds the budgets; the message says what comes nearest. Or something was not measured.
    """
    candidates = [Candidate.from_dict(candidate) for candidate in results["candidates"]]
    candidates = [
        Candidate(c.arch, {**c.values, **_other_values(c.extras)}, c.extras)
        for c in candidates
        if all(name in _other_values(c.extras) for name in budgets if name != "latency")
    ]
    if not candidates:
        raise ValueError(
            f"not every one of {', '.join(budgets)} was measured on this device; the costs of [[devices]] in a recipe "
            "say what is measured beside the latency"
        )
    axes = (Axis("accuracy", "", maximize=True), *(_AXES[name] for name in budgets))
    try:
        best = ParetoFront(candidates, axes).best("accuracy", **budgets)
    except ValueError:
        raise ValueError(_nothing_fits(candidates, budgets)) from None
    holding = [c for c in candidates if all(c.values[name] <= limit for name, limit in budgets.items())]
    holding.sort(key=lambda c: (c.arch != best.arch, -c.values["accuracy"], c.values["latency"]))
    return [_row(candidate, budgets.get("latency")) for candidate in holding[:top]]


def _other_values(extras: Mapping[str, Any]) -> dict[str, float]:
    """What a candidate can be asked for beside its accuracy and latency, by the names of budgets."""
    costs = extras.get("costs", {})  # runs of older versions have none
    measured = {name: costs[key] for name, key in _EXTRAS.items() if key in costs}
    return {"macs": extras["macs"], "parameters": extras["parameters"], **measured}


def _nothing_fits(candidates: list[Candidate], budgets: Mapping[str, float]) -> str:
    from experiments.budgets import format_bytes, format_count, format_joules, format_seconds

    formats = {"latency": format_seconds, "size": format_bytes, "memory": format_bytes, "energy": format_joules}

    def text(name: str, value: float) -> str:
        return formats.get(name, format_count)(value)

    wanted = " and ".join(f"{name} ≤ {text(name, limit)}" for name, limit in budgets.items())
    least = {name: min(candidates, key=lambda c: c.values[name]) for name in budgets}
    which = {"latency": "fastest", "macs": "lightest", "energy": "most economical"}
    needs = "; ".join(
        f"the {which.get(name, 'smallest')} sub-network needs {text(name, c.values[name])} ({c.arch.id})"
        for name, c in least.items()
    )
    return f"no measured sub-network has {wanted}: {needs}"


def _row(candidate: Candidate, budget: float | None) -> dict[str, Any]:
    extras = candidate.extras
    row = {
        "id": candidate.arch.id,
        "settings": str(candidate.arch),
        "architecture": candidate.arch.to_dict(),
        "accuracy": candidate.values["accuracy"],
        "predicted_accuracy": extras["predicted_accuracy"],
        "latency": candidate.values["latency"],
        "latency_interval": extras["latency_interval"],
        "predicted_latency": extras["predicted_latency"],
        "macs": extras["macs"],
        "parameters": extras["parameters"],
        "costs": extras.get("costs", {}),
        "warnings": extras["warnings"],
    }
    if budget is not None:
        quantiles = extras["latency_quantiles"]
        row["share_of_runs_within"] = float(np.interp(budget, quantiles, np.linspace(0, 1, len(quantiles)), 0.0, 1.0))
    return row
