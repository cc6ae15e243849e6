"""Devices that were added to a run: what they are to measure, what they measured, and how the verbs use it."""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from experiments.plans import N_ANCHORS, device_plans, initial_plan
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.loop.session import Network
from hardware.loop.turns import Sampling
from hardware.onnx.export import export_onnx
from hardware.remote.refusals import Refusals
from hardware.remote.work import Job
from supernet.architecture import Architecture
from supernet.files import write_json

if TYPE_CHECKING:
    from hardware.store.store import Store

__all__ = ["RunWork", "StoredProfiler", "check_name", "how_to_measure", "refusals", "runnable"]

# Fewer than on this machine: a phone has less memory, and may be taken away before a long session ends.
_SESSION_NETWORKS = 40
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


def refusals(run: RunFolder) -> Refusals:
    """What added devices sent and was not believed."""
    return Refusals(run.devices / "refused.jsonl")


def runnable(run: RunFolder, name: str, archs: Sequence[Architecture]) -> list[Architecture]:
    """Those that the added device did not fail to run."""
    with run.store() as store:
        failed = store.failed(run.added_device(name))
    return [arch for arch in archs if (arch.id, arch.resolution) not in failed]


class RunWork:
    """The planned sub-networks of a run as work for devices elsewhere; see `hardware.remote.work.Campaign`.

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
        self.sampling = _sampling(run)
        self._lock = threading.RLock()
        self._jobs: dict[str, tuple[object, list[Job]]] = {}  # by device, with the state of the plans it is for
        self._final: dict[str, tuple[object, list[Job]]] = {}  # likewise; emptied when they have been measured
        self._archs: dict[Network, Architecture] = {}
        initial_plan(run)

    def jobs(self, device: Device) -> Sequence[Job]:
        """Everything planned for the device of that name."""
        return self.planned(device.name)

    def planned(self, name: str) -> Sequence[Job]:
        """Initial plan and rounds of search in their order, then the rounds and the campaign for this device alone."""
        with self._lock:
            plans = {path: path.stat().st_mtime_ns for path in self.run.plans.glob("[!.]*.json")}
            known, jobs = self._jobs.get(name, (None, []))
            if known != plans:
                archs = list(dict.fromkeys(a for plan in device_plans(self.run, name) for a in plan.archs))
                jobs = self._as_jobs(archs[: self.n])
                self._jobs[name] = plans, jobs
            return jobs

    def anchors(self, device: Device) -> Sequence[Job]:
        """The first of the initial plan, as on this machine."""
        return self.first(device.name)

    def first(self, name: str) -> Sequence[Job]:
        """The anchors of the device of that name."""
        return self.planned(name)[:N_ANCHORS]

    def side_by_side(self, device: Device) -> Sequence[Job]:
        """What the search for this device wants measured in one session, until a session has all of it."""
        with self._lock:
            path = self.run.plan_file("final", device=device.name)
            if not path.exists():
                return []
            state = path.stat().st_mtime_ns
            known, jobs = self._final.get(device.name, (None, []))
            if known != state:
                plan = self.run.plan("final", device=device.name)
                jobs = self._as_jobs(plan.archs if plan else ())
            with self.store() as store:
                names = {job.name for job in jobs} - store.failed(device)
            if names and _measured_side_by_side(self.run, device, names, self.sampling.min_turns):
                jobs = []
            self._final[device.name] = state, jobs
            return jobs

    def model(self, key: str, resolution: int, batch_size: int) -> bytes:
        """Its weights are those of a network that was never trained: latency does not depend on them."""
        with self._lock:  # one at a time: torch is not asked to trace from two threads
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

    def _as_jobs(self, archs: Sequence[Architecture]) -> list[Job]:
        if not archs:
            return []
        supernet = self.run.untrained_supernet
        macs = supernet.macs(supernet.space.encode(archs))
        self._archs |= {(arch.id, arch.resolution): arch for arch in archs}
        return [Job(arch.id, arch.resolution, int(n), str(arch)) for arch, n in zip(archs, macs, strict=True)]


class StoredProfiler:
    """An added device, which this machine cannot make measure: it can only ask for what it needs.

    Args:
        run: whose store is read.
        name: of the device.

    Raises:
        ValueError: there is no such device.
    """

    def __init__(self, run: RunFolder, name: str) -> None:
        self.run = run
        self.device = run.added_device(name)

    def require(self, networks: Iterable[Network], final: bool = False) -> None:
        """See that the device has measured these, but for those that it cannot run.

        Args:
            final: all in one session, side by side.

        Raises:
            ValueError: it has not; the message says how to have it done.
        """
        min_turns = _sampling(self.run).min_turns
        with self.run.store() as store:
            wanted = set(networks) - store.failed(self.device)
            missing = wanted - store.measured(self.device, min_turns)
        if missing:
            what = f"{len(missing)} sub-networks still to measure"
        elif final and wanted and not _measured_side_by_side(self.run, self.device, wanted, min_turns):
            what = f"{len(wanted)} sub-networks still to measure side by side, in one session"
        else:
            return
        raise ValueError(f"{self.device.name} has {what}: {how_to_measure(self.run, self.device.name)}")


def how_to_measure(run: RunFolder, name: str) -> str:
    """What to do to have a device elsewhere measure."""
    return (
        f"`supernet device serve {run.path} --device {name}` for a browser, "
        "`supernet device ssh` or `kit` for a host; then the same command again"
    )


def _sampling(run: RunFolder) -> Sampling:
    """How devices elsewhere measure."""
    settings = run.recipe.measure
    return Sampling(
        settings.relative_half_width,
        max_turns=settings.max_turns,
        session_networks=_SESSION_NETWORKS,
        seed=run.recipe.seed,
    )


def _measured_side_by_side(run: RunFolder, device: Device, networks: Collection[Network], min_turns: int) -> bool:
    with run.store() as store:
        if not store.measured(device, min_turns).issuperset(networks):  # the quick question first
            return False
        sessions = store.sessions(device)
    return any(session.purpose == "final" and session.holds(networks, min_turns) for session in sessions)
