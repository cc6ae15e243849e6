"""Recovery of a damaged store: every row that can still be read, and is as it was written, goes into a new file."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hardware.loop.session import FEWEST_TURNS
from hardware.store.rows import check_row
from hardware.store.schema import CHECKED, checksum
from hardware.store.store import Store

__all__ = ["Recovery", "recover"]

_ROWS = 4096  # asked for at once; where that fails, the range is halved until the row that cannot be read is alone
_SMALLEST_ROW = 64  # bytes; bounds the row numbers to try where nothing else tells how many there were
_PAGE = 4096  # bytes; what SQLite takes unless told otherwise
_TABLES = ("sessions", "networks", "turns", "scores", "failures", "planned")


@dataclass(frozen=True)
class Recovery:
    """What came out of a damaged store."""

    recovered: Mapping[str, int]  # rows, by table
    rejected: int  # rows that could be read, but are not as they were written
    lost: int | None  # rows that could not be read at all; None where nothing tells how many there were


def recover(damaged: str | Path, out: str | Path) -> Recovery:
    """Write what can be read of a damaged store into the new file `out`; the damaged file stays as it is.

    Rows are read one by one around what SQLite cannot read, and each must pass its checksum. A session that lost turns
    or networks goes on without them; what belongs to a session that is lost itself is lost with it.

    Raises:
        ValueError: `out` exists, or nothing could be recovered.
        OSError: a file cannot be read or written.
    """
    damaged, out = Path(damaged), Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; give a new file")
    if not damaged.is_file():
        raise ValueError(f"{damaged} is not a file")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        copy, new = Path(folder) / "copy.sqlite", Path(folder) / "new.sqlite"
        for suffix in ("", "-journal"):  # a kill in the middle of a write left what was there before in it
            if Path(f"{damaged}{suffix}").exists():
                shutil.copyfile(f"{damaged}{suffix}", f"{copy}{suffix}")
        Store(new).close()
        with sqlite3.connect(new, isolation_level=None) as database:
            database.execute("BEGIN")
            recovery = _recover(copy, database)
            if not any(recovery.recovered.values()):
                _lend_first_page(copy, Path(folder) / "fresh.sqlite")
                recovery = _recover(copy, database)
            recovery = replace(recovery, recovered={**recovery.recovered, **_mend(database)})
            database.execute("COMMIT")
        database.close()
        if not any(recovery.recovered.values()):
            raise ValueError(f"nothing in {damaged} can be read as a store of measurements")
        os.replace(new, out)
    return recovery


def _recover(copy: Path, new: sqlite3.Connection) -> Recovery:
    recovered: dict[str, int] = dict.fromkeys(_TABLES, 0)
    rejected = lost = 0
    known = True
    database = sqlite3.connect(copy, isolation_level=None)
    database.text_factory = lambda value: value.decode(errors="replace")
    try:
        for table in _TABLES:
            columns = _columns(database, table)
            last, count = _extent(database, table, copy)
            read = 0
            for values in _rows(database, table, columns, last):
                read += 1
                row = dict(zip(columns, values, strict=True))
                try:
                    if table in CHECKED:
                        check_row(table, row)
                    marks = ", ".join("?" * len(columns))
                    names = ", ".join(columns)
                    new.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({marks})", values)
                except (ValueError, sqlite3.IntegrityError):
                    rejected += 1
                    read -= 1
                    continue
                recovered[table] += 1
            known = known and (count is not None or not columns)
            lost += max(0, (count or 0) - read)
    finally:
        database.close()
    return Recovery(recovered, rejected, max(0, lost - rejected) if known else None)


def _mend(new: sqlite3.Connection) -> dict[str, int]:
    """Make whole sessions of what is left of them; returns how many rows of their tables remain."""
    for table in ("networks", "turns"):
        new.execute(f"DELETE FROM {table} WHERE session NOT IN (SELECT id FROM sessions)")
    new.execute("DELETE FROM turns WHERE session NOT IN (SELECT session FROM networks)")
    new.execute("DELETE FROM sessions WHERE id NOT IN (SELECT session FROM networks)")
    for (session,) in new.execute("SELECT id FROM sessions").fetchall():
        _close_ranks(new, session)
    tables = "sessions", "networks", "turns"
    return {table: new.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def _close_ranks(new: sqlite3.Connection, session: str) -> None:
    """Take the networks that were lost out of the turns of a session, and count anew how often each was measured."""
    networks = _read(new, "networks", session, "number")
    turns = _read(new, "turns", session, "turn")
    left = [network["number"] for network in networks]
    for turn in turns:
        for name in ("started", "seconds"):
            values = json.loads(turn[name])
            turn[name] = json.dumps([values[number] for number in left])
        _write(new, "turns", turn)
    clear = [turn for turn in turns if not turn["doubt"]]
    counted = [json.loads(turn["seconds"]) for turn in (clear if len(clear) >= FEWEST_TURNS else turns)]
    for number, network in enumerate(networks):
        n_repeats = sum(seconds[number] is not None for seconds in counted)
        _write(new, "networks", network | {"number": number, "n_repeats": n_repeats})


def _read(new: sqlite3.Connection, table: str, session: str, order: str) -> list[dict[str, Any]]:
    found = new.execute(f"SELECT rowid, * FROM {table} WHERE session = ? ORDER BY {order}", [session])
    columns = [column[0] for column in found.description]
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def _write(new: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    row["checksum"] = checksum(table, row)
    changes = ", ".join(f"{name} = :{name}" for name in row if name != "rowid")
    new.execute(f"UPDATE {table} SET {changes} WHERE rowid = :rowid", row)


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    """The columns that both the damaged table and the new one have; none where the table cannot be found."""
    try:
        return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    except sqlite3.DatabaseError:
        return []


def _extent(database: sqlite3.Connection, table: str, copy: Path) -> tuple[int, int | None]:
    """The last row number to try, and how many rows there were: an index, a second copy of the keys, may tell."""
    try:
        query = f"SELECT max(rowid), count(*) FROM {table} INDEXED BY sqlite_autoindex_{table}_1"
        last, count = database.execute(query).fetchone()
        return last or 0, count
    except sqlite3.DatabaseError:
        pages = sum(file.stat().st_size for file in copy.parent.glob(f"{copy.name}*"))
        return pages // _SMALLEST_ROW, None


def _rows(database: sqlite3.Connection, table: str, columns: list[str], last: int) -> Iterator[tuple[Any, ...]]:
    for first in range(1, last + 1, _ROWS) if columns else ():
        yield from _range(database, f"SELECT {', '.join(columns)} FROM {table}", first, min(first + _ROWS - 1, last))


def _range(database: sqlite3.Connection, select: str, first: int, last: int) -> Iterator[tuple[Any, ...]]:
    try:
        yield from database.execute(f"{select} WHERE rowid BETWEEN ? AND ? ORDER BY rowid", [first, last]).fetchall()
    except sqlite3.DatabaseError:
        if first < last:
            middle = (first + last) // 2
            yield from _range(database, select, first, middle)
            yield from _range(database, select, middle + 1, last)


def _lend_first_page(copy: Path, fresh: Path) -> None:
    """Give the copy the first page of a new store: the head of the file, and where each table begins.

    The tables of a file that was laid out by this version begin where those of a new one do.
    """
    Store(fresh).close()
    page = bytearray(fresh.read_bytes()[:_PAGE])
    with copy.open("r+b") as file:
        n_pages = max(1, copy.stat().st_size // _PAGE)
        page[28:32] = n_pages.to_bytes(4, "big")
        file.write(page)
