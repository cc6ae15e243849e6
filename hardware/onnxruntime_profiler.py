"""Measuring with ONNX Runtime: what is timed is the file that would be deployed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from time import perf_counter_ns

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as exceptions  # pyright: ignore[reportAttributeAccessIssue]
from torch import nn

from hardware.device import Device, cpu_description
from hardware.measurement import Measurement
from hardware.onnx_export import export_onnx
from hardware.profiling import Runner, Sampling, Workload, measure_interleaved
from hardware.reference import reference_workload

__all__ = ["OnnxRuntimeProfiler"]

_PROVIDER = "CPUExecutionProvider"
_LOADING_ERRORS = (
    exceptions.Fail,
    exceptions.InvalidArgument,
    exceptions.InvalidGraph,
    exceptions.InvalidProtobuf,
    exceptions.NoSuchFile,
    exceptions.NotImplemented,
)


class OnnxRuntimeProfiler:
    """A `Profiler` that runs ONNX Runtime sessions on the CPU with all graph optimisations.

    Args:
        name: label of the device.
        batch_size: images a call; the time is that of the whole batch.
        threads: within one operator; operators run one after the other.
        reference: measured throughout; without one it is the `reference_workload`.
        sampling: how long to measure.
    """

    def __init__(
        self,
        name: str,
        batch_size: int = 1,
        threads: int = 1,
        *,
        reference: Workload | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.threads = threads
        self.reference = reference
        self.sampling = sampling

    @property
    def device(self) -> Device:
        return Device(
            name=self.name,
            hardware=cpu_description(),
            runtime="onnxruntime",
            runtime_version=onnxruntime.__version__,
            provider=_PROVIDER,
            threads=self.threads,
            batch_size=self.batch_size,
        )

    def measure(self, workloads: Iterable[Workload]) -> Iterator[Measurement]:
        """See `Profiler.measure`.

        Raises:
            ValueError: a workload that ONNX Runtime cannot run here, or a file made for another input shape.
        """
        reference = self.reference or reference_workload()
        return measure_interleaved(self.device, workloads, self.prepare, reference, self.sampling or Sampling())

    def prepare(self, workload: Workload) -> Runner:
        """A session of the workload, ready to run on one batch of random images."""
        shape = (self.device.batch_size, workload.channels, workload.resolution, workload.resolution)
        session = self._session(workload, shape)
        images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        # Bound once, the input is neither checked nor copied again and the output keeps its place.
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, images)
        for output in session.get_outputs():
            binding.bind_output(output.name)
        run = session.run_with_iobinding

        def runner(calls: int) -> float:
            start = perf_counter_ns()
            for _ in range(calls):
                run(binding)
            return (perf_counter_ns() - start) * 1e-9

        return runner

    def _session(self, workload: Workload, shape: tuple[int, ...]) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3  # errors; they are raised as well
        # Threads of a session that has its turn behind it must not spin on the cores of the next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = workload.model
        if isinstance(model, nn.Module):
            model = export_onnx(model, shape)
        try:
            # A path, not the bytes, for a file on disk: its weights may lie in further files beside it.
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=[_PROVIDER]
            )
        except _LOADING_ERRORS as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"ONNX Runtime cannot load {workload.key!r}: {reason}") from error
        if session.get_providers() != [_PROVIDER]:
            raise ValueError(f"{workload.key!r} would run on {session.get_providers()}, asked for was {_PROVIDER}")
        inputs = session.get_inputs()
        if len(inputs) != 1 or not _fits(inputs[0].shape, shape):
            shapes = ", ".join(f"{given.name} {given.shape}" for given in inputs)
            raise ValueError(
                f"{workload.key!r} takes {shapes}, but images {list(shape)} are to be measured: "
                "export it for this batch size and resolution"
            )
        return session


def _fits(declared: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    """Whether images of `shape` may be given; a name or None in `declared` stands for any size."""
    return len(declared) == len(shape) and all(
        size == wanted for size, wanted in zip(declared, shape, strict=True) if isinstance(size, int)
    )
