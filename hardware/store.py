"""The store: every measurement and every score of a run in one SQLite file."""

from __future__ import annotations

import json
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hardware.device import Device
from hardware.measurement import Measurement

__all__ = ["Score", "Store"]

_VERSION = 1
_SCHEMA = """
CREATE TABLE measurements (
    key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    device TEXT NOT NULL, repeats TEXT NOT NULL, warnings TEXT NOT NULL, added REAL NOT NULL,
    PRIMARY KEY (key, resolution, fingerprint)
);
CREATE TABLE scores (
    key TEXT NOT NULL, digest TEXT NOT NULL, split TEXT NOT NULL, metrics TEXT NOT NULL, added REAL NOT NULL,
    PRIMARY KEY (key, digest, split)
);
"""


@dataclass(frozen=True)
class Score:
    """How well one network does on one split: for example accuracy, loss and n_images.

    `digest` stands for everything else the numbers depend on: weights, calibration and data.
    """

    key: str
    digest: str
    split: str
    metrics: Mapping[str, float]


class Store:
    """Measurements, one for each (key, resolution, device fingerprint), and scores, one for each (key, digest, split).

    Every add is a transaction of its own that is on the disk when the method returns, so a kill loses nothing, and
    several processes may write at once. What is there is never changed: adding the same a second time keeps the first.

    Raises:
        ValueError: the file is damaged, is something else, or was written by a newer version of this project.
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with self._errors():
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            with self._errors():
                self._open()
        except BaseException:
            self._database.close()
            raise

    def _open(self) -> None:
        database = self._database
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # Read and written under one lock, so that of several processes exactly one lays the tables out.
        database.execute("BEGIN IMMEDIATE")
        version = self._version()
        if version > _VERSION:
            raise ValueError(
                f"{self.path} has schema {version}, this version of the project knows {_VERSION}: update it"
            )
        if version == 0:
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ValueError(f"{self.path} is an SQLite file, but no store of measurements")
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("COMMIT")

    # -- measurements -------------------------------------------------------------------------------------------------

    def add_measurement(self, measurement: Measurement) -> bool:
        """Whether it was added; False if there is one of the same key, resolution and device already."""
        data = measurement.to_dict()
        where = {"key": data.pop("key"), "resolution": data.pop("resolution")}
        device, warnings = data.pop("device"), data.pop("warnings")
        return self._add(
            "measurements",
            **where,
            fingerprint=measurement.device.fingerprint,
            device=json.dumps(device),
            repeats=json.dumps(data),
            warnings=json.dumps(warnings),
        )

    def has_measurement(self, key: str, resolution: int, device: Device) -> bool:
        """Whether this was measured on a device equal to `device`."""
        return bool(self._measurements(key=key, resolution=resolution, fingerprint=device.fingerprint))

    def measurement(self, key: str, resolution: int, device: Device) -> Measurement:
        """The one measurement of this.

        Raises:
            KeyError: there is none.
        """
        found = self._measurements(key=key, resolution=resolution, fingerprint=device.fingerprint)
        if not found:
            raise KeyError(f"{key} at {resolution} px was not measured on {device}")
        return found[0]

    def measurements(self, device: Device) -> list[Measurement]:
        """Everything measured on devices equal to `device`, in the order in which it was added."""
        return self._measurements(fingerprint=device.fingerprint)

    def devices(self) -> list[Device]:
        """Every device that something was measured on, each once, the first first."""
        query = "SELECT device FROM measurements GROUP BY fingerprint ORDER BY min(rowid)"
        with self._errors():
            return [Device.from_dict(json.loads(device)) for (device,) in self._database.execute(query)]

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
        return self._add("scores", key=score.key, digest=score.digest, split=score.split, metrics=metrics)

    def has_score(self, key: str, digest: str, split: str) -> bool:
        """Whether this was scored."""
        return bool(self._scores(key=key, digest=digest, split=split))

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

    def _measurements(self, **where: Any) -> list[Measurement]:
        rows = self._select("measurements", "key, resolution, device, repeats, warnings", where)
        with self._errors():
            return [
                Measurement.from_dict(
                    {
                        "key": key,
                        "resolution": resolution,
                        "device": json.loads(device),
                        "warnings": json.loads(warnings),
                        **json.loads(repeats),
                    }
                )
                for key, resolution, device, repeats, warnings in rows
            ]

    def _scores(self, **where: Any) -> list[Score]:
        rows = self._select("scores", "key, digest, split, metrics", where)
        with self._errors():
            return [Score(key, digest, split, json.loads(metrics)) for key, digest, split, metrics in rows]

    def _select(self, table: str, columns: str, where: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        conditions = " AND ".join(f"{name} = :{name}" for name in where)
        query = f"SELECT {columns} FROM {table} WHERE {conditions} ORDER BY rowid"
        with self._errors():
            return self._database.execute(query, where).fetchall()

    def _add(self, table: str, **row: Any) -> bool:
        row["added"] = time.time()
        values = ", ".join(f":{name}" for name in row)
        with self._errors():
            # A single statement is a transaction of its own.
            done = self._database.execute(f"INSERT OR IGNORE INTO {table} ({', '.join(row)}) VALUES ({values})", row)
        return done.rowcount == 1

    def _version(self) -> int:
        return self._database.execute("PRAGMA user_version").fetchone()[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What goes wrong in SQLite as one line that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:  # the surroundings: missing folder, full disk, no permission
            raise OSError(f"cannot use the store {self.path}: {error}") from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise ValueError(f"the store {self.path} is damaged: {error}; move it away to start a new one") from error
