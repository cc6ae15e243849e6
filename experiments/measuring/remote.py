"""Devices that were added to a run: what they are to measure, what they measured, and how the verbs use it."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from experiments.files import write_json
from experiments.plans import initial_plan, search_plans
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.measurement import Measurement
from hardware.onnx_export import export_onnx
from hardware.profiling import OnFailure, OnTurn, Sampling, Workload
from hardware.reference import reference_workload
from hardware.remote.campaign import REFERENCE, Job
from hardware.remote.journal import Journal
from supernet.architecture import Architecture

if TYPE_CHECKING:
    from hardware.store import Store

__all__ = ["RunCampaign", "StoredProfiler", "check_name", "journal", "runnable"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def check_name(run: RunFolder, name: str) -> str:
    """The name, if a device may be added under it.

    Raises:
        ValueError: it is no name, or a device of the recipe has it.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a device: letters, digits, . _ -, at most 64")
    if name in {device.name for device in run.recipe.devices}:
        raise ValueError(f"{name!r} is a device of the recipe, which this machine measures; give another name")
    return name


def journal(run: RunFolder) -> Journal:
    """What added devices could not do."""
    return Journal(run.devices / "journal.jsonl")


def runnable(run: RunFolder, name: str, archs: Sequence[Architecture]) -> list[Architecture]:
    """Those that the added device did not fail to run."""
    failed = journal(run).failed(run.added_device(name).fingerprint)
    return [arch for arch in archs if (arch.id, arch.resolution) not in failed]


class RunCampaign:
    """The planned sub-networks of a run as work for devices elsewhere; see `hardware.remote.campaign.Campaign`.

    Args:
        run: its plans are read again whenever there are new ones, so a search may go on meanwhile.
        name: the first device is registered under this name, further ones under names that begin with it.
        n: only so many of the planned sub-networks; default all.
    """

    def __init__(self, run: RunFolder, name: str, n: int | None = None) -> None:
        self.run = run
        self.name = check_name(run, name)
        self.n = n
        self.title = run.recipe.title
        measure = run.recipe.measure
        self.sampling = Sampling(
            measure.relative_half_width, max_repeats=measure.max_repeats, seed=run.recipe.seed, group_size=8
        )
        self._lock = threading.RLock()
        self._jobs: dict[str, tuple[object, list[Job]]] = {}  # by device, with the state of the plans it is for
        self._archs: dict[tuple[str, int], Architecture] = {}
        initial_plan(run)

    def jobs(self, device: Device) -> Sequence[Job]:
        """Everything planned for the device of that name."""
        return self.planned(device.name)

    def planned(self, name: str) -> Sequence[Job]:
        """Initial plan and rounds of search in their order, then the rounds for this device alone."""
        with self._lock:
            plans = {path: path.stat().st_mtime_ns for path in self.run.plans.glob("[!.]*.json")}
            known, jobs = self._jobs.get(name, (None, []))
            if known != plans:
                archs = list(dict.fromkeys(a for plan in search_plans(self.run, name) for a in plan.archs))
                archs = archs[: self.n]
                supernet = self.run.untrained_supernet
                macs = supernet.macs(supernet.space.encode(archs))
                self._archs |= {(arch.id, arch.resolution): arch for arch in archs}
                jobs = [Job(arch.id, arch.resolution, int(n), str(arch)) for arch, n in zip(archs, macs, strict=True)]
                self._jobs[name] = plans, jobs
            return jobs

    def model(self, key: str, resolution: int, batch_size: int) -> bytes:
        """Its weights are those of a network that was never trained: latency does not depend on them."""
        with self._lock:  # one at a time: torch is not asked to trace from two threads
            if key == REFERENCE:
                workload = reference_workload()
                shape = (batch_size, workload.channels, workload.resolution, workload.resolution)
                return export_onnx(workload.model, shape)  # type: ignore[arg-type]
            arch = self._archs[key, resolution]
            shape = (batch_size, self.run.data.in_channels, arch.resolution, arch.resolution)
            return export_onnx(self.run.untrained_supernet.extract(arch).eval(), shape)

    def register(self, device: Device) -> Device:
        """Known devices keep their name; a new one gets ours, with its provider or a number where ours is taken."""
        with self._lock:
            known = self.run.added_devices()
            for other in known.values():
                if other == device:
                    return other
            names = [self.name, f"{self.name}-{device.provider}", *(f"{self.name}-{i}" for i in range(2, 1000))]
            return self._add(next(name for name in names if name not in known and _NAME.fullmatch(name)), device)

    def register_alone(self, device: Device) -> Device:
        """The device under our name and no other.

        Raises:
            ValueError: the name is that of another device.
        """
        known = self.run.added_devices().get(self.name)
        if known is not None and known != device:
            raise ValueError(
                f"{known}; this result is of another device, {device.hardware}, {device.runtime} "
                f"{device.runtime_version}: give it a name of its own with --device"
            )
        return known or self._add(self.name, device)

    def _add(self, name: str, device: Device) -> Device:
        named = dataclasses.replace(device, name=name)
        write_json(self.run.devices / f"{name}.json", named.to_dict())
        return named

    def store(self) -> AbstractContextManager[Store]:
        return self.run.store()


class StoredProfiler:
    """A `Profiler` of an added device: it hands out what the device has measured already.

    Args:
        run: whose store is read.
        name: of the device.

    Raises:
        ValueError: there is no such device.
    """

    def __init__(self, run: RunFolder, name: str) -> None:
        self.run = run
        self._device = run.added_device(name)

    @property
    def device(self) -> Device:
        return self._device

    def measure(
        self, workloads: Iterable[Workload], failed: OnFailure | None = None, on_turn: OnTurn | None = None
    ) -> Iterator[Measurement]:
        """See `Profiler.measure`.

        Raises:
            ValueError: something was not measured yet; the message says how to have it measured.
        """
        wanted = [(workload.key, workload.resolution) for workload in workloads]
        with self.run.store() as store:
            missing = [where for where in wanted if not store.has_measurement(*where, self.device)]
            if missing:
                raise ValueError(
                    f"{self.device.name} has {len(missing)} sub-networks still to measure: "
                    f"`supernet device serve {self.run.path} --device {self.device.name}` for a browser, "
                    "`supernet device ssh` or `bundle` for a host; then the same command again"
                )
            yield from (store.measurement(*where, self.device) for where in wanted)
