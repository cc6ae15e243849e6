"""Profilers: real networks on this machine, in every runtime."""

import gc
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from hardware import (
    OnnxRuntimeProfiler,
    OpenVinoProfiler,
    Profiler,
    Sampling,
    TorchProfiler,
    Workload,
    count_macs,
    count_parameters,
    export_onnx,
)

QUICK = Sampling(relative_half_width=0.2, max_repeats=40, max_seconds=0.5)
PROFILERS = [
    OnnxRuntimeProfiler("ort", sampling=QUICK),
    OnnxRuntimeProfiler("ort-int8", precision="int8", sampling=QUICK),
    OpenVinoProfiler("openvino", sampling=QUICK),
    OpenVinoProfiler("openvino-int8", precision="int8", sampling=QUICK),
    TorchProfiler("torch", sampling=QUICK),
    TorchProfiler("torch-bf16", precision="bf16", channels_last=True, sampling=QUICK),
]


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


SMALL, LARGE = Workload("small", net(8), 32), Workload("large", net(96), 64)


@pytest.mark.parametrize("profiler", PROFILERS, ids=lambda profiler: profiler.name)
def test_a_much_larger_network_is_much_slower(profiler: Profiler):
    measurements = {m.key: m for m in profiler.measure([SMALL, LARGE])}
    assert measurements["large"].median > 5 * measurements["small"].median
    for measurement in measurements.values():
        low, high = measurement.interval
        assert low <= measurement.median <= high
        assert QUICK.min_repeats <= len(measurement.seconds) <= 2 * QUICK.max_repeats
        assert len(measurement.reference_seconds) >= QUICK.min_repeats
        assert measurement.device == profiler.device
        # Short calls are timed several at a time. Half, since a call may be faster than in the warm-up.
        assert measurement.median * measurement.calls_per_repeat > QUICK.min_repeat_seconds / 2


def test_an_onnx_file_takes_as_long_as_its_module(tmp_path):
    model = export_onnx(LARGE.model, (1, 3, 64, 64)) if isinstance(LARGE.model, nn.Module) else b""
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    profiler = OnnxRuntimeProfiler("ort", sampling=QUICK)
    workloads = [LARGE, Workload("bytes", model, 64), Workload("path", path, 64)]
    medians = [measurement.median for measurement in profiler.measure(workloads)]
    assert max(medians) < 1.5 * min(medians)


def test_a_larger_batch_is_another_device_and_takes_longer():
    one, eight = (OnnxRuntimeProfiler("ort", batch_size=b, sampling=QUICK) for b in (1, 8))
    assert one.device != eight.device
    (first,), (second,) = (list(profiler.measure([LARGE])) for profiler in (one, eight))
    assert second.median > 3 * first.median


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_torch_profiler_leaves_everything_as_it_was(channels_last):
    module = timm.create_model("test_efficientnet", num_classes=10).train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    threads = torch.get_num_threads()
    brief = Sampling(min_repeats=6, max_repeats=6)
    profiler = TorchProfiler("torch", threads=2, channels_last=channels_last, sampling=brief)
    for measurement in profiler.measure([Workload("net", module, 32)]):
        assert measurement.device.threads == 2
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
            list(profiler.measure([workload]))
        assert "\n" not in str(caught.value)


def test_a_compiled_network_is_measured():
    reference = Workload("reference", nn.ReLU(), 8)
    profiler = TorchProfiler("torch", compiled=True, reference=reference, sampling=Sampling(max_repeats=20))
    (measurement,) = profiler.measure([Workload("net", nn.ReLU(), 16)])
    assert measurement.device.options == ("compiled",) and measurement.median > 0


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
        next(TorchProfiler("gpu", accelerator="cuda", sampling=QUICK, **more).measure([workload])).median
        for more in choices
    )
    assert graph < eager and graph < flushed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_events_time_the_gpu():
    profiler = TorchProfiler("gpu", batch_size=64, accelerator="cuda", sampling=QUICK)
    assert profiler.device.hardware == torch.cuda.get_device_name()
    measurements = {
        m.key: m.median for m in profiler.measure([Workload("small", net(8), 64), Workload("big", net(512), 64)])
    }
    assert measurements["big"] > 5 * measurements["small"]


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
