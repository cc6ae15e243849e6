"""Profilers: real networks on this machine, in every runtime."""

import gc
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from hardware import (
    Measurements,
    OnnxRuntimeProfiler,
    OpenVinoProfiler,
    Profiler,
    Sampling,
    TorchProfiler,
    Workload,
    count_macs,
    count_parameters,
    export_onnx,
    measure,
)

QUICK = Sampling(relative_half_width=0.2, min_turns=10, max_turns=40, max_seconds=0.5)
PROFILERS = [
    OnnxRuntimeProfiler("ort"),
    OnnxRuntimeProfiler("ort-int8", precision="int8"),
    OpenVinoProfiler("openvino"),
    OpenVinoProfiler("openvino-int8", precision="int8"),
    TorchProfiler("torch"),
    TorchProfiler("torch-bf16", precision="bf16", channels_last=True),
]


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


SMALL, LARGE = Workload("small", net(8), 32), Workload("large", net(96), 64)


def latencies(profiler: Profiler, *workloads: Workload) -> dict[str, float]:
    """Seconds by key, measured side by side."""
    found = Measurements(profiler.device, list(measure(profiler, workloads, QUICK)))
    return {measurement.key: measurement.latency for measurement in found.values()}


@pytest.mark.parametrize("profiler", PROFILERS, ids=lambda profiler: profiler.name)
def test_a_much_larger_network_is_much_slower(profiler: Profiler):
    (session,) = measure(profiler, [SMALL, LARGE], QUICK)
    assert session.device == profiler.device and QUICK.min_turns <= session.n_turns <= 2 * QUICK.max_turns
    found = Measurements(profiler.device, [session])
    assert found["large", 64].latency > 5 * found["small", 32].latency
    for network in session.networks:
        # Short calls are timed several at a time. Half, since a call may be faster than in the warm-up.
        assert found[network.name].latency * network.calls_per_repeat > QUICK.min_repeat_seconds / 2


def test_an_onnx_file_takes_as_long_as_its_module(tmp_path):
    model = export_onnx(LARGE.model, (1, 3, 64, 64)) if isinstance(LARGE.model, nn.Module) else b""
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    profiler = OnnxRuntimeProfiler("ort")
    found = latencies(profiler, LARGE, Workload("bytes", model, 64), Workload("path", path, 64))
    assert max(found.values()) < 1.5 * min(found.values())
    sizes = [profiler.prepare(workload).extras["file_bytes"] for workload in (Workload("path", path, 64), LARGE)]
    assert sizes == [len(model)] * 2


def test_a_larger_batch_is_another_device_and_takes_longer():
    one, eight = (OnnxRuntimeProfiler("ort", batch_size=b) for b in (1, 8))
    assert one.device != eight.device
    assert latencies(eight, LARGE)["large"] > 3 * latencies(one, LARGE)["large"]


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_torch_profiler_leaves_everything_as_it_was(channels_last):
    module = timm.create_model("test_efficientnet", num_classes=10).train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    threads = torch.get_num_threads()
    profiler = TorchProfiler("torch", threads=2, channels_last=channels_last)
    for session in measure(profiler, [Workload("net", module, 32)], Sampling(min_turns=6, max_turns=6)):
        assert session.device.threads == 2 and session.n_turns >= 6
        assert torch.get_num_threads() == threads
        assert gc.isenabled()
    assert module.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())


