"""Measuring networks on devices: export, profilers, measurements and the store that keeps them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware.counting import count_macs, count_parameters
    from hardware.device import Device
    from hardware.measurement import Measurement
    from hardware.onnx_export import ParityError, export_onnx, onnx_parity
    from hardware.onnxruntime_profiler import OnnxRuntimeProfiler
    from hardware.profiling import Profiler, Sampling, Workload
    from hardware.store import Score, Store
    from hardware.torch_profiler import TorchProfiler

# Imported when first asked for: reading a store must not wait for torch and ONNX Runtime.
_MODULES = {
    "Device": "device",
    "Measurement": "measurement",
    "OnnxRuntimeProfiler": "onnxruntime_profiler",
    "ParityError": "onnx_export",
    "Profiler": "profiling",
    "Sampling": "profiling",
    "Score": "store",
    "Store": "store",
    "TorchProfiler": "torch_profiler",
    "Workload": "profiling",
    "count_macs": "counting",
    "count_parameters": "counting",
    "export_onnx": "onnx_export",
    "onnx_parity": "onnx_export",
}

__all__ = [
    "Device",
    "Measurement",
    "OnnxRuntimeProfiler",
    "ParityError",
    "Profiler",
    "Sampling",
    "Score",
    "Store",
    "TorchProfiler",
    "Workload",
    "count_macs",
    "count_parameters",
    "export_onnx",
    "onnx_parity",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
