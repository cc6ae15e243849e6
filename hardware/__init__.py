"""Measuring networks on devices: export, runtimes, sessions and the store that keeps them."""

import os
from typing import TYPE_CHECKING

from supernet.lazy import lazy

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

__getattr__, __dir__ = lazy(__name__, __file__)
