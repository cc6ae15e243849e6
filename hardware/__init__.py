"""Measuring networks on devices: export, profilers, measurements and the store that keeps them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware.counting import count_macs, count_parameters
    from hardware.device import Device
    from hardware.interleaving import measure_interleaved
    from hardware.measurement import Measurement
    from hardware.onnx_export import ParityError, export_onnx, onnx_parity
    from hardware.onnx_workload import onnx_file
    from hardware.onnxruntime_profiler import OnnxRuntimeProfiler
    from hardware.openvino_profiler import OpenVinoProfiler
    from hardware.profiling import DeviceGoneError, Prepared, Profiler, Sampling, Workload
    from hardware.reference import reference_workload
    from hardware.store import Score, Store
    from hardware.torch_profiler import TorchProfiler

# Imported when first asked for: reading a store must not wait for torch and ONNX Runtime.
_MODULES = {
    "Device": "device",
    "DeviceGoneError": "profiling",
    "Measurement": "measurement",
    "OnnxRuntimeProfiler": "onnxruntime_profiler",
    "OpenVinoProfiler": "openvino_profiler",
    "ParityError": "onnx_export",
    "Prepared": "profiling",
    "Profiler": "profiling",
    "Sampling": "profiling",
    "Score": "store",
    "Store": "store",
    "TorchProfiler": "torch_profiler",
    "Workload": "profiling",
    "count_macs": "counting",
    "count_parameters": "counting",
    "export_onnx": "onnx_export",
    "measure_interleaved": "interleaving",
    "onnx_file": "onnx_workload",
    "onnx_parity": "onnx_export",
    "reference_workload": "reference",
}

__all__ = [
    "Device",
    "DeviceGoneError",
    "Measurement",
    "OnnxRuntimeProfiler",
    "OpenVinoProfiler",
    "ParityError",
    "Prepared",
    "Profiler",
    "Sampling",
    "Score",
    "Store",
    "TorchProfiler",
    "Workload",
    "count_macs",
    "count_parameters",
    "export_onnx",
    "measure_interleaved",
    "onnx_file",
    "onnx_parity",
    "reference_workload",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
