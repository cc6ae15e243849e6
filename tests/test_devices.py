"""Devices of a recipe: what each setting makes, and a runtime that another package brings."""

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from experiments.measuring.devices import create_profiler
from experiments.settings.devices import DeviceSettings
from hardware import (
    OnnxRuntimeProfiler,
    OpenVinoProfiler,
    Sampling,
    TorchProfiler,
    Watcher,
    Workload,
    export_onnx,
    measure,
)

PAGE = Path(__file__).parents[1] / "docs" / "new-device.md"
CODE = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)


def profiler(**settings: Any) -> Any:
    return create_profiler(DeviceSettings(name="mine", **settings))


@pytest.mark.parametrize(
    ("settings", "kind", "fields", "options"),
    [
        ({"threads": 2}, OnnxRuntimeProfiler, {"threads": 2, "provider": "CPUExecutionProvider"}, ()),
        ({"precision": "int8", "batch_size": 4}, OnnxRuntimeProfiler, {"precision": "int8", "batch_size": 4}, ()),
        ({"graph_optimization": "basic"}, OnnxRuntimeProfiler, {}, ("graph_optimization=basic",)),
        ({"runtime": "openvino", "precision": "bf16"}, OpenVinoProfiler, {"precision": "bf16", "provider": "CPU"}, ()),
        ({"runtime": "torch", "precision": "fp16"}, TorchProfiler, {"precision": "fp16", "provider": "cpu"}, ()),
        (
            {"runtime": "torch", "compile": True, "channels_last": True},
            TorchProfiler,
            {},
            ("channels_last", "compiled"),
        ),
    ],
)
def test_every_setting_makes_the_device_that_it_says(settings, kind, fields, options):
    found = profiler(**settings)
    assert isinstance(found, kind) and found.name == "mine"
    assert found.device.options == options
    assert {name: getattr(found.device, name) for name in fields} == fields


def test_what_decides_the_kernels_keeps_measurements_apart(monkeypatch):
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    choices: list[dict[str, Any]] = [
        {},
        {"precision": "int8"},
        {"graph_optimization": "extended"},
        {"runtime": "openvino"},
        {"runtime": "openvino", "precision": "int8"},
        {"runtime": "torch"},
        {"runtime": "torch", "compile": True},
        {"runtime": "torch", "channels_last": True},
        {"runtime": "torch", "precision": "bf16"},
    ]
    fingerprints = [profiler(**choice).device.fingerprint for choice in choices]
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    fingerprints.append(profiler(runtime="torch").device.fingerprint)
    assert len(set(fingerprints)) == len(choices) + 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"provider": "cuda"}, "offers .*CPUExecutionProvider, not CUDAExecutionProvider; put onnxruntime-gpu in its"),
        ({"provider": "tensorrt", "precision": "fp16"}, "not TensorrtExecutionProvider"),
        ({"runtime": "torch", "provider": "cuda", "cuda_graph": True}, "torch sees no CUDA GPU here"),
    ],
)
def test_a_provider_that_is_not_there_is_an_error_and_no_number(settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        _ = profiler(**settings).device
    assert "\n" not in str(caught.value)


# -- a runtime of another package -------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The distribution of docs/new-device.md in a folder on the path, as pip would leave it."""
    (tmp_path / "numpy_device.py").write_text(CODE[0])
    (group,) = re.findall(r'^\[project\.entry-points\."(.*)"\]\n(.*?)^```', PAGE.read_text(), re.DOTALL | re.MULTILINE)
    info = tmp_path / "numpy_device-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy-device\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group[0]}]\n{group[1].replace(chr(34), '')}")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("numpy_device", None)


def test_without_its_package_a_runtime_is_refused():
    with pytest.raises(ValidationError, match="'numpy' is not possible; choose 'onnxruntime', 'openvino', 'torch', or"):
        DeviceSettings(name="slow", runtime="numpy")


@pytest.mark.usefixtures("installed")
def test_the_page_brings_a_runtime_on_board():
    numpy = profiler(runtime="numpy", options={"zeros": True})
    assert numpy.device.runtime == "numpy" and numpy.device.options == ("zeros",)
    failures = {}

    class Listener(Watcher):
        def failed(self, workload: Workload, reason: str) -> None:
            failures[workload.key] = reason

    workloads = [Workload("net", small_net(), 12), Workload("broken", b"no model", 12)]
    (session,) = measure(numpy, workloads, Sampling(max_turns=20), watcher=Listener())
    assert session.names == (("net", 12),) and session.device == numpy.device
    assert session.networks[0].extras["file_bytes"] > 100 and session.seconds.min() > 0
    assert failures["broken"].startswith("cannot load 'broken'")


@pytest.mark.usefixtures("installed")
def test_the_page_measures_by_hand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "other"):
        Path(f"{name}.onnx").write_bytes(export_onnx(small_net(), (1, 3, 32, 32)))
    (tmp_path / "by_hand.py").write_text(CODE[1])
    runpy.run_path(str(tmp_path / "by_hand.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" at 32 px: ")[0] for line in lines] == ["mine", "other"]
    assert all("on numpy-b1, " in line for line in lines)


def small_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.usefixtures("installed")
def test_a_runtime_of_ours_and_of_a_stranger_stand_in_one_list(tmp_path):
    """So two of one name are told apart by nobody."""
    entries = tmp_path / "numpy_device-1.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text().replace("numpy =", "torch ="))
    with pytest.raises(ValueError, match=r"runtime 'torch' of .*numpy-device.*; install exactly one that brings it"):
        profiler(runtime="torch")


@pytest.mark.usefixtures("installed")
def test_what_goes_wrong_in_a_package_names_it():
    message = "runtime 'numpy' of the package numpy-device cannot be used: numpy computes on one thread in fp32"
    with pytest.raises(ValueError, match=message):
        profiler(runtime="numpy", threads=2)
