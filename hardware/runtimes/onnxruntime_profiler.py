"""Measuring with ONNX Runtime: what is timed is the file that would be deployed."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter_ns
from typing import Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hardware.device import Device
from hardware.loop.cpu import cpu_description
from hardware.onnx.external import file_bytes
from hardware.onnx.session import GraphOptimization, OnnxProvider, SessionSettings
from hardware.onnx.workload import Calibration, onnx_file
from hardware.profiling import Cost, Prepared, Runner, Workload
from hardware.runtimes.energy import energy_meter, joules_per_call
from hardware.runtimes.gpu import gpu_description
from hardware.runtimes.memory import peak_memory

__all__ = ["OnnxRuntimeProfiler"]


@dataclass(frozen=True)
class OnnxRuntimeProfiler:
    """A `Profiler` that runs ONNX Runtime sessions."""

    name: str  # label of the device
    batch_size: int = 1  # images a call; the time is that of the whole batch
    threads: int = 1  # within one operator; operators run one after the other
    _: KW_ONLY
    provider: OnnxProvider = "cpu"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"  # fp16 with TensorRT only, int8 on the CPU only
    graph_optimization: GraphOptimization = "all"
    calibration: Calibration | None = (
        None  # images for int8; without it they are random, which is good for latency only
    )
    costs: tuple[Cost, ...] = ()  # what else to measure; memory on the CPU only

    @property
    def device(self) -> Device:
        """What the measurements hold for.

        Raises:
            ValueError: the installed package does not have the provider, or it does not have the precision.
        """
        self._session_settings.require()
        if self.precision == "int8" and self.provider != "cpu":
            raise ValueError(f"int8 is measured on provider 'cpu', not {self.provider!r}")
        optimization = self.graph_optimization
        return Device(
            name=self.name,
            hardware=cpu_description() if self.provider == "cpu" else gpu_description(),
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            provider=self._session_settings.provider_name,
            threads=self.threads,
            batch_size=self.batch_size,
            precision=self.precision,
            options=() if optimization == "all" else (f"graph_optimization={optimization}",),
        )

    def prepare(self, workload: Workload) -> Prepared:
        """A session of the workload on one batch of random images.

        Raises:
            ValueError: it does not run here, is made for another input shape, or has another precision.
        """
        shape = (self.batch_size, workload.channels, workload.resolution, workload.resolution)
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows keeps what a session has open
            model = onnx_file(workload, shape, self.precision == "int8", self.calibration, Path(folder))
            return self._prepared(model, workload, shape)

    def _prepared(self, model: bytes | Path, workload: Workload, shape: tuple[int, ...]) -> Prepared:
        session = self._session_settings.open(model, workload.key, shape)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        run = self._runner(session, images)
        extras = {"file_bytes": float(file_bytes(model))}
        if "memory" in self.costs:
            extras["peak_memory_bytes"] = float(peak_memory(model, shape, self.threads, self.graph_optimization))
        if "energy" in self.costs:
            extras["energy_joules"] = joules_per_call(run, energy_meter("cpu" if self.provider == "cpu" else "cuda"))
        return Prepared(run, extras)

    def _runner(self, session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> Runner:
        # Bound once, the input is neither checked nor copied again and the output keeps its place.
        binding = session.io_binding()
        where = "cpu" if self.provider == "cpu" else "cuda"
        value = onnxruntime.OrtValue.ortvalue_from_numpy(images, where, 0)
        binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
        for output in session.get_outputs():
            binding.bind_output(output.name, where)
        run, finish = session.run_with_iobinding, binding.synchronize_outputs

        def runner(calls: int) -> float:
            start = perf_counter_ns()
            for _ in range(calls):
                run(binding)
            finish()
            return (perf_counter_ns() - start) * 1e-9

        return runner

    @property
    def _session_settings(self) -> SessionSettings:
        return SessionSettings(self.provider, self.threads, self.graph_optimization, fp16=self.precision == "fp16")
