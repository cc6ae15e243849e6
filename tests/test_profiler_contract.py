"""Every law of a profiler for every registered runtime, and that broken profilers break the laws."""

from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from time import perf_counter, sleep

import pytest
from torch import nn

from experiments.measuring.devices import create_profiler
from experiments.settings.devices import ENTRY_POINTS, DeviceSettings
from hardware import Device, Prepared, TorchProfiler, Workload
from hardware.testing import ProfilerContract

RUNTIMES = sorted(entry_points(group=ENTRY_POINTS).names)


@pytest.mark.parametrize("runtime", RUNTIMES)
class TestRegistered(ProfilerContract):
    @pytest.fixture
    def create(self, runtime):
        return lambda: create_profiler(DeviceSettings(name="mine", runtime=runtime))

    def broken(self):
        return super().broken()[1:]  # for the others see the next test


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "torch"])
def test_a_module_that_raises_does_not_run(runtime):
    contract = ProfilerContract()
    contract.test_what_does_not_run_is_a_value_error_in_one_line(
        lambda: create_profiler(DeviceSettings(name="mine", runtime=runtime))
    )


def test_those_of_this_project_are_registered_as_any_package_would_its_own():
    assert {"onnxruntime", "openvino", "torch"} <= set(RUNTIMES)


@dataclass
class Sleeping:
    """Sleeps as long as a network has numbers; subclasses are broken."""

    made = 0

    @property
    def device(self) -> Device:
        return Device("sleep", "bed", "sleeping", "1", "bed", threads=1, batch_size=1)

    def prepare(self, workload: Workload) -> Prepared:
        if not isinstance(workload.model, nn.Module) or not list(workload.model.parameters()):
            raise ValueError(f"{workload.key} does not sleep")
        seconds = self.seconds(sum(p.numel() for p in workload.model.parameters()))

        def run(calls: int) -> float:
            start = perf_counter()
            sleep(calls * seconds)
            return perf_counter() - start

        return Prepared(run, {"seconds": seconds})

    def seconds(self, n: int) -> float:
        return 2e-4 + n * 2e-8


class Counting(Sleeping):
    """Another device every time."""

    def prepare(self, workload):
        self.made += 1
        return super().prepare(workload)

    @property
    def device(self):
        return replace(super().device, options=(f"{self.made} made",) if self.made else ())


class PerCall(Sleeping):
    """Seconds of a call instead of all."""

    def prepare(self, workload):
        prepared = super().prepare(workload)
        return Prepared(lambda calls: prepared.run(calls) / calls)


class Late(Sleeping):
    """Lets anything pass."""

    def prepare(self, workload):
        try:
            return super().prepare(workload)
        except ValueError:
            return Prepared(lambda calls: 1e-3 * calls)


class Talkative(Sleeping):
    """Says why on two lines."""

    def prepare(self, workload):
        try:
            return super().prepare(workload)
        except ValueError as error:
            raise ValueError(f"{error}\nbecause") from error


class Meddling(Sleeping):
    """Leaves the module in eval mode."""

    def prepare(self, workload):
        if isinstance(workload.model, nn.Module):
            workload.model.eval()
        return super().prepare(workload)


class Sharing(Sleeping):
    """Every network is the last one that was prepared."""

    last = 0.0

    def prepare(self, workload):
        self.last = super().prepare(workload).extras["seconds"]

        def run(calls: int) -> float:
            self.last *= 2
            return self.last * calls

        return Prepared(run)


class TestSleeping(ProfilerContract):
    @pytest.fixture
    def create(self):
        return Sleeping


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Counting, "test_it_is_the_same_device_whenever_it_is_made"),
        (PerCall, "test_seconds_grow_with_the_calls"),
        (Late, "test_what_does_not_run_is_a_value_error_in_one_line"),
        (Talkative, "test_what_does_not_run_is_a_value_error_in_one_line"),
        (Meddling, "test_a_module_is_left_as_it_was"),
        (Sharing, "test_networks_do_not_disturb_each_other"),
    ],
)
def test_a_broken_profiler_breaks_a_law(broken, law):
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(ProfilerContract(), law)(broken)


@pytest.mark.parametrize("more", [{"precision": "bf16"}, {"channels_last": True}])
def test_the_laws_hold_in_every_way_of_using_torch(more):
    contract = TestRegistered()
    contract.test_it_is_measured_and_what_fails_is_left_out(lambda: TorchProfiler("torch", **more))
