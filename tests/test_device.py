"""Devices: equality means comparable."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from hardware import Device
from hardware.loop.cpu import cpu_description

DEVICE = Device(
    name="laptop",
    hardware="Some CPU, 8 cores",
    runtime="onnxruntime",
    runtime_version="1.32.0",
    provider="CPUExecutionProvider",
    threads=1,
    batch_size=1,
)


def test_the_name_is_a_label_only():
    renamed = dataclasses.replace(DEVICE, name="other")
    assert renamed == DEVICE
    assert renamed.fingerprint == DEVICE.fingerprint
    assert len({DEVICE, renamed}) == 1


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Device) if f.name != "name"])
def test_everything_else_makes_another_device(field):
    value = getattr(DEVICE, field)
    more: Any = {int: 1, str: "x", tuple: ("compiled",)}[type(value)]
    other = dataclasses.replace(DEVICE, **{field: value + more})
    assert other != DEVICE
    assert other.fingerprint != DEVICE.fingerprint


def test_dictionary_round_trip_keeps_name_and_fingerprint():
    again = Device.from_dict(DEVICE.to_dict())
    assert (again, again.name, again.fingerprint) == (DEVICE, DEVICE.name, DEVICE.fingerprint)
    assert len(DEVICE.fingerprint) == 12


def test_an_option_that_a_runtime_learns_changes_no_fingerprint_of_those_who_do_not_use_it():
    assert DEVICE.fingerprint == "608e0c779c19"


def test_the_order_of_options_means_nothing():
    one, other = (dataclasses.replace(DEVICE, options=options) for options in (("a", "b"), ("b", "a")))
    assert one == other and one.fingerprint == other.fingerprint != DEVICE.fingerprint
    assert Device.from_dict(one.to_dict()) == one and "a, b" in str(one)


@pytest.mark.parametrize(
    "change",
    [
        {"threads": "1"},
        {"threads": 0},
        {"batch_size": True},
        {"surprise": 1},
        {"options": None},
        {"hardware": None},
        {"options": "compiled"},
        {"options": [1]},
        {"options": ["a", "a"]},
        {"options": [""]},
    ],
)
def test_what_is_not_a_device_is_refused(change):
    with pytest.raises(ValueError, match="device"):
        Device.from_dict({**DEVICE.to_dict(), **change})


def test_the_machine_says_what_it_is():
    assert "core" in cpu_description()
    assert "Some CPU, 8 cores" in str(DEVICE)


def test_reading_measurements_needs_no_heavy_library():
    code = (
        "import sys, hardware, hardware.device, hardware.loop.measurement;"
        "import hardware.store.store, hardware.store.exchange;"
        "print([m for m in ('torch', 'onnxruntime', 'onnx', 'timm', 'scipy') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