def test_what_cannot_run_is_refused_in_one_line(tmp_path):
    model = export_onnx(net(8), (1, 3, 32, 32))
    refusals = [
        (OnnxRuntimeProfiler("ort", batch_size=2), Workload("net", model, 32), "export it for this batch size"),
        (OnnxRuntimeProfiler("ort"), Workload("net", model, 64), "export it for this batch size"),
        (OnnxRuntimeProfiler("ort"), Workload("net", b"no model", 32), "cannot load 'net'"),
        (OnnxRuntimeProfiler("ort"), Workload("net", tmp_path / "missing.onnx", 32), "cannot load 'net'"),
        (TorchProfiler("torch"), Workload("net", model, 32), "ONNX file"),
        (OnnxRuntimeProfiler("ort", threads=0), SMALL, "threads 0"),
        (OpenVinoProfiler("openvino"), Workload("net", b"no model", 32), "cannot load 'net'"),
        (OpenVinoProfiler("openvino", batch_size=2), Workload("net", model, 32), "cannot run 'net' on images"),
        (TorchProfiler("torch", flush_l2=True), SMALL, "need accelerator='cuda'"),
    ]
    if not torch.cuda.is_available():
        refusals.append((TorchProfiler("gpu", accelerator="cuda"), SMALL, "no CUDA GPU"))
    for profiler, workload, message in refusals:
        with pytest.raises(ValueError, match=message) as caught:
            list(measure(profiler, [workload], QUICK))
        assert "\n" not in str(caught.value)


def test_a_compiled_network_is_measured():
    profiler = TorchProfiler("torch", compiled=True)
    assert latencies(profiler, Workload("net", nn.ReLU(), 16))["net"] > 0
    assert profiler.device.options == ("compiled",)


def test_every_network_of_a_campaign_is_compiled_for_itself(monkeypatch):
    """Nine of one class, one more than torch compiles of one function before it stops without an error."""
    # What follows the tracing takes seconds for each network and does not matter here.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters  # pyright: ignore[reportPrivateImportUsage]
    counters.clear()
    profiler = TorchProfiler("torch", compiled=True)
    prepared = [profiler.prepare(Workload(str(i), nn.Conv2d(3, 4 + i, 3), 8)) for i in range(9)]
    assert counters["stats"]["unique_graphs"] == len(prepared)
    assert all(one.run(1) > 0 for one in prepared) and counters["stats"]["unique_graphs"] == len(prepared)
    assert not counters["graph_break"]


class Undecided(nn.Module):
    """Depends on the values of the images, so it is no one graph."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.sum(dim=(2, 3)) if images.sum() > 0 else images.mean(dim=(2, 3))


def test_what_would_not_be_compiled_as_a_whole_is_refused():
    with pytest.raises(ValueError, match="torch cannot compile 'net'") as caught:
        TorchProfiler("torch", compiled=True).prepare(Workload("net", Undecided(), 8))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_graphs_and_flushing_run():
    """Replaying saves the launches, and an empty cache costs something."""
    workload = Workload("net", timm.create_model("test_efficientnet"), 64)
    choices: list[dict[str, Any]] = [{}, {"cuda_graph": True}, {"cuda_graph": True, "flush_l2": True}]
    eager, graph, flushed = (
        latencies(TorchProfiler("gpu", accelerator="cuda", **more), workload)["net"] for more in choices
    )
    assert graph < eager and graph < flushed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_events_time_the_gpu():
    profiler = TorchProfiler("gpu", batch_size=64, accelerator="cuda")
    assert profiler.device.hardware == torch.cuda.get_device_name()
    found = latencies(profiler, Workload("small", net(8), 64), Workload("big", net(512), 64))
    assert found["big"] > 5 * found["small"]


# -- counts -----------------------------------------------------------------------------------------------------------


def test_counts_of_a_network():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert count_macs(module, (1, 3, 8, 8)) == 8 * 27 * 16 + 8 * 16 * 10
    assert count_macs(module, (2, 3, 8, 8)) == 2 * count_macs(module, (1, 3, 8, 8))
    assert count_parameters(module) == 8 * 27 + 8 * 16 * 10 + 10


def test_counts_of_a_published_network():
    module = timm.create_model("mobilenetv3_large_100")
    assert count_parameters(module) == 5_483_032
    assert count_macs(module, (1, 3, 224, 224)) == pytest.approx(217e6, rel=0.01)  # Howard et al. 2019: 219 million
    assert module.training
