"""The laws of a profiler as a test class to inherit from; needs pytest and runs real networks."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hardware.device import Device
from hardware.loop.measurement import Measurements
from hardware.loop.measuring import Watcher, measure
from hardware.loop.turns import Sampling
from hardware.profiling import Profiler, Workload

__all__ = ["ProfilerContract", "network"]

_QUICK = Sampling(relative_half_width=0.2, min_turns=8, max_turns=20, max_seconds=0.5, patience_seconds=5.0)
_ATTEMPTS = 5  # at timing, of which the fastest counts: what else the machine does only makes it slower


def network(width: int) -> nn.Module:
    """Two convolutions and their mean."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class _Fails(nn.Module):
    """Does not run on anything."""

    def forward(self, images: Tensor) -> Tensor:
        raise RuntimeError("it does not run,\nand says so in two lines")


class ProfilerContract:
    """Tests that hold for every profiler.

    A test class inherits from this one and gives the fixture ``create``: a function without arguments that makes the
    profiler anew. Where a runtime is slow, it makes the networks smaller: `width` and `resolution` of the larger one.
    """

    width = 96
    resolution = 64

    @pytest.fixture
    def create(self) -> Callable[[], Profiler]:
        """Makes the profiler."""
        raise NotImplementedError

    @property
    def small(self) -> Workload:
        """A network that takes little time."""
        return Workload("small", network(4), 16)

    @property
    def large(self) -> Workload:
        """One that takes at least several times as long."""
        return Workload("large", network(self.width), self.resolution)

    def broken(self) -> list[Workload]:
        """Networks that run on no device: a module that raises, and a file that is none."""
        return [Workload("broken", _Fails(), 16), Workload("no-file", b"no model", 16)]

    # -- the device ---------------------------------------------------------------------------------------------------

    def test_it_is_the_same_device_whenever_it_is_made(self, create: Any) -> None:
        """Measuring does not change it, and it survives being written down."""
        profiler = create()
        before = profiler.device
        profiler.prepare(self.small).run(1)
        assert before == profiler.device == create().device and hash(before) == hash(create().device)
        assert before.fingerprint == create().device.fingerprint
        assert Device.from_dict(json.loads(json.dumps(before.to_dict()))) == before
        assert before.name and before.hardware and before.runtime and before.runtime_version

    # -- networks -----------------------------------------------------------------------------------------------------

    def test_a_prepared_network_runs(self, create: Any) -> None:
        prepared = create().prepare(self.small)
        for calls in (1, 3):
            seconds = prepared.run(calls)
            assert isinstance(seconds, float) and 0 < seconds < math.inf
        for name, value in prepared.extras.items():
            assert isinstance(name, str) and math.isfinite(value), f"{name} = {value}"

    def test_seconds_grow_with_the_calls(self, create: Any) -> None:
        run = create().prepare(self.large).run
        run(3)
        one, many = (min(run(calls) for _ in range(_ATTEMPTS)) for calls in (1, 8))
        assert 3 * one < many, f"one call takes {one:.2e} s, eight take {many:.2e} s"

    def test_networks_do_not_disturb_each_other(self, create: Any) -> None:
        """They are prepared first and take turns then, in any order."""
        profiler = create()
        small, large = profiler.prepare(self.small).run, profiler.prepare(self.large).run
        alone = min(large(2) for _ in range(_ATTEMPTS))
        for _ in range(3):
            assert small(2) > 0 and large(2) > 0
        assert min(large(2) for _ in range(_ATTEMPTS)) < 3 * alone

    def test_a_module_is_left_as_it_was(self, create: Any) -> None:
        module = network(4).train()
        kept = copy.deepcopy(module.state_dict())
        threads = torch.get_num_threads()
        create().prepare(Workload("net", module, 16)).run(2)
        assert module.training and torch.get_num_threads() == threads
        assert all(torch.equal(tensor, kept[name]) for name, tensor in module.state_dict().items())
        assert all(parameter.device.type == "cpu" and parameter.grad is None for parameter in module.parameters())

    def test_what_does_not_run_is_a_value_error_in_one_line(self, create: Any) -> None:
        profiler = create()
        for workload in self.broken():
            with pytest.raises(ValueError, match=workload.key) as refused:
                profiler.prepare(workload).run(1)
            assert "\n" not in str(refused.value), "it is shown to people and stored, on one line"
        assert profiler.prepare(self.small).run(1) > 0, "others are measured all the same"

    # -- in the loop --------------------------------------------------------------------------------------------------

    def test_it_is_measured_and_what_fails_is_left_out(self, create: Any) -> None:
        failures: dict[str, str] = {}

        class Listener(Watcher):
            def failed(self, workload: Workload, reason: str) -> None:
                failures[workload.key] = reason

        profiler = create()
        workloads = [self.small, self.large, self.broken()[0]]
        (session,) = measure(profiler, workloads, _QUICK, watcher=Listener())
        assert session.device == profiler.device and set(failures) == {self.broken()[0].key}
        found = Measurements(profiler.device, [session])
        small, large = (found[workload.name].latency for workload in workloads[:2])
        assert 0 < small < large
