"""What networks cost beside time: peak memory, energy, the size of the file."""

import time

import pytest
import torch
from torch import nn

from hardware import OnnxRuntimeProfiler, TorchProfiler, Workload, export_onnx
from hardware.runtimes.energy import cpu_energy_meter, energy_meter, joules_per_call
from hardware.runtimes.gpu import gpu_description, gpu_energy_meter, gpu_state
from hardware.runtimes.memory import peak_memory


def net(width: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_peak_memory_follows_the_activations():
    """One activation of 64 channels at 256 px is 17 MB; at 32 px there is next to none."""
    small, large = (peak_memory(export_onnx(net(64), (1, 3, r, r)), (1, 3, r, r)) for r in (32, 256))
    assert 17e6 < large - small < 60e6
    assert 0 < small < 30e6


def test_the_memory_of_what_does_not_run_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"cannot be measured: ONNX Runtime cannot load .model.onnx.") as caught:
        peak_memory(tmp_path / "model.onnx", (1, 3, 32, 32))
    assert "\n" not in str(caught.value)


def test_a_profiler_measures_memory_when_asked():
    profiler = OnnxRuntimeProfiler("ort", costs=("memory",))
    extras = profiler.prepare(Workload("net", net(8), 32)).extras
    assert extras.keys() == {"file_bytes", "peak_memory_bytes"} and extras["peak_memory_bytes"] > 1e5


def counters(root, **microjoules: int) -> None:
    for name, value in microjoules.items():
        folder = root / name.replace("_", ":").replace("rapl", "intel-rapl", 1)
        folder.mkdir(exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text("1000000\n")


def test_counters_of_all_packages_are_added_and_may_overflow(tmp_path):
    counters(tmp_path, rapl_0=900_000, rapl_1=100, rapl_0_0=5)
    meter = cpu_energy_meter(tmp_path)
    assert meter is not None and meter() == 0
    counters(tmp_path, rapl_0=950_000, rapl_1=200_100, rapl_0_0=500_000)  # a part of a package is in its package
    assert meter() == pytest.approx(0.25)
    counters(tmp_path, rapl_0=50_000)  # the counter was full at 1 J and began anew
    assert meter() == pytest.approx(0.35)
    assert cpu_energy_meter(tmp_path / "none") is None
    (tmp_path / "intel-rapl:1" / "energy_uj").chmod(0)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert cpu_energy_meter(tmp_path) is None  # as where only root may read


def test_energy_of_a_call_is_what_the_meter_counts():
    calls = 0

    def run(n: int) -> float:
        nonlocal calls
        calls += n
        time.sleep(0.001)
        return 0.001

    assert joules_per_call(run, lambda: 5.0 + 0.25 * calls, seconds=0.05) == pytest.approx(0.25)
    with pytest.raises(OSError, match="stood still"):
        joules_per_call(run, lambda: 5.0, seconds=0.01)


def test_a_machine_that_cannot_tell_says_so():
    if cpu_energy_meter() is None:
        with pytest.raises(ValueError, match=r"cannot tell the energy of its cpu: .* take energy out of the costs"):
            OnnxRuntimeProfiler("ort", costs=("energy",)).prepare(Workload("net", net(8), 32))
    else:
        assert (
            OnnxRuntimeProfiler("ort", costs=("energy",)).prepare(Workload("net", net(8), 32)).extras["energy_joules"]
        )
    if gpu_energy_meter() is None:
        with pytest.raises(ValueError, match="cannot tell the energy of its cuda: NVML"):
            energy_meter("cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_there_is_no_state_and_no_name():
    assert gpu_state() == {}
    with pytest.raises(ValueError, match="no NVIDIA GPU is seen here"):
        gpu_description()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_gpu_says_what_it_does_and_what_a_network_takes():
    state = gpu_state()
    assert not state or (state["sm_clock_hz"] > 1e8 and state["power_watts"] > 1)
    small, large = (
        TorchProfiler("gpu", accelerator="cuda", costs=("memory",)).prepare(Workload("net", net(64), r)).extras
        for r in (32, 256)
    )
    assert large["peak_memory_bytes"] - small["peak_memory_bytes"] > 16e6
