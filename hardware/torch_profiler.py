"""Measuring with PyTorch itself, on the CPU or on a GPU."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from typing import Literal

import torch
from torch import Tensor, nn

from hardware.device import Device, cpu_description
from hardware.measurement import Measurement
from hardware.profiling import Runner, Sampling, Workload, measure_interleaved
from hardware.reference import reference_workload

__all__ = ["TorchProfiler"]


class TorchProfiler:
    """A `Profiler` that runs torch modules eagerly in inference mode.

    Args:
        name: label of the device.
        batch_size: images a call; the time is that of the whole batch.
        threads: of the CPU; the process has its own number again after every call.
        accelerator: "cpu", or "cuda" for the current GPU, timed there with CUDA events.
        channels_last: memory format of images and weights.
        reference: measured throughout; without one it is the `reference_workload`.
        sampling: how long to measure.
    """

    def __init__(
        self,
        name: str,
        batch_size: int = 1,
        threads: int = 1,
        *,
        accelerator: Literal["cpu", "cuda"] = "cpu",
        channels_last: bool = False,
        reference: Workload | None = None,
        sampling: Sampling | None = None,
    ) -> None:
        self.name = name
        self.batch_size = batch_size
        self.threads = threads
        self.accelerator = accelerator
        self.channels_last = channels_last
        self.reference = reference
        self.sampling = sampling

    @property
    def device(self) -> Device:
        """What the measurements hold for.

        Raises:
            ValueError: another accelerator than "cpu" and "cuda", or a GPU that torch cannot use here.
        """
        if self.accelerator not in ("cpu", "cuda"):
            raise ValueError(f"accelerator {self.accelerator!r} must be 'cpu' or 'cuda'")
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch sees no CUDA GPU here; measure with accelerator='cpu' or on another machine")
        return Device(
            name=self.name,
            hardware=cpu_description() if self.accelerator == "cpu" else torch.cuda.get_device_name(),
            runtime="torch",
            runtime_version=torch.__version__,
            # The memory format decides which kernels run, so it must keep measurements apart.
            provider=self.accelerator + (" channels_last" if self.channels_last else ""),
            threads=self.threads,
            batch_size=self.batch_size,
        )

    def measure(self, workloads: Iterable[Workload]) -> Iterator[Measurement]:
        """See `Profiler.measure`.

        Raises:
            ValueError: a workload that is an ONNX file, or a device that is not there.
        """
        reference = self.reference or reference_workload()
        return measure_interleaved(self.device, workloads, self.prepare, reference, self.sampling or Sampling())

    def prepare(self, workload: Workload) -> Runner:
        """A copy of the module on the device, ready to run on one batch of random images."""
        if not isinstance(workload.model, nn.Module):
            raise ValueError(f"{workload.key!r} is an ONNX file, torch runs modules only; use OnnxRuntimeProfiler")
        shape = (self.device.batch_size, workload.channels, workload.resolution, workload.resolution)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(self.accelerator)
        module = copy.deepcopy(workload.model).eval().to(self.accelerator)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
            module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.accelerator == "cuda":
            return _cuda_runner(module, images)
        return _cpu_runner(module, images, self.threads)


def _cpu_runner(module: nn.Module, images: Tensor, threads: int) -> Runner:
    def runner(calls: int) -> float:
        with _threads(threads), torch.inference_mode():
            start = perf_counter_ns()
            for _ in range(calls):
                module(images)
            return (perf_counter_ns() - start) * 1e-9

    return runner


def _cuda_runner(module: nn.Module, images: Tensor) -> Runner:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def runner(calls: int) -> float:
        with torch.inference_mode():
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                module(images)
            stop.record()
            stop.synchronize()
            return start.elapsed_time(stop) * 1e-3

    return runner


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
