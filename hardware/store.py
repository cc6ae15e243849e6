"""The store: every measurement, failure and score of a run in one SQLite file."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hardware.device import Device
from hardware.measurement import Measurement
from hardware.store_schema import CHECKED, checksum, lay_out

__all__ = ["Failure", "Record", "Score", "Store", "measurement_of_row", "score_of_row"]

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
    """A measurement as it lies in the store."""

    measurement: Measurement
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
    """Measurements, one for each (key, resolution, device fingerprint), and scores, one for each (key, digest, split);
    beside them what failed on which device, and what was planned there.

    Every add is a transaction of its own that is on the disk when the method returns, so a kill loses nothing, and
    several processes may write at once. What is there is never changed: adding the same a second time keeps the first.
    The order is that of adding, whatever the clock says. A file of an older version is brought to the present one.

    Raises:
        ValueError: the file is damaged, is something else, or was written by a newer version of this project.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._errors():
            self._database = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            with self._errors():
                self._write_ahead()
                self._database.execute("PRAGMA synchronous = FULL")
                lay_out(self._database, self.path)
        except BaseException:
            self._database.close()
            raise

    def _write_ahead(self) -> None:
        """Switch to write-ahead logging, which SQLite refuses at once, without waiting, while others have the file."""
        given_up = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() >= given_up:
                    raise
                time.sleep(0.01)

    # -- measurements -------------------------------------------------------------------------------------------------

    def add_measurement(self, measurement: Measurement, origin: str = "") -> bool:
        """Whether it was added; False if there is one of the same key, resolution and device already."""
        return self.add_measurements([measurement], origin) == 1

    def add_measurements(self, measurements: Iterable[Measurement], origin: str = "") -> int:
        """Add all that are not there yet, together or not at all; returns how many were added."""
        return self._add("measurements", [_measurement_row(m) | {"origin": origin} for m in measurements])

    def has_measurement(self, key: str, resolution: int, device: Device) -> bool:
        """Whether this was measured on a device equal to `device`."""
        where = {"key": key, "resolution": resolution, "fingerprint": device.fingerprint}
        return bool(self._select("measurements", "1", where))

    def measurement(self, key: str, resolution: int, device: Device) -> Measurement:
        """The one measurement of this.

        Raises:
            KeyError: there is none.
        """
        found = self._records(key=key, resolution=resolution, fingerprint=device.fingerprint)
        if not found:
            raise KeyError(f"{key} at {resolution} px was not measured on {device}")
        return found[0].measurement

    def measurements(self, device: Device) -> list[Measurement]:
        """Everything measured on devices equal to `device`, in the order in which it was added."""
        return [record.measurement for record in self.records(device)]

    def records(self, device: Device) -> list[Record]:
        """The same with when and from where each came."""
        return self._records(fingerprint=device.fingerprint)

    def measured(self, device: Device) -> set[tuple[str, int]]:
        """Every (key, resolution) that was measured on devices equal to `device`: one question for many networks."""
        return set(self._select("measurements", "key, resolution", {"fingerprint": device.fingerprint}))

    def devices(self) -> list[Device]:
        """Every device that something was measured, planned or tried on, each once, the first first."""
        found: dict[str, Device] = {}
        for table in ("measurements", "failures", "planned"):
            query = f"SELECT fingerprint, device FROM {table} GROUP BY fingerprint ORDER BY min(rowid)"
            with self._errors():
                for fingerprint, device in self._database.execute(query).fetchall():
                    found.setdefault(fingerprint, _device(device))
        return list(found.values())

    # -- failures and plans -------------------------------------------------------------------------------------------

    def add_failure(self, key: str, resolution: int, device: Device, reason: str) -> bool:
        """Whether it was added; False if this is known to fail on a device equal to `device` already."""
        return self._add("failures", [_place(key, resolution, device) | {"reason": " ".join(reason.split())}]) == 1

    def failures(self, device: Device) -> list[Failure]:
        """What devices equal to `device` could not run; not what was measured there after all."""
        query = """SELECT device, key, resolution, reason, added FROM failures WHERE fingerprint = ? AND NOT EXISTS (
            SELECT 1 FROM measurements AS m WHERE m.key = failures.key AND m.resolution = failures.resolution
            AND m.fingerprint = failures.fingerprint) ORDER BY rowid"""
        with self._errors():
            rows = self._database.execute(query, [device.fingerprint]).fetchall()
            return [Failure(_device(device), *rest) for device, *rest in rows]

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

    def _records(self, **where: Any) -> list[Record]:
        columns: tuple[str, ...] = (*CHECKED["measurements"], "checksum", "added", "origin")
        with self._errors():
            selected = self._select("measurements", ", ".join(columns), where)
            rows: list[dict[str, Any]] = [dict(zip(columns, row, strict=True)) for row in selected]
            return [Record(measurement_of_row(row), row["added"], row["origin"]) for row in rows]

    def _scores(self, **where: Any) -> list[Score]:
        columns = (*CHECKED["scores"], "checksum")
        with self._errors():
            rows = self._select("scores", ", ".join(columns), where)
            return [score_of_row(dict(zip(columns, row, strict=True))) for row in rows]

    def _select(self, table: str, columns: str, where: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        conditions = " AND ".join(f"{name} = :{name}" for name in where)
        query = f"SELECT {columns} FROM {table} WHERE {conditions} ORDER BY rowid"
        with self._errors():
            return self._database.execute(query, where).fetchall()

    def _add(self, table: str, rows: list[dict[str, Any]]) -> int:
        if not rows:
            return 0
        now = time.time()
        for row in rows:
            row["added"] = now
            if table in CHECKED:
                row["checksum"] = checksum(table, row)
        values = ", ".join(f":{name}" for name in rows[0])
        statement = f"INSERT OR IGNORE INTO {table} ({', '.join(rows[0])}) VALUES ({values})"
        with self._errors():
            if len(rows) == 1:  # a single statement is a transaction of its own
                return self._database.execute(statement, rows[0]).rowcount
            with self._transaction():
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


def measurement_of_row(row: Mapping[str, Any]) -> Measurement:
    """The measurement in a row of the table, which has every checked column and the checksum.

    Raises:
        ValueError: the row is not as it was written.
    """
    _check("measurements", row)
    try:
        data = {name: json.loads(row[name]) for name in ("device", "warnings")} | json.loads(row["repeats"])
        measurement = Measurement.from_dict(data | {"key": row["key"], "resolution": row["resolution"]})
    except (TypeError, ValueError) as error:
        raise _Damaged(f"the measurement of {row['key']!r} cannot be read ({error})") from error
    return measurement


def score_of_row(row: Mapping[str, Any]) -> Score:
    """The score in a row of the table, which has every checked column and the checksum.

    Raises:
        ValueError: the row is not as it was written.
    """
    _check("scores", row)
    try:
        return Score(row["key"], row["digest"], row["split"], dict(json.loads(row["metrics"])))
    except (TypeError, ValueError) as error:
        raise _Damaged(f"the score of {row['key']!r} cannot be read ({error})") from error


def _device(text: str) -> Device:
    try:
        return Device.from_dict(json.loads(text))
    except ValueError as error:
        raise _Damaged(f"a device cannot be read ({error})") from error


def _check(table: str, row: Mapping[str, Any]) -> None:
    if row["checksum"] and row["checksum"] != checksum(table, row):
        raise _Damaged(f"what is stored for {row['key']!r} is not what was written there")


def _measurement_row(measurement: Measurement) -> dict[str, Any]:
    data = measurement.to_dict()
    place = _place(data.pop("key"), data.pop("resolution"), measurement.device)
    del data["device"]
    return place | {"warnings": json.dumps(data.pop("warnings")), "repeats": json.dumps(data)}


def _place(key: str, resolution: int, device: Device) -> dict[str, Any]:
    text = json.dumps(device.to_dict())
    return {"key": key, "resolution": resolution, "fingerprint": device.fingerprint, "device": text}
