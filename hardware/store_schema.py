"""The tables of the store, one step for every version: a new file takes all steps, an older one those it lacks."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["CHECKED", "VERSION", "checksum", "lay_out"]

CHECKED = {
    "measurements": ("key", "resolution", "fingerprint", "device", "repeats", "warnings"),
    "scores": ("key", "digest", "split", "metrics"),
}
"""The columns that the checksum of a row is made of: SQLite itself would not notice a digit that the disk changed."""


def checksum(table: str, row: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of what a row says."""
    text = "\x1f".join(str(row[column]) for column in CHECKED[table])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lay_out(database: sqlite3.Connection, path: Path) -> None:
    """Bring the tables of an open file to this version, whole or not at all; several processes may try at once.

    Raises:
        ValueError: the file holds something else, or was written by a newer version of this project.
    """
    if _version(database) == VERSION:  # the usual case needs no lock
        return
    database.execute("BEGIN IMMEDIATE")
    try:
        version = _version(database)  # again: another process may have been faster
        if version > VERSION:
            raise ValueError(f"{path} has schema {version}, this version of the project knows {VERSION}: update it")
        if version == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise ValueError(f"{path} is an SQLite file, but no store of measurements")
        for step in _STEPS[version:]:
            step(database)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]


def _first(database: sqlite3.Connection) -> None:
    database.execute(
        """CREATE TABLE measurements (
            key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL,
            device TEXT NOT NULL, repeats TEXT NOT NULL, warnings TEXT NOT NULL, added REAL NOT NULL,
            PRIMARY KEY (key, resolution, fingerprint)
        )"""
    )
    database.execute(
        """CREATE TABLE scores (
            key TEXT NOT NULL, digest TEXT NOT NULL, split TEXT NOT NULL, metrics TEXT NOT NULL, added REAL NOT NULL,
            PRIMARY KEY (key, digest, split)
        )"""
    )


def _failures_plans_and_checksums(database: sqlite3.Connection) -> None:
    """What did not run, what was planned, where a measurement came from, and checksums of every row."""
    for table in ("failures", "planned"):
        reason = "reason TEXT NOT NULL, " if table == "failures" else ""
        database.execute(
            f"""CREATE TABLE {table} (
                key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL,
                device TEXT NOT NULL, {reason}added REAL NOT NULL,
                PRIMARY KEY (key, resolution, fingerprint)
            )"""
        )
    database.execute("ALTER TABLE measurements ADD COLUMN origin TEXT NOT NULL DEFAULT ''")
    database.execute("CREATE INDEX measurements_by_device ON measurements (fingerprint)")
    for table, columns in CHECKED.items():
        # An older process that still has the file open writes rows without one; they count as not checked.
        database.execute(f"ALTER TABLE {table} ADD COLUMN checksum TEXT NOT NULL DEFAULT ''")
        rows = database.execute(f"SELECT rowid, {', '.join(columns)} FROM {table}").fetchall()
        sums = [(checksum(table, dict(zip(columns, row[1:], strict=True))), row[0]) for row in rows]
        database.executemany(f"UPDATE {table} SET checksum = ? WHERE rowid = ?", sums)


_STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first, _failures_plans_and_checksums)
VERSION = len(_STEPS)
