"""The store: every session, failure and score of a run in one SQLite file."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from hardware.device import Device
from hardware.loop.measurement import Measurements
from hardware.loop.session import FEWEST_TURNS, MeasuredNetwork, Network, Session
from hardware.store.schema import CHECKED, check_size, checksum, create, lay_out

__all__ = ["Failure", "Record", "Score", "Store", "check_row"]

_DAMAGE = ("no such", "malformed", "Could not decode")  # how operational errors begin that a damaged file causes
_FULL = ("full", "disk I/O error")
_BUSY_SECONDS = 60  # how long to wait for other writers


@dataclass(frozen=True)
class Score:
    """How well one network does on one split: for example accuracy, loss and n_images.

    `digest` stands for everything else the numbers depend on: weights, calibration and data.
    """

    key: str
    digest: str
    split: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """A session as it lies in the store."""

    session: Session
    added: float  # seconds since 1970, by the clock of the machine that added it
    origin: str  # "" where it was measured by the run itself, else the file it was imported from


@dataclass(frozen=True)
class Failure:
    """A network that a device could not run, so that it is not tried again and again."""

    device: Device
    key: str
    resolution: int  # pixels
    reason: str
    added: float  # seconds since 1970


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
        with self._errors():
            if self.path.is_file():
                check_size(self.path)
            elif not read_only:
                create(self.path)
        place = f"{self.path.absolute().as_uri()}?mode={self._mode()}" if read_only else self.path
        with self._errors():
            self._database = sqlite3.connect(place, timeout=_BUSY_SECONDS, isolation_level=None, uri=read_only)
        try:
            with self._errors():
                if read_only:
                    self._database.execute("PRAGMA query_only = ON")
                else:
                    self._database.execute("PRAGMA synchronous = EXTRA")  # also the folder, after the journal has gone
                lay_out(self._database, self.path, read_only)
        except BaseException:
            self._database.close()
            raise

    def _mode(self) -> str:
        """How to open what is only read: what a kill left half written must be taken back first, where that can be."""
        interrupted = Path(f"{self.path}-journal").exists()
        return "rw" if interrupted and os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK) else "ro"

    # -- sessions -----------------------------------------------------------------------------------------------------

    def add_session(self, session: Session, origin: str = "") -> int:
        """Add a session, or those of its turns that are not there yet; returns how many turns were added.

        A session may be added while it goes on, again and again: its networks stay, turns and notes come to it.

        Raises:
            ValueError: what is there under its id is another session, or was made of other networks.
        """
        with self._errors(), self._transaction():
            return self._add_session(session, origin)

    def add_sessions(self, sessions: Iterable[Session], origin: str = "") -> int:
        """Add many at once, all or none; returns of how many there were turns that were not there yet.

        Raises:
            ValueError: as `add_session`.
        """
        with self._errors(), self._transaction():
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
        if self._insert("sessions", [row]):
            self._insert("networks", networks)
        elif not self._is_same(session):
            return 0
        found = self._database.execute("SELECT count(*) FROM turns WHERE session = ?", [session.id]).fetchone()[0]
        if session.n_turns < found:  # an earlier state of what is there
            return 0
        turns = [
            {
                "session": session.id,
                "turn": turn,
                "started": _numbers(session.started[:, turn]),
                "seconds": _numbers(session.seconds[:, turn]),
                "doubt": session.doubts[turn],
            }
            for turn in range(found, session.n_turns)
        ]
        added = self._insert("turns", turns)
        kept = ("device", "began", "purpose")  # what was told of it first
        query = f"SELECT {', '.join(kept)} FROM sessions WHERE id = ?"
        row |= zip(kept, self._database.execute(query, [session.id]).fetchone(), strict=True)
        self._database.execute(
            "UPDATE sessions SET notes = :notes, extras = :extras, checksum = :checksum WHERE id = :id",
            row | {"checksum": checksum("sessions", row)},
        )
        # How often each was measured, so that what is measured is known without reading all repeats.
        n_repeats = (~np.isnan(session.seconds[:, session.counted])).sum(axis=1).tolist()
        self._database.executemany(
            "UPDATE networks SET n_repeats = ? WHERE session = ? AND number = ?",
            [(n, session.id, number) for number, n in enumerate(n_repeats)],
        )
        return added

    def _is_same(self, session: Session) -> bool:
        """Whether what is there under its id has its networks; False if it has these and more."""
        query = "SELECT key, resolution FROM networks WHERE session = ? ORDER BY number"
        there = self._database.execute(query, [session.id]).fetchall()
        names = [network.name for network in session.networks]
        query = "SELECT fingerprint FROM sessions WHERE id = ?"
        ((fingerprint,),) = self._database.execute(query, [session.id]).fetchall()
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
        with self._errors():
            rows = self._select("sessions", ", ".join(columns), {"fingerprint": device.fingerprint})
            found: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in rows]
            records = [Record(self._session(row), row["added"], row["origin"]) for row in found]
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
        with self._errors():
            return set(self._database.execute(query, [device.fingerprint, at_least]).fetchall())

    def devices(self) -> list[Device]:
        """Every device that something was measured, planned or tried on, each once, the first first."""
        found: dict[str, Device] = {}
        for table in ("sessions", "failures", "planned"):
            query = f"SELECT fingerprint, device FROM {table} GROUP BY fingerprint ORDER BY min(rowid)"
            with self._errors():
                for fingerprint, device in self._database.execute(query).fetchall():
                    found.setdefault(fingerprint, _device(device))
        return list(found.values())

    def rename(self, device: Device, name: str) -> None:
        """Give a device another name in all that was measured, planned or tried under the name that it has."""
        old, new = json.dumps(device.to_dict()), json.dumps({**device.to_dict(), "name": name})
        columns = ("rowid", *CHECKED["sessions"], "checksum")
        query = f"SELECT {', '.join(columns)} FROM sessions WHERE device = ?"
        with self._errors(), self._transaction():
            for values in self._database.execute(query, [old]).fetchall():
                row: dict[str, Any] = dict(zip(columns, values, strict=True))
                check_row("sessions", row)  # what is damaged stays so, and is told
                row["checksum"] = checksum("sessions", row | {"device": new})
                self._database.execute(
                    "UPDATE sessions SET device = ?, checksum = ? WHERE rowid = ?", [new, row["checksum"], row["rowid"]]
                )
            for table in ("failures", "planned"):
                self._database.execute(f"UPDATE {table} SET device = ? WHERE device = ?", [new, old])

    # -- failures and plans -------------------------------------------------------------------------------------------

    def add_failure(self, key: str, resolution: int, device: Device, reason: str) -> bool:
        """Whether it was added; False if this is known to fail on a device equal to `device` already."""
        return self._add("failures", [_place(key, resolution, device) | {"reason": " ".join(reason.split())}]) == 1

    def failed(self, device: Device) -> set[Network]:
        """What devices equal to `device` could not run; not what was measured there after all."""
        found = self._select("failures", "key, resolution", {"fingerprint": device.fingerprint})
        return set(found) - self.measured(device) if found else set()

    def forget_failures(self, device: Device) -> int:
        """Let everything be tried again that devices equal to `device` could not run; returns how much it is."""
        with self._errors(), self._transaction():
            query = "DELETE FROM failures WHERE fingerprint = ?"
            return self._database.execute(query, [device.fingerprint]).rowcount

    def failures(self, device: Device) -> list[Failure]:
        """The same with reasons."""
        failed = self.failed(device)
        with self._errors():
            where = {"fingerprint": device.fingerprint}
            rows = self._select("failures", "device, key, resolution, reason, added", where)
            failures = [Failure(_device(device), *rest) for device, *rest in rows]
        return [failure for failure in failures if (failure.key, failure.resolution) in failed]

    def add_planned(self, networks: Iterable[tuple[str, int]], device: Device) -> int:
        """Write down that these (key, resolution) are to be measured; returns how many were new."""
        return self._add("planned", [_place(key, resolution, device) for key, resolution in networks])

    def planned(self, device: Device) -> list[tuple[str, int]]:
        """Every (key, resolution) that was planned for devices equal to `device`, in the order of the plans."""
        return self._select("planned", "key, resolution", {"fingerprint": device.fingerprint})

    # -- scores -------------------------------------------------------------------------------------------------------

    def add_score(self, score: Score) -> bool:
        """Whether it was added; False if there is one of the same key, digest and split already.

        Raises:
            ValueError: a metric is not a finite number.
        """
        for name, value in score.metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"{name} of {score.key!r} is {value}; only finite numbers are stored")
        metrics = json.dumps(dict(score.metrics))
        return (
            self._add("scores", [{"key": score.key, "digest": score.digest, "split": score.split, "metrics": metrics}])
            == 1
        )

    def has_score(self, key: str, digest: str, split: str) -> bool:
        """Whether this was scored."""
        return bool(self._select("scores", "1", {"key": key, "digest": digest, "split": split}))

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
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _session(self, row: Mapping[str, Any]) -> Session:
        """The session of a row, with its networks and turns."""
        check_row("sessions", row)
        where, networks, turns = {"session": row["id"]}, [], []
        columns = (*CHECKED["networks"], "checksum")
        for values in sorted(self._select("networks", ", ".join(columns), where), key=lambda values: values[1]):
            check_row("networks", found := dict(zip(columns, values, strict=True)))
            networks.append(
                MeasuredNetwork(found["key"], found["resolution"], found["calls"], json.loads(found["extras"]))
            )
        columns = (*CHECKED["turns"], "checksum")
        for values in sorted(self._select("turns", ", ".join(columns), where), key=lambda values: values[1]):
            check_row("turns", found := dict(zip(columns, values, strict=True)))
            turns.append((json.loads(found["started"]), json.loads(found["seconds"]), found["doubt"]))
        try:
            return Session.of_turns(
                _device(row["device"]),
                networks,
                turns,
                id=row["id"],
                began=row["began"],
                purpose=row["purpose"],
                notes=json.loads(row["notes"]),
                extras=json.loads(row["extras"]),
            )
        except (TypeError, ValueError) as error:
            raise _Damaged(f"session {row['id']} cannot be read ({error})") from error

    def _scores(self, **where: Any) -> list[Score]:
        columns = (*CHECKED["scores"], "checksum")
        with self._errors():
            rows = self._select("scores", ", ".join(columns), where)
            return [_score(dict(zip(columns, row, strict=True))) for row in rows]

    def _select(self, table: str, columns: str, where: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        conditions = " AND ".join(f"{name} = :{name}" for name in where)
        query = f"SELECT {columns} FROM {table} WHERE {conditions} ORDER BY rowid"
        with self._errors():
            return self._database.execute(query, where).fetchall()

    def _add(self, table: str, rows: list[dict[str, Any]]) -> int:
        if not rows:
            return 0
        with self._errors(), self._transaction():
            return self._insert(table, rows)

    def _insert(self, table: str, rows: list[dict[str, Any]]) -> int:
        """Inside a transaction: those that are not there yet; returns how many were not."""
        if not rows:
            return 0
        now = time.time()
        for row in rows:
            row["added"] = now
            if table in CHECKED:
                row["checksum"] = checksum(table, row)
        values = ", ".join(f":{name}" for name in rows[0])
        statement = f"INSERT OR IGNORE INTO {table} ({', '.join(rows[0])}) VALUES ({values})"
        return self._database.executemany(statement, rows).rowcount

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # a full disk ends it by itself
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What goes wrong in SQLite as one line that names the file."""
        try:
            yield
        except _Damaged as error:
            raise self._damaged(error) from error
        except sqlite3.OperationalError as error:  # the surroundings: missing folder, full disk, no permission
            text = str(error)
            if any(sign in text for sign in _DAMAGE):
                raise self._damaged(error) from error
            hint = "; is the disk full? What was stored before is safe" if any(sign in text for sign in _FULL) else ""
            raise OSError(f"cannot use the store {self.path}: {text}{hint}") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ValueError:
        return ValueError(
            f"the store {self.path} is damaged: {error}; save what can be read with "
            f"`supernet measurements recover {self.path} --out NEW`"
        )


class _Damaged(ValueError):
    """A row that does not say what was written."""


def check_row(table: str, row: Mapping[str, Any]) -> None:
    """Raises ValueError where a row, which has every checked column and the checksum, is not as it was written."""
    if row["checksum"] != checksum(table, row):
        raise _Damaged(f"what is stored for {row[CHECKED[table][0]]!r} in {table} is not what was written there")


def _score(row: Mapping[str, Any]) -> Score:
    check_row("scores", row)
    try:
        return Score(row["key"], row["digest"], row["split"], dict(json.loads(row["metrics"])))
    except (TypeError, ValueError) as error:
        raise _Damaged(f"the score of {row['key']!r} cannot be read ({error})") from error


def _device(text: str) -> Device:
    try:
        return Device.from_dict(json.loads(text))
    except ValueError as error:
        raise _Damaged(f"a device cannot be read ({error})") from error


def _numbers(values: np.ndarray) -> str:
    """As JSON, null where there is none."""
    return json.dumps([None if math.isnan(value) else value for value in values.tolist()])


def _place(key: str, resolution: int, device: Device) -> dict[str, Any]:
    text = json.dumps(device.to_dict())
    return {"key": key, "resolution": resolution, "fingerprint": device.fingerprint, "device": text}
