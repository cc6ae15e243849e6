"""What has changed between two devices of one name: why their numbers are kept apart."""

from __future__ import annotations

from dataclasses import fields

from hardware.device import Device
from hardware.store import Store

__all__ = ["differences", "earlier_devices", "explain_earlier"]


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


def _text(value: object) -> str:
    return str(value) if value not in ("", None) else "none"
