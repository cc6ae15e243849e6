"""Recovery of a damaged store: every row that can still be read, and is as it was written, goes into a new file."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware.store import Store, measurement_of_row, score_of_row
from hardware.store_schema import lay_out

__all__ = ["Recovery", "recover"]

_ROWS = 4096  # asked for at once; where that fails, the range is halved until the row that cannot be read is alone
_SMALLEST_ROW = 64  # bytes; bounds the row numbers to try where nothing else tells how many there were
_PARSERS = {"measurements": measurement_of_row, "scores": score_of_row}
_PAGE = 4096  # bytes; what SQLite takes unless told otherwise
_TABLES = ("measurements", "scores", "failures", "planned")


@dataclass(frozen=True)
class Recovery:
    """What came out of a damaged store."""

    recovered: Mapping[str, int]  # rows, by table
    rejected: int  # rows that could be read, but are not as they were written
    lost: int | None  # rows that could not be read at all; None where nothing tells how many there were


def recover(damaged: str | Path, out: str | Path) -> Recovery:
    """Write what can be read of a damaged store into the new file `out`; the damaged file stays as it is.

    Rows are read one by one around what SQLite cannot read, and each must pass its checksum.

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
        for suffix in ("", "-wal"):  # what was written last may lie in the log beside the file
            if Path(f"{damaged}{suffix}").exists():
                shutil.copyfile(f"{damaged}{suffix}", f"{copy}{suffix}")
        Store(new).close()
        with sqlite3.connect(new, isolation_level=None) as database:
            database.execute("BEGIN")
            recovery = _recover(copy, database)
            if not any(recovery.recovered.values()):
                _lend_first_page(copy, Path(folder) / "fresh.sqlite")
                recovery = _recover(copy, database)
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
                    if table in _PARSERS:
                        _PARSERS[table]({"checksum": ""} | row)
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
    with sqlite3.connect(fresh, isolation_level=None) as database:
        database.execute("PRAGMA journal_mode = WAL")
        lay_out(database, fresh)
    database.close()
    page = bytearray(fresh.read_bytes()[:_PAGE])
    with copy.open("r+b") as file:
        n_pages = max(1, copy.stat().st_size // _PAGE)
        page[28:32] = n_pages.to_bytes(4, "big")
        file.write(page)
