"""The file of a store: how it is opened, rows in and out of its tables, and what goes wrong as one line."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hardware.store.rows import DamagedError
from hardware.store.schema import CHECKED, check_size, checksum, create, lay_out

__all__ = ["Database"]

_DAMAGE = ("no such", "malformed", "Could not decode")  # how operational errors begin that a damaged file causes
_FULL = ("full", "disk I/O error")
_BUSY_SECONDS = 60  # how long to wait for other writers


class Database:
    """An open file with the tables of a store; see `Store` for what is promised of it."""

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        with self.errors():
            if self.path.is_file():
                check_size(self.path)
            elif not read_only:
                create(self.path)
        place = f"{self.path.absolute().as_uri()}?mode={self._mode()}" if read_only else self.path
        with self.errors():
            self.connection = sqlite3.connect(place, timeout=_BUSY_SECONDS, isolation_level=None, uri=read_only)
        try:
            with self.errors():
                if read_only:
                    self.connection.execute("PRAGMA query_only = ON")
                else:
                    self.connection.execute("PRAGMA synchronous = EXTRA")  # also the folder, after the journal has gone
                lay_out(self.connection, self.path, read_only)
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _mode(self) -> str:
        """How to open what is only read: what a kill left half written must be taken back first, where that can be."""
        interrupted = Path(f"{self.path}-journal").exists()
        return "rw" if interrupted and os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK) else "ro"

    def select(self, table: str, columns: str, where: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """These columns of every row with these values, in the order in which they were added."""
        conditions = " AND ".join(f"{name} = :{name}" for name in where)
        query = f"SELECT {columns} FROM {table} WHERE {conditions} ORDER BY rowid"
        with self.errors():
            return self.connection.execute(query, where).fetchall()

    def add(self, table: str, rows: list[dict[str, Any]]) -> int:
        """As `insert`, in a transaction of its own."""
        if not rows:
            return 0
        with self.errors(), self.transaction():
            return self.insert(table, rows)

    def insert(self, table: str, rows: list[dict[str, Any]]) -> int:
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
        return self.connection.executemany(statement, rows).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block or nothing; on the disk at its end."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # a full disk ends it by itself
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def errors(self) -> Iterator[None]:
        """What goes wrong in SQLite as one line that names the file."""
        try:
            yield
        except DamagedError as error:
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
