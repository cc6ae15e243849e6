"""Profilers: real networks on this machine, and the loop on a clock of our own."""

import gc
import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hardware import (
    Device,
    OnnxRuntimeProfiler,
    Profiler,
    Sampling,
    TorchProfiler,
    Workload,
    count_macs,
    count_parameters,
    export_onnx,
)
from hardware.interleaving import measure_interleaved
from hardware.profiling import Prepared

DEVICE = Device("clock", "clock", "none", "0", "none", threads=1, batch_size=1)
QUICK = Sampling(relative_half_width=0.2, max_repeats=40, max_seconds=0.5)
PROFILERS = [OnnxRuntimeProfiler("ort", sampling=QUICK), TorchProfiler("torch", sampling=QUICK)]


def net(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


SMALL, LARGE = Workload("small", net(8), 32), Workload("large", net(64), 48)


@pytest.mark.parametrize("profiler", PROFILERS, ids=lambda profiler: profiler.name)
def test_a_much_larger_network_is_much_slower(profiler: Profiler):
    measurements = {m.key: m for m in profiler.measure([SMALL, LARGE])}
    assert measurements["large"].median > 5 * measurements["small"].median
    for measurement in measurements.values():
        low, high = measurement.interval
        assert low <= measurement.median <= high
        assert QUICK.min_repeats <= len(measurement.seconds) <= QUICK.max_repeats
        assert len(measurement.reference_seconds) >= QUICK.min_repeats
        assert measurement.device == profiler.device
        # Short calls are timed several at a time. Half, since a call may be faster than in the warm-up.
        assert measurement.median * measurement.calls_per_repeat > QUICK.min_repeat_seconds / 2


def test_an_onnx_file_takes_as_long_as_its_module(tmp_path):
    model = export_onnx(LARGE.model, (1, 3, 48, 48)) if isinstance(LARGE.model, nn.Module) else b""
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    profiler = OnnxRuntimeProfiler("ort", sampling=QUICK)
    workloads = [LARGE, Workload("bytes", model, 48), Workload("path", path, 48)]
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
        (OnnxRuntimeProfiler("ort"), Workload("net", model, 48), "export it for this batch size"),
        (OnnxRuntimeProfiler("ort"), Workload("net", b"no model", 32), "cannot load 'net'"),
        (OnnxRuntimeProfiler("ort"), Workload("net", tmp_path / "missing.onnx", 32), "cannot load 'net'"),
        (TorchProfiler("torch"), Workload("net", model, 32), "ONNX file"),
        (OnnxRuntimeProfiler("ort", threads=0), SMALL, "threads 0"),
    ]
    if not torch.cuda.is_available():
        refusals.append((TorchProfiler("gpu", accelerator="cuda"), SMALL, "no CUDA GPU"))
    for profiler, workload, message in refusals:
        with pytest.raises(ValueError, match=message) as caught:
            list(profiler.measure([workload]))
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_events_time_the_gpu():
    profiler = TorchProfiler("gpu", batch_size=64, accelerator="cuda", sampling=QUICK)
    assert profiler.device.hardware == torch.cuda.get_device_name()
    measurements = {
        m.key: m.median for m in profiler.measure([Workload("small", net(8), 64), Workload("big", net(512), 64)])
    }
    assert measurements["big"] > 5 * measurements["small"]


# -- the loop on a clock of our own -----------------------------------------------------------------------------------


class Clock:
    """Runners whose call takes 1 ms times the speed of the machine, 100 times that in the first three calls."""

    def __init__(self, noise: float = 0.0) -> None:
        self.speed = 1.0
        self.noise = noise
        self.rng = np.random.default_rng(0)
        self.order: list[str] = []
        self.fast_again = 10**9  # the run after which the speed is 1 again

    def prepare(self, workload: Workload) -> Prepared:
        calls_made = itertools.count()

        def runner(calls: int) -> float:
            self.order.append(workload.key)
            speed = self.speed if len(self.order) < self.fast_again else 1.0
            warm_up = sum(0.1 for _ in range(calls) if next(calls_made) < 3)
            return warm_up + calls * 1e-3 * speed * self.rng.lognormal(0, self.noise)

        return Prepared(runner)


