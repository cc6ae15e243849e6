"""The tables of the store."""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import struct
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["CHECKED", "VERSION", "check_size", "checksum", "create", "lay_out"]

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


def create(path: Path) -> None:
    """Make a new, empty store, unless there is one; it has its name when it has its tables, so none is ever of 0 bytes.

    Raises:
        sqlite3.OperationalError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with closing(sqlite3.connect(new, isolation_level=None)) as database:
            lay_out(database, path)
        try:
            os.link(new, path)
        except FileExistsError:  # another process was faster
            return
        except OSError:  # a file system without links
            if not path.exists():
                os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def check_size(path: Path) -> None:
    """Raises ValueError where a file has fewer bytes than it says itself, as a copy that was cut off."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError(
            f"{path} is empty, which no store ever is: it was cut off or a copy failed; copy it again with `supernet "
            "measurements backup`, or remove it to begin anew"
        )
    with path.open("rb") as file:
        head = file.read(100)
    if len(head) < 100 or not head.startswith(b"SQLite format 3"):
        return  # SQLite says what is wrong with it
    (page,), (changed,), (pages,), (valid_for,) = (
        struct.unpack_from(kind, head, at) for kind, at in ((">H", 16), (">I", 24), (">I", 28), (">I", 92))
    )
    told = pages * (65536 if page == 1 else page)
    if changed == valid_for and size < told and not Path(f"{path}-journal").exists():
        raise ValueError(
            f"{path} is not whole: {size:,} of {told:,} bytes are there; copy it again with `supernet measurements "
            f"backup`, or save what can be read with `supernet measurements recover {path} --out NEW`"
        )


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
