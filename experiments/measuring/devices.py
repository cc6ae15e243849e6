"""Profilers for the devices of a recipe: the runtimes of this project, and those that other packages bring."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from experiments.settings.devices import ENTRY_POINTS

if TYPE_CHECKING:
    from experiments.settings.devices import DeviceSettings
    from hardware.profiling import Profiler

__all__ = ["create_profiler", "onnxruntime", "openvino", "torch"]


def create_profiler(settings: DeviceSettings) -> Profiler:
    """The profiler of a device on this machine: what the entry point of its runtime makes (docs/new-device.md).

    Raises:
        ValueError: this machine does not have the device, or the package that a runtime needs is not installed.
    """
    found = list(entry_points(group=ENTRY_POINTS, name=settings.runtime))
    packages = " and ".join(point.dist.name if point.dist else "?" for point in found)
    if len(found) != 1:
        raise ValueError(
            f"runtime {settings.runtime!r} of {packages or 'no package'}; install exactly one that brings it"
        )
    where = f"runtime {settings.runtime!r} of the package {packages}"
    try:
        profiler = found[0].load()(settings)
    except Exception as error:  # somebody else's code
        raise ValueError(f"{where} cannot be used: {' '.join(str(error).split())}") from error
    if not (callable(getattr(profiler, "prepare", None)) and hasattr(profiler, "device")):
        raise ValueError(f"{where} made a {type(profiler).__name__}; a profiler has `device` and `prepare`")
    return profiler


# -- our own, which pyproject.toml registers as any package would its own ----------------------------------------------


def onnxruntime(settings: DeviceSettings) -> Profiler:
    """ONNX Runtime on the CPU, CUDA or TensorRT."""
    from hardware.runtimes.onnxruntime_profiler import OnnxRuntimeProfiler

    return OnnxRuntimeProfiler(
        **_common(settings),
        provider=settings.provider,  # pyright: ignore[reportArgumentType] the settings have checked it
        graph_optimization=settings.graph_optimization,
    )


def torch(settings: DeviceSettings) -> Profiler:
    """PyTorch on the CPU or CUDA."""
    from hardware.runtimes.torch_profiler import TorchProfiler

    return TorchProfiler(
        **_common(settings),
        accelerator="cuda" if settings.provider == "cuda" else "cpu",
        compiled=settings.compile,
        channels_last=settings.channels_last,
        cuda_graph=settings.cuda_graph,
        flush_l2=settings.flush_l2,
    )


def openvino(settings: DeviceSettings) -> Profiler:
    """OpenVINO on the CPU."""
    try:
        from hardware.runtimes.openvino_profiler import OpenVinoProfiler
    except ImportError as error:
        raise ValueError(f"OpenVINO is missing ({error}): pip install 'supernet-nas[openvino]'") from error
    return OpenVinoProfiler(**_common(settings))


def _common(settings: DeviceSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
        "precision": settings.precision,
        "costs": settings.costs,
    }
