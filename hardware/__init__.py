"""Measuring networks on devices: export, runtimes, sessions and the store that keeps them."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware.counting import count_macs, count_parameters
    from hardware.device import Device
    from hardware.loop.measurement import Measurement, Measurements
    from hardware.loop.measuring import Watcher, measure
    from hardware.loop.session import Session
    from hardware.loop.turns import DeviceGoneError, Sampling
    from hardware.onnx.export import ParityError, export_onnx, onnx_parity
    from hardware.onnx.workload import onnx_file
    from hardware.profiling import Prepared, Profiler, Workload
    from hardware.runtimes.onnxruntime_profiler import OnnxRuntimeProfiler
    from hardware.runtimes.openvino_profiler import OpenVinoProfiler
    from hardware.runtimes.torch_profiler import TorchProfiler
    from hardware.store.store import Score, Store

# ONNX Runtime reads this when it is imported. Without it, it keeps an identifier and events to upload in the home
# folder, and a thread for them beside what is measured.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Imported when first asked for: reading a store must not wait for torch and ONNX Runtime.
_MODULES = {
    "Device": "device",
    "DeviceGoneError": "loop.turns",
    "Measurement": "loop.measurement",
    "Measurements": "loop.measurement",
    "OnnxRuntimeProfiler": "runtimes.onnxruntime_profiler",
    "OpenVinoProfiler": "runtimes.openvino_profiler",
    "ParityError": "onnx.export",
    "Prepared": "profiling",
    "Profiler": "profiling",
    "Sampling": "loop.turns",
    "Score": "store.store",
    "Session": "loop.session",
    "Store": "store.store",
    "TorchProfiler": "runtimes.torch_profiler",
    "Watcher": "loop.measuring",
    "Workload": "profiling",
    "count_macs": "counting",
    "count_parameters": "counting",
    "export_onnx": "onnx.export",
    "measure": "loop.measuring",
    "onnx_file": "onnx.workload",
    "onnx_parity": "onnx.export",
}

__all__ = [
    "Device",
    "DeviceGoneError",
    "Measurement",
    "Measurements",
    "OnnxRuntimeProfiler",
    "OpenVinoProfiler",
    "ParityError",
    "Prepared",
    "Profiler",
    "Sampling",
    "Score",
    "Session",
    "Store",
    "TorchProfiler",
    "Watcher",
    "Workload",
    "count_macs",
    "count_parameters",
    "export_onnx",
    "measure",
    "onnx_file",
    "onnx_parity",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
