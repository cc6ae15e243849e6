"""Measuring what plans name, in sessions that share anchors; and what is compared, side by side in one of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from torch import nn

from experiments.budgets import signed_share
from experiments.goals import goals
from experiments.measuring.devices import create_profiler
from experiments.measuring.remote import StoredProfiler
from experiments.plans import anchors
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from hardware.device import Device
from hardware.loop.measurement import Measurement, Measurements
from hardware.loop.measuring import Watcher, measure
from hardware.loop.session import Network, Session
from hardware.loop.turns import Sampling
from hardware.profiling import Profiler, Workload
from hardware.store.store import Store
from supernet.architecture import Architecture

__all__ = [
    "Networks",
    "Setup",
    "Tally",
    "architectures",
    "measure_anew",
    "measure_architectures",
    "measure_missing",
    "measure_side_by_side",
    "measured_architectures",
    "models",
    "profilers",
    "sampling",
]  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """What became of networks that were to be measured on one device."""

    measured: int
    failed: int
    left: int  # not begun before the deadline
    seconds: float


@dataclass(frozen=True)
class Networks:
    """Networks by key and resolution, and how each becomes a workload when its turn comes."""

    names: tuple[Network, ...]
    make: Callable[[Network], Workload]

    def __add__(self, other: Networks) -> Networks:
        mine = set(self.names)
        names = (*self.names, *(name for name in other.names if name not in mine))
        return Networks(names, lambda name: self.make(name) if name in mine else other.make(name))

    def only(self, names: Sequence[Network]) -> Networks:
        """Those of `names`."""
        return Networks(tuple(names), self.make)


@dataclass(frozen=True)
class Setup:
    """What all sessions of a run have in common."""

    sampling: Sampling
    anchors: Networks  # take part in every session
    files: dict[tuple[Network, int], Workload] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, run: RunFolder) -> Setup:
        """That of a run."""
        return _setup(run)

    def beside(self, device: Device) -> list[Workload]:
        """The anchors for a device. As files they are written once, however many sessions there are: networks that
        ONNX has no short way for take seconds each."""
        if device.runtime != "onnxruntime" or device.precision == "int8":
            return [self.anchors.make(name) for name in self.anchors.names]
        from hardware.onnx.workload import onnx_file

        found = []
        for name in self.anchors.names:
            at = name, device.batch_size
            if at not in self.files:
                workload = self.anchors.make(name)
                shape = (device.batch_size, workload.channels, workload.resolution, workload.resolution)
                with contextlib.suppress(ValueError):  # what cannot be written is told when it is its turn
                    workload = replace(workload, model=onnx_file(workload, shape))
                self.files[at] = workload
            found.append(self.files[at])
        return found


@lru_cache(maxsize=1)
def _setup(run: RunFolder) -> Setup:
    return Setup(sampling(run), architectures(run, anchors(run)))


def profilers(run: RunFolder, device: str | None = None) -> list[Profiler | StoredProfiler]:
    """One profiler for every device of the recipe, in its order, and for added ones that an objective is about; or that
    of one device, which may be an added one.

    Raises:
        ValueError: there is no device of that name.
    """
    chosen = [settings for settings in run.recipe.devices if device in (None, settings.name)]
    if not chosen and device is not None:
        return [StoredProfiler(run, device)]
    found: list[Profiler | StoredProfiler] = [create_profiler(settings) for settings in chosen]
    if device is None:  # an objective may be about a device that was added
        own = {settings.name for settings in run.recipe.devices}
        named = dict.fromkeys(name for goal in goals(run) for name in goal.devices if name not in own)
        found += [StoredProfiler(run, name) for name in named]
    return found


def sampling(run: RunFolder) -> Sampling:
    """How long the recipe has things measured."""
    settings = run.recipe.measure
    return Sampling(settings.relative_half_width, max_turns=settings.max_turns, seed=run.recipe.seed)


def architectures(run: RunFolder, archs: Sequence[Architecture]) -> Networks:
    """Sub-networks to measure. Latency does not depend on the weights, so the supernet need not be trained."""
    supernet, channels = run.untrained_supernet, run.data.in_channels
    named = {(arch.id, arch.resolution): arch for arch in archs}

    def workload(network: Network) -> Workload:
        return Workload(network[0], supernet.extract(named[network]).eval(), network[1], channels)

    return Networks(tuple(named), workload)


def models(run: RunFolder, found: Mapping[str, nn.Module]) -> Networks:
    """Ordinary networks to measure, at the largest resolution."""
    resolution, channels = run.data.resolution, run.data.in_channels
    return Networks(
        tuple((key, resolution) for key in found), lambda name: Workload(name[0], found[name[0]], resolution, channels)
    )


def measure_architectures(
    run: RunFolder, archs: Sequence[Architecture], report: Reporter, device: str | None = None
) -> int:
    """Measure those sub-networks, on every device or on one, that were not; returns how many were.

    What does not run on a device is written down as its failure and is not tried again.
    """
    with run.store() as store:
        return sum(
            measure_missing(Setup.of(run), store, profiler, architectures(run, archs), report).measured
            for profiler in profilers(run, device)
        )


def measured_architectures(
    measurements: Measurements, archs: Sequence[Architecture]
) -> dict[Architecture, Measurement]:
    """The measurements of those of `archs` that were measured; others do not run on the device."""
    return {
        arch: measurements[arch.id, arch.resolution]
        for arch in dict.fromkeys(archs)
        if (arch.id, arch.resolution) in measurements
    }


def measure_missing(
    setup: Setup,
    store: Store,
    profiler: Profiler | StoredProfiler,
    networks: Networks,
    report: Reporter,
    *,
    deadline: float | None = None,
    again: bool = False,
) -> Tally:
    """Measure those networks that were neither measured on this device nor failed there, in their order.

    A network is made only when its turn comes. At the deadline, a time of `time.monotonic`, which no change of the
    clock moves, no new one is begun; what has begun is finished, and one always begins. What does not run is written
    down with the reason. A session is stored as it goes on, so that a kill loses a second of it.

    Args:
        again: whether to measure in a new session what was measured already.

    Raises:
        OSError: the device has gone, or the store cannot be written; what was measured before is stored.
    """
    device = profiler.device
    known = store.failed(device) | (set() if again else store.measured(device, at_least=setup.sampling.min_turns))
    waiting = [network for network in networks.names if network not in known]
    if not waiting:
        return Tally(0, 0, 0, 0.0)
    if isinstance(profiler, StoredProfiler):
        profiler.require(waiting)
        return Tally(0, 0, 0, 0.0)
    store.add_planned(waiting, device)
    purpose = "again" if again else "planned"
    return _measure(setup, store, profiler, networks.only(waiting), report, purpose, deadline)[0]


def measure_side_by_side(
    setup: Setup, store: Store, profiler: Profiler | StoredProfiler, networks: Networks, report: Reporter
) -> Session | None:
    """Measure all of these in one session with the anchors, unless one has them; None where they do not fit into one.

    What is compared is measured so: time decides nothing between them.
    """
    device = profiler.device
    failed = store.failed(device)
    wanted = [network for network in networks.names if network not in failed]
    if isinstance(profiler, StoredProfiler):
        profiler.require(wanted, final=True)
    for session in reversed(store.sessions(device)):
        if session.purpose == "final" and session.holds(wanted, setup.sampling.min_turns):
            return session
    if isinstance(profiler, StoredProfiler):
        return None
    _, sessions = _measure(setup, store, profiler, networks.only(wanted), report, "final", None)
    return sessions[0] if len(sessions) == 1 else None


def measure_anew(
    setup: Setup, store: Store, profiler: Profiler | StoredProfiler, networks: Networks, report: Reporter
) -> Session:
    """Measure all of these side by side with the anchors in a session of its own, whatever was measured before.

    A device elsewhere is asked for one session that has all of them; one that it has measured already is taken.

    Raises:
        ValueError: they do not fit into one session, or the device elsewhere has still to measure them.
    """
    if isinstance(profiler, StoredProfiler):
        found = measure_side_by_side(setup, store, profiler, networks, report)
    else:
        _, sessions = _measure(setup, store, profiler, networks, report, "again", None)
        found = sessions[0] if len(sessions) == 1 else None
    if found is None:
        raise ValueError(f"{len(networks.names)} networks do not fit into one session on {profiler.device.name}")
    return found


def _measure(
    setup: Setup,
    store: Store,
    profiler: Profiler,
    networks: Networks,
    report: Reporter,
    purpose: str,
    deadline: float | None,
) -> tuple[Tally, list[Session]]:
    waiting = networks.names
    started = time.monotonic()
    device = profiler.device

    def workloads() -> Iterator[Workload]:
        for network in waiting:
            yield networks.make(network)
            if deadline is not None and time.monotonic() >= deadline:
                return

    with report.bar(f"measuring on {device.name}", len(waiting)) as advance:
        watcher = _Watcher(store, device, report, advance, waiting)
        sessions = []
        for session in measure(
            profiler,
            workloads(),
            setup.sampling,
            anchors=setup.beside(device),
            purpose=purpose,
            watcher=watcher,
        ):
            watcher.finished(session)
            sessions.append(session)
    for line in watcher.waited:
        report.say(f"    {line}")
    if watcher.failures:
        report.say(f"    {len(watcher.failures)} do not run there, the first: {watcher.failures[0]}")
    report.say(f"  {device.name}: {_summary(sessions, set(waiting))}")
    left = len(watcher.wanted - watcher.done)
    failed = len(watcher.failures)
    return Tally(len(watcher.done) - failed, failed, left, time.monotonic() - started), sessions


def _summary(sessions: Sequence[Session], wanted: set[Network]) -> str:
    """What was measured and how well, in one line."""
    if not sessions:
        return "nothing was measured"
    widths = [width for session in sessions for width in session.fit.half_widths().tolist()]
    low, high = min(s.spread[0] for s in sessions) - 1, max(s.spread[1] for s in sessions) - 1
    n = len({name for session in sessions for name in session.names if name in wanted})
    beside = " side by side" if len(sessions) == 1 else f" in {len(sessions)} sessions"
    turns = "/".join(str(session.n_turns) for session in sessions)
    return (
        f"{n} measured{beside} ({turns} turns), relative latencies to ±{sorted(widths)[len(widths) // 2]:.1%}; "
        f"meanwhile the machine's speed moved by {signed_share(low)} to {signed_share(high)}"
    )


class _Watcher(Watcher):
    """Stores sessions as they go on, and shows them."""

    def __init__(
        self,
        store: Store,
        device: Device,
        report: Reporter,
        advance: Callable[[float, str], None],
        wanted: Sequence[Network],
    ) -> None:
        self.store, self.device, self.report, self.advance = store, device, report, advance
        self.wanted = set(wanted)
        self.done: set[Network] = set()  # measured or failed
        self.failures: list[str] = []
        self.waited: dict[str, None] = {}

    def failed(self, workload: Workload, reason: str) -> None:
        if workload.name in self.wanted:
            self.store.add_failure(*workload.name, self.device, reason)
            self.done.add(workload.name)
            self.failures.append(reason if workload.key in reason else f"{workload.key}: {reason}")

    def progressed(self, session: Session, share: float) -> None:
        self.store.add_session(session)
        n = len(self.wanted.intersection(network.name for network in session.networks) - self.done)
        self.advance(len(self.done) + share * n, f"{n} side by side, turn {session.n_turns}")

    def waits(self, reason: str, seconds: float) -> None:
        self.waited[f"{reason}: waited, and measured again"] = None

    def finished(self, session: Session) -> None:
        self.store.add_session(session)
        self.done |= self.wanted.intersection(session.names)
        self.advance(len(self.done), "")
