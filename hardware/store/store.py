"""The store: every session, failure and score of a run in one SQLite file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hardware.device import Device
from hardware.loop.measurement import Measurements
from hardware.loop.session import FEWEST_TURNS, Network, Session
from hardware.store.database import Database
from hardware.store.rows import Failure, Record, Score, check_row, device_of, numbers, place, score_of, session_of
from hardware.store.schema import CHECKED, checksum

__all__ = ["Failure", "Record", "Score", "Store"]


class Store:
    """Sessions with every repeat, and scores, one for each (key, digest, split); beside them what failed on which
    device, and what was planned there.

    Every add is a transaction of its own that is on the disk when the method returns, so a kill loses nothing, and
    several processes may write at once. What is there is never changed, but for the name of a device: adding the same a
    second time keeps the first.
    A network may be measured in any number of sessions; `measurements` makes latencies of them all.

    Between two adds the one file holds everything, so whoever copies it has it all: SQLite's rollback journal is there
    only while something is written, where its write-ahead log would keep the newest in a file beside it. It also works
    on the network file systems of clusters.

    Args:
        read_only: nothing is written, neither the file nor anything beside it, and the file must be there.

    Raises:
        ValueError: the file is damaged, empty or not whole, is something else, or was written by another version of
            this project.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: str | Path, read_only: bool = False) -> None:
        self.path = Path(path)
        self._file = Database(self.path, read_only)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def add_session(self, session: Session, origin: str = "") -> int:
        """Add a session, or those of its turns that are not there yet; returns how many turns were added.

        A session may be added while it goes on, again and again: its networks stay, turns and notes come to it.

        Raises:
            ValueError: what is there under its id is another session, or was made of other networks.
        """
        with self._file.errors(), self._file.transaction():
            return self._add_session(session, origin)

    def add_sessions(self, sessions: Iterable[Session], origin: str = "") -> int:
        """Add many at once, all or none; returns of how many there were turns that were not there yet.

        Raises:
            ValueError: as `add_session`.
        """
        with self._file.errors(), self._file.transaction():
            return sum(self._add_session(session, origin) > 0 for session in sessions)

    def _add_session(self, session: Session, origin: str) -> int:
        """Inside a transaction."""
        row = {
            "id": session.id,
            "fingerprint": session.device.fingerprint,
            "device": json.dumps(session.device.to_dict()),
            "began": session.began,
            "purpose": session.purpose,
            "notes": json.dumps(session.notes),
            "extras": json.dumps(dict(session.extras)),
            "origin": origin,
        }
        networks = [
            {
                "session": session.id,
                "number": number,
                "key": network.key,
                "resolution": network.resolution,
                "calls": network.calls_per_repeat,
                "extras": json.dumps(dict(network.extras)),
                "n_repeats": 0,
            }
            for number, network in enumerate(session.networks)
        ]
        if self._file.insert("sessions", [row]):
            self._file.insert("networks", networks)
        elif not self._is_same(session):
            return 0
        query = "SELECT count(*) FROM turns WHERE session = ?"
        found = self._file.connection.execute(query, [session.id]).fetchone()[0]
        if session.n_turns < found:  # an earlier state of what is there
            return 0
        turns = [
            {
                "session": session.id,
                "turn": turn,
                "started": numbers(session.started[:, turn]),
                "seconds": numbers(session.seconds[:, turn]),
                "doubt": session.doubts[turn],
            }
            for turn in range(found, session.n_turns)
        ]
        added = self._file.insert("turns", turns)
        kept = ("device", "began", "purpose")  # what was told of it first
        query = f"SELECT {', '.join(kept)} FROM sessions WHERE id = ?"
        row |= zip(kept, self._file.connection.execute(query, [session.id]).fetchone(), strict=True)
        self._file.connection.execute(
            "UPDATE sessions SET notes = :notes, extras = :extras, checksum = :checksum WHERE id = :id",
            row | {"checksum": checksum("sessions", row)},
        )
        # How often each was measured, so that what is measured is known without reading all repeats.
        n_repeats = (~np.isnan(session.seconds[:, session.counted])).sum(axis=1).tolist()
        self._file.connection.executemany(
            "UPDATE networks SET n_repeats = ? WHERE session = ? AND number = ?",
            [(n, session.id, number) for number, n in enumerate(n_repeats)],
        )
        return added

    def _is_same(self, session: Session) -> bool:
        """Whether what is there under its id has its networks; False if it has these and more."""
        query = "SELECT key, resolution FROM networks WHERE session = ? ORDER BY number"
        there = self._file.connection.execute(query, [session.id]).fetchall()
        names = [network.name for network in session.networks]
        query = "SELECT fingerprint FROM sessions WHERE id = ?"
        ((fingerprint,),) = self._file.connection.execute(query, [session.id]).fetchall()
        if fingerprint != session.device.fingerprint or not set(names) <= set(there):
            raise ValueError(
                f"session {session.id} is in {self.path} with {len(there)} networks on device {fingerprint}, and this "
                f"one has {len(names)} on device {session.device.fingerprint}: take it into a new store"
            )
        return names == there

    def sessions(self, device: Device) -> list[Session]:
        """Everything measured on devices equal to `device`, in the order in which it began."""
        return [record.session for record in self.records(device)]

    def records(self, device: Device) -> list[Record]:
        """The same with when and from where each came."""
        columns = ("id", "device", "began", "purpose", "fingerprint", "notes", "extras", "origin", "added", "checksum")
        with self._file.errors():
            rows = self._file.select("sessions", ", ".join(columns), {"fingerprint": device.fingerprint})
            found: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows]
            records = [Record(session_of(row, self._file), row["added"], row["origin"]) for row in found]
        return sorted(records, key=lambda record: record.session.began)

    def measurements(self, device: Device, at: str | None = None) -> Measurements:
        """What all sessions together say of every network measured on devices equal to `device`, on one level.

        Args:
            at: id of the session whose level it is, see `Measurements`.
        """
        return Measurements(device, self.sessions(device), at)

    def measured(self, device: Device, at_least: int = FEWEST_TURNS) -> set[Network]:
        """Every network with so many repeats in one session on devices equal to `device`: one quick question."""
        query = """SELECT DISTINCT key, resolution FROM networks JOIN sessions ON sessions.id = networks.session
            WHERE fingerprint = ? AND n_repeats >= ?"""
        with self._file.errors():
            return set(self._file.connection.execute(query, [device.fingerprint, at_least]).fetchall())

    def devices(self) -> list[Device]:
        """Every device that something was measured, planned or tried on, each once, the first first."""
        found: dict[str, Device] = {}
        for table in ("sessions", "failures", "planned"):
            query = f"SELECT fingerprint, device FROM {table} GROUP BY fingerprint ORDER BY min(rowid)"
            with self._file.errors():
                for fingerprint, device in self._file.connection.execute(query).fetchall():
                    found.setdefault(fingerprint, device_of(device))
        return list(found.values())

    def rename(self, device: Device, name: str) -> None:
        """Give a device another name in all that was measured, planned or tried under the name that it has."""
        old, new = json.dumps(device.to_dict()), json.dumps({**device.to_dict(), "name": name})
        columns = ("rowid", *CHECKED["sessions"], "checksum")
        query = f"SELECT {', '.join(columns)} FROM sessions WHERE device = ?"
        with self._file.errors(), self._file.transaction():
            for values in self._file.connection.execute(query, [old]).fetchall():
                row: dict[str, Any] = dict(zip(columns, values, strict=True))
                check_row("sessions", row)  # what is damaged stays so, and is told
                row["checksum"] = checksum("sessions", row | {"device": new})
                self._file.connection.execute(
                    "UPDATE sessions SET device = ?, checksum = ? WHERE rowid = ?", [new, row["checksum"], row["rowid"]]
                )
            for table in ("failures", "planned"):
                self._file.connection.execute(f"UPDATE {table} SET device = ? WHERE device = ?", [new, old])

    # -- failures and plans -------------------------------------------------------------------------------------------

    def add_failure(self, key: str, resolution: int, device: Device, reason: str) -> bool:
        """Whether it was added; False if this is known to fail on a device equal to `device` already."""
        return self._file.add("failures", [place(key, resolution, device) | {"reason": " ".join(reason.split())}]) == 1

    def failed(self, device: Device) -> set[Network]:
        """What devices equal to `device` could not run; not what was measured there after all."""
        found = self._file.select("failures", "key, resolution", {"fingerprint": device.fingerprint})
        return set(found) - self.measured(device) if found else set()

    def forget_failures(self, device: Device) -> int:
        """Let everything be tried again that devices equal to `device` could not run; returns how much it is."""
        with self._file.errors(), self._file.transaction():
            query = "DELETE FROM failures WHERE fingerprint = ?"
            return self._file.connection.execute(query, [device.fingerprint]).rowcount

    def failures(self, device: Device) -> list[Failure]:
        """The same with reasons."""
        failed = self.failed(device)
        with self._file.errors():
            where = {"fingerprint": device.fingerprint}
            rows = self._file.select("failures", "device, key, resolution, reason, added", where)
            failures = [Failure(device_of(device), *rest) for device, *rest in rows]
        return [failure for failure in failures if (failure.key, failure.resolution) in failed]

    def add_planned(self, networks: Iterable[tuple[str, int]], device: Device) -> int:
        """Write down that these (key, resolution) are to be measured; returns how many were new."""
        return self._file.add("planned", [place(key, resolution, device) for key, resolution in networks])

    def planned(self, device: Device) -> list[tuple[str, int]]:
        """Every (key, resolution) that was planned for devices equal to `device`, in the order of the plans."""
        return self._file.select("planned", "key, resolution", {"fingerprint": device.fingerprint})

    # -- scores -------------------------------------------------------------------------------------------------------

    def add_score(self, score: Score) -> bool:
        """Whether it was added; False if there is one of the same key, digest and split already.

        Raises:
            ValueError: a metric is not a finite number.
        """
        for name, value in score.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} of {score.key!r} is {value}; only finite numbers are stored")
        row = {"key": score.key, "digest": score.digest, "split": score.split}
        return self._file.add("scores", [row | {"metrics": json.dumps(dict(score.metrics))}]) == 1

    def has_score(self, key: str, digest: str, split: str) -> bool:
        """Whether this was scored."""
        return bool(self._file.select("scores", "1", {"key": key, "digest": digest, "split": split}))

    def score(self, key: str, digest: str, split: str) -> Score:
        """The one score of this.

        Raises:
            KeyError: there is none.
        """
        found = self._scores(key=key, digest=digest, split=split)
        if not found:
            raise KeyError(f"{key} was not scored on {split} with {digest}")
        return found[0]

    def scores(self, digest: str, split: str) -> list[Score]:
        """Every score of this digest and split, in the order in which they were added."""
        return self._scores(digest=digest, split=split)

    # -- inside -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the file; the store cannot be used any more."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _scores(self, **where: Any) -> list[Score]:
        columns = (*CHECKED["scores"], "checksum")
        with self._file.errors():
            rows = self._file.select("scores", ", ".join(columns), where)
            return [score_of(dict(zip(columns, row, strict=True))) for row in rows]
