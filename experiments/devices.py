"""Profilers for the devices of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.device_settings import DeviceSettings, MeasureSettings
    from hardware.profiling import Profiler

__all__ = ["create_profiler"]


def create_profiler(settings: DeviceSettings, measure: MeasureSettings, seed: int) -> Profiler:
    """The profiler of a device on this machine.

    Raises:
        ValueError: this machine does not have the device.
    """
    from hardware.profiling import Sampling

    sampling = Sampling(measure.relative_half_width, max_repeats=measure.max_repeats, seed=seed)
    if settings.runtime == "onnxruntime":
        from hardware.onnxruntime_profiler import OnnxRuntimeProfiler

        if settings.provider != "cpu":
            raise ValueError(f"device {settings.name!r}: onnxruntime runs on provider 'cpu' here; take runtime 'torch'")
        return OnnxRuntimeProfiler(settings.name, settings.batch_size, settings.threads, sampling=sampling)
    from hardware.torch_profiler import TorchProfiler

    return TorchProfiler(
        settings.name,
        settings.batch_size,
        settings.threads,
        accelerator="cuda" if settings.provider == "cuda" else "cpu",
        sampling=sampling,
    )
