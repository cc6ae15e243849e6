"""Profilers for the devices of a recipe: the runtimes of this project, and those that installed packages bring."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from experiments.settings.devices import ENTRY_POINTS

if TYPE_CHECKING:
    from experiments.settings.devices import DeviceSettings
    from hardware.profiling import Profiler

__all__ = ["create_profiler"]


def create_profiler(settings: DeviceSettings) -> Profiler:
    """The profiler of a device on this machine.

    Raises:
        ValueError: this machine does not have the device, or the package that a runtime needs is not installed.
    """
    if settings.runtime in _OWN:
        return _OWN[settings.runtime](settings)
    return _from_package(settings)


def _onnxruntime(settings: DeviceSettings) -> Profiler:
    from hardware.onnxruntime_profiler import OnnxRuntimeProfiler

    return OnnxRuntimeProfiler(
        **_common(settings),
        provider=settings.provider,  # pyright: ignore[reportArgumentType] the settings have checked it
        graph_optimization=settings.graph_optimization,
    )


def _torch(settings: DeviceSettings) -> Profiler:
    from hardware.torch_profiler import TorchProfiler

    return TorchProfiler(
        **_common(settings),
        accelerator="cuda" if settings.provider == "cuda" else "cpu",
        compiled=settings.compile,
        channels_last=settings.channels_last,
        cuda_graph=settings.cuda_graph,
        flush_l2=settings.flush_l2,
    )


def _openvino(settings: DeviceSettings) -> Profiler:
    try:
        from hardware.openvino_profiler import OpenVinoProfiler
    except ImportError as error:
        raise ValueError(
            f"device {settings.name!r} needs OpenVINO ({error}): pip install 'supernet-nas[openvino]'"
        ) from error
    return OpenVinoProfiler(**_common(settings))


_OWN: dict[str, Callable[[DeviceSettings], Profiler]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "openvino": _openvino,
}


def _common(settings: DeviceSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "batch_size": settings.batch_size,
        "threads": settings.threads,
        "precision": settings.precision,
        "costs": settings.costs,
    }


def _from_package(settings: DeviceSettings) -> Profiler:
    """What the entry point of that name makes of the settings; see docs/new-device.md."""
    (entry_point,) = entry_points(group=ENTRY_POINTS, name=settings.runtime)
    where = f"runtime {settings.runtime!r} of the package {entry_point.dist.name if entry_point.dist else '?'}"
    try:
        profiler = entry_point.load()(settings)
    except Exception as error:  # somebody else's code
        raise ValueError(f"{where} cannot be used: {' '.join(str(error).split())}") from error
    if not (callable(getattr(profiler, "prepare", None)) and hasattr(profiler, "device")):
        raise ValueError(f"{where} made a {type(profiler).__name__}; a profiler has `device` and `prepare`")
    return profiler
