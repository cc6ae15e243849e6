"""The tables of the store."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["CHECKED", "VERSION", "checksum", "lay_out"]

VERSION = 3
"""Of the tables; a file of another one is refused."""

CHECKED = {
    "sessions": ("id", "fingerprint", "device", "began", "purpose", "notes", "extras"),
    "networks": ("session", "number", "key", "resolution", "calls", "extras"),
    "turns": ("session", "turn", "started", "seconds", "doubt"),
    "scores": ("key", "digest", "split", "metrics"),
}
"""The columns that the checksum of a row is made of: SQLite itself would not notice a digit that the disk changed."""

_TABLES = """
CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY, fingerprint TEXT NOT NULL, device TEXT NOT NULL, began REAL NOT NULL,
    purpose TEXT NOT NULL, notes TEXT NOT NULL, extras TEXT NOT NULL, origin TEXT NOT NULL, added REAL NOT NULL,
    checksum TEXT NOT NULL
);
CREATE INDEX sessions_by_device ON sessions (fingerprint);
CREATE TABLE networks (
    session TEXT NOT NULL, number INTEGER NOT NULL, key TEXT NOT NULL, resolution INTEGER NOT NULL,
    calls INTEGER NOT NULL, extras TEXT NOT NULL, n_repeats INTEGER NOT NULL, added REAL NOT NULL,
    checksum TEXT NOT NULL, PRIMARY KEY (session, number)
);
CREATE TABLE turns (
    session TEXT NOT NULL, turn INTEGER NOT NULL, started TEXT NOT NULL, seconds TEXT NOT NULL, doubt TEXT NOT NULL,
    added REAL NOT NULL, checksum TEXT NOT NULL, PRIMARY KEY (session, turn)
);
CREATE TABLE failures (
    key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL, device TEXT NOT NULL,
    reason TEXT NOT NULL, added REAL NOT NULL, PRIMARY KEY (key, resolution, fingerprint)
);
CREATE TABLE planned (
    key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL, device TEXT NOT NULL,
    added REAL NOT NULL, PRIMARY KEY (key, resolution, fingerprint)
);
CREATE TABLE scores (
    key TEXT NOT NULL, digest TEXT NOT NULL, split TEXT NOT NULL, metrics TEXT NOT NULL, added REAL NOT NULL,
    checksum TEXT NOT NULL, PRIMARY KEY (key, digest, split)
);
"""


def checksum(table: str, row: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of what a row says."""
    text = "\x1f".join(str(row[column]) for column in CHECKED[table])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def lay_out(database: sqlite3.Connection, path: Path, read_only: bool = False) -> None:
    """Make the tables of a new file, whole or not at all; several processes may try at once.

    Raises:
        ValueError: the file holds something else, or was written by another version of this project.
    """
    version = _version(database)
    if version not in (0, VERSION):
        raise ValueError(
            f"{path} has schema {version}, this version of the project knows {VERSION}: use the version that wrote it, "
            "or measure into a new file"
        )
    if version == VERSION:  # the usual case needs no lock
        return
    if read_only:
        raise ValueError(f"{path} is no store of measurements")
    database.execute("BEGIN IMMEDIATE")
    try:
        if _version(database) == 0:  # still: another process may have been faster
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                raise ValueError(f"{path} is an SQLite file, but no store of measurements")
            for statement in _TABLES.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _version(database: sqlite3.Connection) -> int:
    return database.execute("PRAGMA user_version").fetchone()[0]
