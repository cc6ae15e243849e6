"""Who measures what: the open jobs of every device, lent to clients for a while, and what comes back."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np

from hardware.device import Device
from hardware.loop.session import Network, Session
from hardware.remote.judging import judge
from hardware.remote.refusals import Refusals
from hardware.remote.submission import PostedFailure, Stretch, one_line
from hardware.remote.work import Job, Work, WorkSource

__all__ = ["Board", "DeviceProgress", "Outcome", "Result"]

_REFUSALS = 3  # of one network on one device; then it counts as failed
_NEW_LEVEL = 1.25  # how many times as slow or fast everything is, before it is said


@dataclass(frozen=True)
class DeviceProgress:
    """How far a device is."""

    total: int
    done: int
    failed: int
    lent: int  # to all clients together
    side_by_side: int  # that have still to be measured in one session, once all are measured

    @property
    def finished(self) -> bool:
        """Whether nothing is left that could be measured."""
        return self.done + self.failed >= self.total and not self.side_by_side


@dataclass(frozen=True)
class Result:
    """A network of a session, as the analysis of that session alone has it."""

    key: str
    resolution: int  # pixels
    latency: float  # seconds
    interval: tuple[float, float]  # seconds; relative to the other networks of the session
    new: bool  # whether it was not measured before


@dataclass(frozen=True)
class Outcome:
    """What became of what a client posted."""

    session: Session | None  # None where nothing was measured, or too little to say anything
    results: tuple[Result, ...] = ()
    known: bool = False  # it was posted before
    refused: tuple[str, ...] = ()  # why, one line each
    doubts: tuple[str, ...] = ()  # what a person should know, and can do about it

    @property
    def n_new(self) -> int:
        """Networks that were not measured before."""
        return sum(result.new for result in self.results)

    @property
    def half_width(self) -> float:
        """How well relative latencies are known, as a share: that of the network in the middle."""
        assert self.session is not None
        return float(np.median(self.session.fit.half_widths()))

    def __str__(self) -> str:
        if self.session is None:
            return "nothing was measured"
        networks = f"{len(self.results)} network{'' if len(self.results) == 1 else 's'}"
        final = ", all that is compared" if self.session.purpose == "final" else ""
        turns = f"{self.session.n_turns} turns"
        return f"session of {networks}{final}, {turns}, relative latencies to ±{self.half_width:.1%}"


class Board:
    """The work of all devices of one server; every method may be called from any thread.

    A job is lent to one client of a device at a time, so that clients of equal devices share the work; what has to be
    measured side by side is lent to one of them as a whole. A client that is not heard of for `lease_seconds` loses
    what it was lent; what it measured nevertheless is still taken.

    Args:
        source: what is to be measured, and where it goes.
        refusals: where it is written down what was not believed.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        source: WorkSource,
        refusals: Refusals,
        lease_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = source
        self.refusals = refusals
        self.lease_seconds = lease_seconds
        self.clock = clock
        self._lock = threading.RLock()
        self._leases: dict[tuple[str, Network | None], str] = {}  # fingerprint and job, None for a final session
        self._heard: dict[str, float] = {}  # client → time
        self._n_refused: Counter[tuple[str, Network]] = Counter()
        self._last: dict[str, Session] = {}  # by fingerprint

    # -- what is to be done -------------------------------------------------------------------------------------------

    def lease(self, client: str, device: Device) -> Work:
        """A session's worth of open jobs of the device that no other client has; those that the client has already come
        first. When all are measured, what is to be measured side by side. No jobs: there is nothing to do now."""
        with self._lock:
            self.renew(client)
            self._expire()
            work = self.work(device)
            if work.purpose == "planned":
                work = self._session(work, client, device)
                self._leases |= {(device.fingerprint, job.name): client for job in work.jobs}
            elif self._holder(device, None) not in (None, client):
                return Work("final", work.anchors)
            elif work.jobs:
                self._leases[device.fingerprint, None] = client
            return work

    def _session(self, work: Work, client: str, device: Device) -> Work:
        """As much of the work as fits beside the anchors and is not lent to others."""
        mine = [job for job in work.jobs if self._holder(device, job.name) == client]
        free = [job for job in work.jobs if self._holder(device, job.name) is None]
        room = self.source.sampling.session_networks - len(work.anchors)
        chosen = [job for job in (*mine, *free) if job in work.anchors]
        chosen += [job for job in (*mine, *free) if job not in work.anchors][: max(1, room)]
        return Work(work.purpose, work.anchors, tuple(chosen))

    def work(self, device: Device) -> Work:
        """Everything that the device has still to measure, lent or not."""
        failed = self.failed(device)
        anchors = tuple(job for job in self.source.anchors(device) if job.name not in failed)
        if open_jobs := self.open(device):
            return Work("planned", anchors, tuple(open_jobs))
        return Work("final", anchors, tuple(self._side_by_side(device)))

    def open(self, device: Device) -> list[Job]:
        """What the device neither measured nor failed to run."""
        done = self._measured(device) | self.failed(device)
        return [job for job in self.source.jobs(device) if job.name not in done]

    def jobs(self, device: Device) -> dict[Network, Job]:
        """Everything that may be measured on the device."""
        source = self.source
        everything = (*source.jobs(device), *source.anchors(device), *source.side_by_side(device))
        return {job.name: job for job in everything}

    def renew(self, client: str) -> None:
        """The client is still there."""
        with self._lock:
            self._heard[client] = self.clock()

    def release(self, client: str) -> None:
        """The client gives back everything it was lent."""
        with self._lock:
            self._heard.pop(client, None)
            self._leases = {lent: holder for lent, holder in self._leases.items() if holder != client}

    def progress(self, device: Device) -> DeviceProgress:
        """How far the device is."""
        with self._lock:
            self._expire()
            jobs = self.source.jobs(device)
            failed, n_open = self.failed(device), len(self.open(device))
            n_failed = sum(job.name in failed for job in jobs)
            lent = sum(fingerprint == device.fingerprint and name is not None for fingerprint, name in self._leases)
            beside = 0 if n_open else len(self._side_by_side(device))
            return DeviceProgress(len(jobs), len(jobs) - n_open - n_failed, n_failed, lent, beside)

    def _side_by_side(self, device: Device) -> list[Job]:
        failed = self.failed(device)
        return [job for job in self.source.side_by_side(device) if job.name not in failed]

    def failed(self, device: Device) -> set[Network]:
        """What the device cannot run, which is not tried again."""
        with self.source.store() as store:
            return store.failed(device)

    def _measured(self, device: Device) -> set[Network]:
        with self.source.store() as store:
            return store.measured(device, self.source.sampling.min_turns)

    # -- what comes back ----------------------------------------------------------------------------------------------

    def accept(
        self,
        client: str,
        device: Device,
        posted: Stretch,
        *,
        identity: str | None = None,
        began: float | None = None,
        ago: float = 0.0,
        notes: tuple[str, ...] = (),
    ) -> Outcome:
        """Take what a client has measured: each network on its own, so that a bad one does not cost the others.

        Args:
            identity: of the session, the same for every part of it; default, of exactly what was posted.
            began: seconds since 1970; default, so that its last turn was `ago` seconds before now.

        Raises:
            ValueError: there is nothing in it that could be used.
        """
        with self._lock:
            self.renew(client)
            jobs = self.jobs(device)
            names = {one.name for one in (*posted.networks, *posted.failures)}
            self._leases = {
                (fingerprint, name): holder
                for (fingerprint, name), holder in self._leases.items()
                if not (fingerprint == device.fingerprint and (name in names or (name, holder) == (None, client)))
            }
            for failure in posted.failures:
                self._fail(device, failure, planned=failure.name in jobs)
            if not posted.networks:
                return Outcome(None)
            failed = self.failed(device)
            anchors = {job.name for job in self.source.anchors(device)} - failed
            judged = judge(posted, device, jobs, anchors, self.source.sampling.max_turns)
            for name, reason in judged.refused.items():
                self._refuse(device, name, one_line(reason), planned=name in jobs)
            refused = tuple(one_line(reason) for reason in judged.refused.values())
            session = judged.session(
                device,
                id=identity or _identity(posted, device),
                began=_before_now(judged.started) - ago if began is None else began,
                purpose=posted.purpose,
                notes=notes,
            )
            if not session.measured:
                return Outcome(None, refused=refused)
            if session.purpose == "final" and not self._is_final(session, device):
                session = replace(session, purpose="planned")
            before = self._measured(device)
            doubts = tuple(self._doubts(session))
            with self.source.store() as store:
                known = store.add_session(session) == 0
            if not known:
                self._last[device.fingerprint] = session
            return Outcome(session, tuple(_results(session, before)), known, refused, doubts)

    def _is_final(self, session: Session, device: Device) -> bool:
        """Whether it has everything that was to be measured side by side; else it is a session as any other."""
        wanted = {job.name for job in self._side_by_side(device)}
        return bool(wanted) and session.holds(wanted, self.source.sampling.min_turns)

    def _doubts(self, session: Session) -> list[str]:
        doubts, wanted = [], self.source.sampling.relative_half_width
        found = float(np.median(session.fit.half_widths()))
        if found > wanted:
            doubts.append(
                f"relative latencies are known to ±{found:.1%} only, wanted was ±{wanted:.1%}; close other programs on "
                "the device, or allow more turns"
            )
        fingerprint = session.device.fingerprint
        if fingerprint not in self._last:
            with self.source.store() as store:
                before = [one for one in store.sessions(session.device) if one.measured and one.id != session.id]
            if before:
                self._last[fingerprint] = before[-1]
        last = self._last.get(fingerprint)
        shared = set(session.names).intersection(last.names) if last is not None else set()
        if last is not None and last.id != session.id and shared:
            factor = float(np.exp(np.median(_levels(session, shared) - _levels(last, shared))))
            if not 1 / _NEW_LEVEL < factor < _NEW_LEVEL:
                how = f"{max(factor, 1 / factor):.1f} times {'slower' if factor > 1 else 'faster'}"
                doubts.append(
                    f"everything ran {how} than in the session before on this device; let it cool down "
                    "and plug it in, or give another device a name of its own"
                )
        return doubts

    def _refuse(self, device: Device, name: Network, reason: str, *, planned: bool) -> None:
        self.refusals.add(device, name, reason)
        self._n_refused[device.fingerprint, name] += 1
        if planned and self._n_refused[device.fingerprint, name] >= _REFUSALS:
            self._give_up(device, name, f"refused {_REFUSALS} times: {reason}")

    def _fail(self, device: Device, failure: PostedFailure, *, planned: bool) -> None:
        if planned and failure.name not in self.failed(device):
            self._give_up(device, failure.name, one_line(failure.reason))

    def _give_up(self, device: Device, name: Network, reason: str) -> None:
        with self.source.store() as store:
            store.add_failure(*name, device, reason)

    def _holder(self, device: Device, name: Network | None) -> str | None:
        return self._leases.get((device.fingerprint, name))

    def _expire(self) -> None:
        oldest = self.clock() - self.lease_seconds
        for client in [client for client, heard in self._heard.items() if heard < oldest]:
            self.release(client)


def _identity(posted: Stretch, device: Device) -> str:
    """Sixteen hexadecimal digits: what is posted twice is one session."""
    return hashlib.sha256(f"{posted.model_dump_json()}{device.fingerprint}".encode()).hexdigest()[:16]


def _before_now(started: np.ndarray) -> float:
    """When a session began whose last turn is now, in seconds since 1970."""
    there = started[~np.isnan(started)]
    return time.time() - (float(there.max()) if len(there) else 0.0)


def _levels(session: Session, names: Collection[Network]) -> np.ndarray:
    """(n,) log latencies of measured networks, in the order of their names."""
    level = dict(zip(session.names, session.fit.levels, strict=True))
    return np.array([level[name] for name in sorted(names)])


def _results(session: Session, before: Collection[Network]) -> list[Result]:
    fit = session.fit
    return [
        Result(
            *name, float(np.exp(level)), (float(np.exp(level - half)), float(np.exp(level + half))), name not in before
        )
        for name, level, half in zip(session.names, fit.levels, fit.half_widths(), strict=True)
    ]
