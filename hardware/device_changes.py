"""What has changed between two devices of one name: why their numbers are kept apart."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.metadata import PackageNotFoundError, version

from hardware.device import Device
from hardware.loop.cpu import cpu_description
from hardware.store.store import Store

__all__ = ["changed_here", "differences", "earlier_devices", "explain_earlier"]

# Packages that bring a runtime; the first that is installed counts.
_DISTRIBUTIONS = {
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
    "torch": ("torch",),
    "openvino": ("openvino",),
}


def differences(before: Device, after: Device) -> list[str]:
    """What makes two devices different, field by field: ``["runtime_version 1.31.0 → 1.32.0"]``; their names do not."""
    changed = [
        (field.name, getattr(before, field.name), getattr(after, field.name))
        for field in fields(Device)
        if field.compare
    ]
    return [f"{name} {_text(old)} → {_text(new)}" for name, old, new in changed if old != new]


def earlier_devices(store: Store, device: Device) -> dict[Device, int]:
    """Devices in the store that have the name of `device` but are not comparable, and how much was measured on each."""
    found = {other: len(store.measured(other)) for other in store.devices() if other.name == device.name}
    return {other: n for other, n in found.items() if other != device and n}


def explain_earlier(store: Store, device: Device) -> list[str]:
    """One line for each device of this name that was measured before something changed."""
    return [
        f"{device.name}: {n} measurements are kept apart, since {'; '.join(differences(other, device))}"
        for other, n in earlier_devices(store, device).items()
    ]


def changed_here(device: Device) -> list[str]:
    """What this machine, as it is now, would do otherwise than `device`: another processor or version of the runtime.

    Looked up without loading the runtime, so this takes milliseconds; what cannot be known so counts as unchanged.
    """
    now = device
    distributions = (name for name in _DISTRIBUTIONS.get(device.runtime, ()) if _version(name))
    installed = _version(next(distributions, ""))
    # Installers leave out what comes behind the plus: 2.6.0+cu124 is 2.6.0 to them.
    if installed and installed.partition("+")[0] != device.runtime_version.partition("+")[0]:
        now = replace(now, runtime_version=installed)
    if device.provider.lower().startswith("cpu"):
        now = replace(now, hardware=cpu_description())
    return differences(device, now)


def _version(distribution: str) -> str:
    try:
        return version(distribution) if distribution else ""
    except PackageNotFoundError:
        return ""


def _text(value: object) -> str:
    return str(value) if value not in ("", None) else "none"
