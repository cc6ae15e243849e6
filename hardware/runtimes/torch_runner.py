"""Ways to call a torch module over and over and to time it: compiled, as a CUDA graph, with CUDA events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns
from types import FunctionType

import torch
from torch import Tensor, nn

from hardware.profiling import Runner

__all__ = ["Call", "compiled", "cpu_runner", "cuda_graph", "cuda_runner", "using_threads"]

Call = Callable[[], object]  # one forward pass on images that are in place


def compiled(module: nn.Module, images: Tensor, name: str) -> Call:
    """The module compiled for these images as one graph, and run once; `name` is for messages.

    Raises:
        ValueError: it cannot be compiled here.
    """

    def forward() -> Tensor:
        return module(images)

    # torch keeps what it compiled with the code of a function, eight times at most, and goes through all of it at every
    # call. A function with code of its own has one entry, however many networks take turns.
    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    call = torch.compile(own, fullgraph=True, dynamic=False)
    try:
        call()
    except Exception as error:  # the compilers behind it raise what they like
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if "error" in line.lower()), lines[0])[:200]
        hint = "" if images.is_cuda else "; for a C++ compiler that is too old set ATEN_CPU_CAPABILITY=avx2"
        raise ValueError(f"torch cannot compile {name!r}: {reason}{hint}, or measure without compile") from error
    return call


def cuda_graph(call: Call, name: str) -> Call:
    """The kernels of one call, recorded, as a call that replays them; `name` is for messages.

    Raises:
        ValueError: they cannot be recorded.
    """
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries set themselves up in their first calls, which cannot be recorded
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{name!r} cannot be recorded as a CUDA graph: {reason}; measure without") from error
    return graph.replay


def cpu_runner(call: Call, threads: int) -> Runner:
    """Times calls by the clock of the process."""

    def runner(calls: int) -> float:
        with using_threads(threads), torch.inference_mode():
            start = perf_counter_ns()
            for _ in range(calls):
                call()
            return (perf_counter_ns() - start) * 1e-9

    return runner


def cuda_runner(call: Call, flush_l2: bool) -> Runner:
    """Times calls with CUDA events; with `flush_l2` each by itself, after the GPU's cache was filled with zeros."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def timed(calls: int) -> float:
        start.record()
        for _ in range(calls):
            call()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) * 1e-3

    if not flush_l2:

        def runner(calls: int) -> float:
            with torch.inference_mode():
                torch.cuda.synchronize()
                return timed(calls)

        return runner

    cache = torch.empty(2 * torch.cuda.get_device_properties().L2_cache_size, dtype=torch.int8, device="cuda")

    def flushing_runner(calls: int) -> float:
        seconds = 0.0
        with torch.inference_mode():
            for _ in range(calls):
                cache.zero_()
                seconds += timed(1)
        return seconds

    return flushing_runner


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Inside, torch computes on so many threads of the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
