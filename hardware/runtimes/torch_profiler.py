"""Measuring with PyTorch itself, on the CPU or on a GPU."""

from __future__ import annotations

import copy
import os
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import nn

from hardware.device import Device
from hardware.loop.cpu import cpu_description
from hardware.loop.turns import one_line
from hardware.profiling import Cost, Prepared, Workload
from hardware.runtimes.energy import energy_meter, joules_per_call
from hardware.runtimes.torch_runner import compiled, cpu_runner, cuda_graph, cuda_runner, using_threads

__all__ = ["TorchProfiler"]

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_CAPABILITY = "ATEN_CPU_CAPABILITY"  # torch's own switch for older vector instructions than the CPU has


@dataclass(frozen=True)
class TorchProfiler:
    """A `Profiler` that runs torch modules in inference mode."""

    name: str  # label of the device
    batch_size: int = 1  # images a call; the time is that of the whole batch
    threads: int = 1  # of the CPU; the process has its own number again after every call
    _: KW_ONLY
    accelerator: Literal["cpu", "cuda"] = "cpu"  # "cuda" is the current GPU, timed with CUDA events
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of weights and images
    compiled: bool = False  # by torch.compile, as one graph
    channels_last: bool = False  # memory format of images and weights
    cuda_graph: bool = False  # record the network once and replay it; "cuda" only
    flush_l2: bool = False  # empty the GPU's cache before every call; "cuda" only
    costs: tuple[Cost, ...] = ()  # what else to measure; memory on "cuda" only

    @property
    def device(self) -> Device:
        """What the measurements hold for.

        Raises:
            ValueError: settings that do not go together, or a GPU that torch cannot use here.
        """
        if self.accelerator not in ("cpu", "cuda"):
            raise ValueError(f"accelerator {self.accelerator!r} must be 'cpu' or 'cuda'")
        if self.precision not in _TYPES:
            raise ValueError(f"precision {self.precision!r} is not one of {', '.join(_TYPES)}")
        if self.accelerator == "cpu" and (self.cuda_graph or self.flush_l2):
            raise ValueError("cuda_graph and flush_l2 need accelerator='cuda'")
        if self.accelerator == "cuda" and not torch.cuda.is_available():
            raise ValueError("torch sees no CUDA GPU here; measure with accelerator='cpu' or on another machine")
        # Whatever decides which kernels run must keep measurements apart.
        names = ("compiled", "channels_last", "cuda_graph", "flush_l2")
        options = [name for name in names if getattr(self, name)]
        if self.accelerator == "cpu" and _CAPABILITY in os.environ:
            options.append(f"{_CAPABILITY}={os.environ[_CAPABILITY]}")
        return Device(
            name=self.name,
            hardware=cpu_description() if self.accelerator == "cpu" else torch.cuda.get_device_name(),
            runtime="torch",
            runtime_version=torch.__version__,
            provider=self.accelerator,
            threads=self.threads,
            batch_size=self.batch_size,
            precision=self.precision,
            options=tuple(options),
        )

    def prepare(self, workload: Workload) -> Prepared:
        """A copy of the module on the device, ready to run on one batch of random images.

        Raises:
            ValueError: it is an ONNX file, or cannot be compiled or recorded here.
        """
        if not isinstance(workload.model, nn.Module):
            raise ValueError(f"{workload.key!r} is an ONNX file, torch runs modules only; use OnnxRuntimeProfiler")
        on_gpu, extras = self.accelerator == "cuda", dict[str, float]()
        before = torch.cuda.memory_allocated() if on_gpu else 0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        shape = (self.batch_size, workload.channels, workload.resolution, workload.resolution)
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        images = images.to(self.accelerator, _TYPES[self.precision])
        module = copy.deepcopy(workload.model).eval().to(self.accelerator, _TYPES[self.precision])
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
            module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        with torch.inference_mode(), using_threads(self.threads):
            call = compiled(module, images, workload.key) if self.compiled else lambda: module(images)
            try:
                if self.cuda_graph:
                    call = cuda_graph(call, workload.key)
                call()
            except ValueError:
                raise
            except Exception as error:  # whatever the network itself raises
                raise ValueError(f"{workload.key!r} does not run on images {list(shape)}: {one_line(error)}") from error
        if on_gpu and "memory" in self.costs:
            extras["peak_memory_bytes"] = float(torch.cuda.max_memory_allocated() - before)
        run = cuda_runner(call, self.flush_l2) if on_gpu else cpu_runner(call, self.threads)
        if "energy" in self.costs:
            extras["energy_joules"] = joules_per_call(run, energy_meter(self.accelerator))
        return Prepared(run, extras)
