"""Whether the file of a store is whole: not cut off, every row as it was written; and a whole copy of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hardware.store.schema import CHECKED, checksum
from hardware.store.store import Store
from supernet.files import replacing

__all__ = ["back_up", "check_whole"]


def back_up(store: Path, out: Path) -> dict[str, int]:
    """Write a whole copy of a store to the new file `out`, while others may measure into it; returns rows by table.

    The copy is SQLite's own, of one moment, and is checked row by row before it gets its name.

    Raises:
        ValueError: `out` exists, or the store is damaged; nothing was written.
        OSError: a file cannot be read or written.
    """
    if out.exists():
        raise ValueError(f"{out} exists; give a new file")
    Store(store, read_only=True).close()  # says what is wrong with it
    with replacing(out) as temporary:
        with (
            closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
        return check_whole(temporary, store)


def check_whole(path: Path, of: Path | None = None) -> dict[str, int]:
    """Check everything in the file of a store; returns rows by table.

    Args:
        of: what the file is a copy of, for messages.

    Raises:
        ValueError: something is missing or not as it was written; says what to do.
    """
    shown = of or path
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            problems = [text for (text,) in database.execute("PRAGMA integrity_check(1)") if text != "ok"]
            problems = problems or _missing(database)
            rows = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _tables(database)}
    except sqlite3.DatabaseError as error:
        problems, rows = [str(error)], {}
    if problems:
        raise ValueError(
            f"the store {shown} is not whole: {' '.join(problems[0].split())}; copy it again with `supernet "
            f"measurements backup`, or save what can be read with `supernet measurements recover {shown} --out NEW`"
        )
    return rows


def _tables(database: sqlite3.Connection) -> list[str]:
    return [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def _missing(database: sqlite3.Connection) -> list[str]:
    """What is not as it was written, or not there although something else says that it was."""
    for table, columns in CHECKED.items():
        for *values, told in database.execute(f"SELECT {', '.join(columns)}, checksum FROM {table}"):
            if told != checksum(table, dict(zip(columns, values, strict=True))):
                return [f"a row of {table} ({values[0]}) is not what was written there"]
    query = """SELECT id, (SELECT count(*) FROM turns WHERE session = id),
        (SELECT max(turn) FROM turns WHERE session = id),
        (SELECT max(n_repeats) FROM networks WHERE session = id) FROM sessions"""
    for identity, n_turns, last, n_repeats in database.execute(query):
        if n_repeats is None or max((-1 if last is None else last) + 1, n_repeats) > n_turns:
            return [f"networks or turns of session {identity} are missing"]
    return []
