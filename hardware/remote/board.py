"""Who measures what: the open jobs of every device, lent to clients for a while, and what comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from hardware.device import Device
from hardware.measurement import Measurement
from hardware.remote.campaign import Campaign, Job
from hardware.remote.journal import Journal
from hardware.remote.submission import Failure, Group, Result, believed, one_line

__all__ = ["Board", "Outcome", "Progress"]

_REFUSALS = 3  # of one network on one device; then it counts as failed

Where = tuple[str, int]  # key and resolution


@dataclass(frozen=True)
class Progress:
    """How far a device is."""

    total: int
    done: int
    failed: int
    lent: int  # to all clients together

    @property
    def finished(self) -> bool:
        """Whether nothing is left that could be measured."""
        return self.done + self.failed >= self.total


@dataclass(frozen=True)
class Outcome:
    """What became of a group that a client posted."""

    added: tuple[Measurement, ...]
    known: int  # measured before, by this client or by another
    refused: tuple[str, ...]  # why, one line each


class Board:
    """The work of all devices of one server; every method may be called from any thread.

    A job is lent to one client of a device at a time, so that clients of equal devices share the work. A client that
    is not heard of for `lease_seconds` loses what it was lent; what it measured nevertheless is still taken.

    Args:
        campaign: what is to be measured, and where it goes.
        journal: where failures and refusals are written down; what is in it is not tried again.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        campaign: Campaign,
        journal: Journal,
        lease_seconds: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.campaign = campaign
        self.journal = journal
        self.lease_seconds = lease_seconds
        self.clock = clock
        self._lock = threading.RLock()
        self._leases: dict[tuple[str, Where], str] = {}  # fingerprint and job → client
        self._heard: dict[str, float] = {}  # client → time
        self._refusals: Counter[tuple[str, Where]] = Counter()

    def lease(self, client: str, device: Device, n: int) -> list[Job]:
        """Up to `n` open jobs of the device that no other client has; those that the client has already come first."""
        with self._lock:
            self.renew(client)
            self._expire()
            open_jobs = self.open(device)
            mine = [job for job in open_jobs if self._holder(device, job) == client]
            free = [job for job in open_jobs if self._holder(device, job) is None]
            chosen = [*mine, *free][:n]
            for job in chosen:
                self._leases[device.fingerprint, (job.key, job.resolution)] = client
            return chosen

    def renew(self, client: str) -> None:
        """The client is still there."""
        with self._lock:
            self._heard[client] = self.clock()

    def release(self, client: str) -> None:
        """The client gives back everything it was lent."""
        with self._lock:
            self._heard.pop(client, None)
            self._leases = {lent: holder for lent, holder in self._leases.items() if holder != client}

    def progress(self, device: Device) -> Progress:
        """How far the device is."""
        with self._lock:
            self._expire()
            jobs = self.campaign.jobs(device)
            failed, n_open = self.journal.failed(device.fingerprint), self.open(device)
            wheres = {(job.key, job.resolution) for job in jobs}
            lent = sum(fingerprint == device.fingerprint for fingerprint, _ in self._leases)
            n_failed = len(wheres & failed)
            return Progress(len(jobs), len(jobs) - len(n_open) - n_failed, n_failed, lent)

    def level(self, device: Device) -> float | None:
        """Median seconds of the reference network over what was measured on the device; None if nothing was."""
        with self.campaign.store() as store:
            levels = [median(m.reference_seconds) for m in store.measurements(device) if m.reference_seconds]
        return median(levels) if levels else None

    def accept(self, client: str, device: Device, group: Group) -> Outcome:
        """Take what a client has measured: each network on its own, so that a bad one does not cost the others."""
        with self._lock:
            self.renew(client)
            jobs = {(job.key, job.resolution): job for job in self.campaign.jobs(device)}
            level = self.level(device)
            added, refused, known = [], [], 0
            for result in group.results:
                where = (result.key, result.resolution)
                try:
                    measurement = self._believed(result, jobs.get(where), device, group, level)
                except ValueError as error:
                    refused.append(one_line(str(error)))
                    self._refuse(device, where, refused[-1], planned=where in jobs)
                else:
                    with self.campaign.store() as store:
                        new = store.add_measurement(measurement)
                    added += [measurement] if new else []
                    known += not new
                self._leases.pop((device.fingerprint, where), None)
            for failure in group.failures:
                self._fail(device, failure, planned=(failure.key, failure.resolution) in jobs)
            return Outcome(tuple(added), known, tuple(refused))

    def _believed(
        self, result: Result, job: Job | None, device: Device, group: Group, level: float | None
    ) -> Measurement:
        if job is None:
            raise ValueError(f"{result.key} at {result.resolution} px was never asked for")
        reference = group.reference_seconds or (), group.reference_started or ()
        return believed(result, job, device, *reference, level, self.campaign.sampling)

    def _refuse(self, device: Device, where: Where, reason: str, *, planned: bool) -> None:
        self.journal.write("refused", device, where, reason)
        self._refusals[device.fingerprint, where] += 1
        if planned and self._refusals[device.fingerprint, where] >= _REFUSALS:
            self.journal.write("failed", device, where, f"refused {_REFUSALS} times: {reason}")

    def _fail(self, device: Device, failure: Failure, *, planned: bool) -> None:
        where = (failure.key, failure.resolution)
        if planned and where not in self.journal.failed(device.fingerprint):
            self.journal.write("failed", device, where, one_line(failure.reason))
        self._leases.pop((device.fingerprint, where), None)

    def open(self, device: Device) -> list[Job]:
        """What the device neither measured nor failed to run."""
        with self.campaign.store() as store:
            done = {(m.key, m.resolution) for m in store.measurements(device)}
        done |= self.journal.failed(device.fingerprint)
        return [job for job in self.campaign.jobs(device) if (job.key, job.resolution) not in done]

    def _holder(self, device: Device, job: Job) -> str | None:
        return self._leases.get((device.fingerprint, (job.key, job.resolution)))

    def _expire(self) -> None:
        oldest = self.clock() - self.lease_seconds
        for client in [client for client, heard in self._heard.items() if heard < oldest]:
            self.release(client)