def workloads(n: int) -> Iterator[Workload]:
    return (Workload(str(i), b"", 32) for i in range(n))


# On a clock of our own nothing interrupts and no core is better than another.
measured = partial(
    measure_interleaved,
    reference=Workload("reference", b"", 32),
    interruptions=lambda: 0,
    choose_cores=lambda n: (),
)


def run(clock: Clock, sampling: Sampling, n: int = 4):
    return measured(DEVICE, workloads(n), clock.prepare, sampling=sampling)


def test_warm_up_is_not_among_the_samples():
    for measurement in run(Clock(noise=0.001), Sampling()):
        assert max(measurement.seconds) < 2e-3
        assert measurement.warnings == ()
        assert len(measurement.seconds) == Sampling().min_repeats


def test_a_tight_network_drops_out_and_a_noisy_one_is_repeated():
    clock = Clock(noise=0.05)
    measurements = list(run(clock, Sampling()))
    assert len({len(measurement.seconds) for measurement in measurements}) > 1
    for measurement in measurements:
        assert len(measurement.seconds) > Sampling().min_repeats
        assert measurement.relative_half_width <= Sampling().relative_half_width


def test_a_median_that_stays_loose_says_what_to_do():
    for measurement in run(Clock(noise=1.0), Sampling(max_repeats=30)):
        assert 30 <= len(measurement.seconds) < 60  # repeats of stretches taken for disturbed are made again
        assert any("allow more repeats" in warning for warning in measurement.warnings)


def test_time_is_bounded():
    for measurement in run(Clock(noise=1.0), Sampling(max_seconds=0.05, drift=9.0)):
        assert sum(measurement.seconds) < 0.2


def test_turns_are_interleaved_in_an_order_made_by_the_seed():
    orders = []
    for seed in (0, 0, 1):
        clock = Clock()
        list(run(clock, Sampling(seed=seed)))
        orders.append(clock.order)
    assert orders[0] == orders[1] != orders[2]
    last = orders[0][-100:]
    assert set(last) == {"0", "1", "2", "3", "reference"}


def test_lasting_drift_is_measured_again_and_then_warned_of():
    clock = Clock(noise=0.001)
    stream = run(clock, Sampling(group_size=1), n=5)
    assert not any(next(stream).warnings for _ in range(3))
    clock.speed = 1.5
    drifted = next(stream)
    assert any("reference network ran 50% slower" in warning for warning in drifted.warnings)
    assert all(1.4e-3 < s < 1.6e-3 for s in drifted.seconds)


def test_passing_drift_is_measured_away():
    clock = Clock(noise=0.001)
    stream = run(clock, Sampling(group_size=1), n=4)
    for _ in range(3):
        next(stream)
    clock.speed = 1.5
    clock.fast_again = len(clock.order) + 4 * Sampling().min_repeats  # 2 networks, 2 runs a turn
    last = next(stream)
    assert last.warnings == ()
    assert last.median < 1.1e-3
    assert max(last.reference_seconds) < 1.1e-3


def test_each_group_is_handed_out_before_the_next_is_built():
    built = []

    def building() -> Iterator[Workload]:
        for workload in workloads(6):
            built.append(workload.key)
            yield workload

    stream = measured(DEVICE, building(), Clock().prepare, sampling=Sampling(group_size=2))
    next(stream)
    assert built == ["0", "1"]
    assert {m.key for m in stream} == {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize("wrong", [{"min_repeats": 5}, {"max_repeats": 10}, {"drift": 0.0}, {"group_size": 0}])
def test_impossible_limits_are_refused(wrong):
    with pytest.raises(ValueError):
        Sampling(**wrong)


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
