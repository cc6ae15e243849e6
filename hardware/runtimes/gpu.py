"""What an NVIDIA GPU says about itself: its name, clocks, heat and energy, read through NVML and never set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hardware.loop.cpu import power_modes

__all__ = ["gpu_description", "gpu_energy_meter", "gpu_state"]

# Power cap, hardware slowdown, software and hardware thermal slowdown, power brake (nvml.h).
_THROTTLING = 0x4 | 0x8 | 0x20 | 0x40 | 0x80


def gpu_description() -> str:
    """The model of the current GPU: ``"NVIDIA H100 80GB HBM3"``; on a Jetson with its power mode.

    Raises:
        ValueError: there is none, or neither torch nor NVML can see it.
    """
    import torch

    if torch.cuda.is_available():
        modes = [mode for mode in power_modes() if mode.startswith("nvpmodel")]  # it sets the clocks of the GPU, too
        return ", ".join([torch.cuda.get_device_name(), *modes])
    with _current_gpu() as (nvml, handle):
        if nvml is None:
            raise ValueError("no NVIDIA GPU is seen here; see that the driver runs, or measure on a machine with one")
        return nvml.nvmlDeviceGetName(handle)


def gpu_state() -> Mapping[str, float]:
    """Clocks (Hz), temperature (degrees Celsius), power (W) and whether it throttles (0 or 1) of the current GPU.

    Empty where NVML cannot be had: no NVIDIA driver, or the package nvidia-ml-py is not installed.
    """
    with _current_gpu() as (nvml, handle):
        if nvml is None:
            return {}
        return {
            "sm_clock_hz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM) * 1e6,
            "memory_clock_hz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM) * 1e6,
            "temperature_celsius": float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "power_watts": nvml.nvmlDeviceGetPowerUsage(handle) * 1e-3,
            "throttled": float(bool(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle) & _THROTTLING)),
        }


def gpu_energy_meter() -> Callable[[], float] | None:
    """Reads the joules that the current GPU has used so far; None where it does not tell."""

    def joules() -> float:
        with _current_gpu() as (nvml, handle):
            if nvml is None:
                raise OSError("the GPU does not tell its energy any more")
            return nvml.nvmlDeviceGetTotalEnergyConsumption(handle) * 1e-3

    try:
        joules()
    except OSError:
        return None
    return joules


@contextmanager
def _current_gpu() -> Iterator[tuple[Any, Any]]:
    """NVML and its handle of the GPU that torch computes on; None and None where there is none."""
    try:
        import pynvml
    except ImportError:
        yield None, None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None, None
        return
    try:
        yield pynvml, _handle(pynvml)
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any) -> Any:
    import torch

    # NVML counts all GPUs of the machine, CUDA those that CUDA_VISIBLE_DEVICES leaves; the identifier is the same.
    if torch.cuda.is_available():
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties().uuid}")
    return nvml.nvmlDeviceGetHandleByIndex(0)
