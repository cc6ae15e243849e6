"""Measuring with OpenVINO on the CPU, from the same ONNX files."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Literal

import numpy as np
import openvino

from hardware.device import Device
from hardware.loop.cpu import cpu_description
from hardware.onnx.external import file_bytes
from hardware.onnx.workload import Calibration, onnx_file
from hardware.profiling import Cost, Prepared, Workload
from hardware.runtimes.energy import energy_meter, joules_per_call

__all__ = ["OpenVinoProfiler"]

# What is not in integers in an int8 file is computed in fp32.
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}


@dataclass(frozen=True)
class OpenVinoProfiler:
    """A `Profiler` that runs OpenVINO on the CPU."""

    name: str  # label of the device
    batch_size: int = 1  # images a call; the time is that of the whole batch
    threads: int = 1
    _: KW_ONLY
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    calibration: Calibration | None = (
        None  # images for int8; without it they are random, which is good for latency only
    )
    costs: tuple[Cost, ...] = ()  # what else to measure: energy

    @property
    def device(self) -> Device:
        """What the measurements hold for.

        Raises:
            ValueError: an unknown precision.
        """
        if self.precision not in _HINTS:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(_HINTS)}")
        return Device(
            name=self.name,
            hardware=cpu_description(),
            runtime="openvino",
            runtime_version=openvino.__version__.partition("-")[0],
            provider="CPU",
            threads=self.threads,
            batch_size=self.batch_size,
            precision=self.precision,
        )

    def prepare(self, workload: Workload) -> Prepared:
        """The workload compiled for one batch of random images.

        Raises:
            ValueError: it does not run here, is made for another input shape, or has another precision.
        """
        shape = (self.batch_size, workload.channels, workload.resolution, workload.resolution)
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what a network has open
            file = onnx_file(workload, shape, self.precision == "int8", self.calibration, Path(folder))
            return self._prepared(file, workload, shape)

    def _prepared(self, file: bytes | Path, workload: Workload, shape: tuple[int, ...]) -> Prepared:
        core, hint = openvino.Core(), _HINTS[self.precision]
        settings = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
        try:
            model = core.read_model(file) if isinstance(file, Path) else core.read_model(model=file, weights=b"")
            network = core.compile_model(model, "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint})
            request = network.create_infer_request()
            images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            request.set_input_tensor(openvino.Tensor(images, shared_memory=True))
            request.infer()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"OpenVINO cannot run {workload.key!r} on images {list(shape)}: {reason}") from error
        # Asked for a precision that the CPU does not have, OpenVINO takes another without a word.
        chosen = network.get_property("INFERENCE_PRECISION_HINT").to_string()
        if chosen != hint:
            raise ValueError(f"OpenVINO computes in {chosen} on this CPU where {self.precision} was asked for")

        def runner(calls: int) -> float:
            start = perf_counter_ns()
            for _ in range(calls):
                request.infer()
            return (perf_counter_ns() - start) * 1e-9

        extras = {"file_bytes": float(file_bytes(file))}
        if "energy" in self.costs:
            extras["energy_joules"] = joules_per_call(runner, energy_meter("cpu"))
        return Prepared(runner, extras)
