"""Sessions as tables for other programs: CSV and Parquet, written and read back exactly."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np

from hardware.device import Device
from hardware.loop.session import MeasuredNetwork, Network, Session

__all__ = ["read_sessions", "write_sessions"]

_LONGEST_CELL = 2**24  # characters
_MOST_TURNS = 100_000
_SHORTEST = 1e-8  # seconds: no call of a network takes less
_LONGEST_OF_SPREADSHEETS = 32_767  # characters of a cell; what is behind is lost
_FOLLOWS = ("latency", "latency_low", "latency_high")  # from the others, and empty for a network that is not known
_ADVICE = "write the table with `supernet measurements export`, and do not save it with a spreadsheet"

Row = dict[str, Any]
Texts, Times, Numbers = tuple[str, ...], tuple[float, ...], tuple[int, ...]
Extras = Mapping[str, float]


def write_sessions(sessions: Sequence[Session], path: str | Path) -> None:
    """Write a table with one row for each network of each session, raw repeats included.

    The suffix of `path` says which kind of table. The columns are what the session is (its id, when it began, its
    purpose, notes and ``session_extras``, as ``device.…`` its device, and the doubts of all its turns), what the
    network did there (``turns``, the numbers of those it took part in from 0 on, ``started`` and ``seconds`` of its
    repeat in each), and what follows from that: its latency in seconds on the session's own level with the 95 %
    interval, and the fingerprint of the device.

    Raises:
        ValueError: a suffix other than .csv and .parquet, or pyarrow is missing.
    """
    table = _format(path)
    packed = _packed(table)
    rows = [
        {name: json.dumps(value) if name in packed else value for name, value in row.items()}
        for session in sessions
        for row in _rows(session)
    ]
    table.write(Path(path), rows)


def read_sessions(path: str | Path) -> list[Session]:
    """The sessions in a table that `write_sessions` wrote; every field of every row is checked.

    A table without some of the rows is one of sessions without these networks. A CSV table may begin with a byte order
    mark and have semicolons between its cells, as spreadsheets write it.

    Raises:
        ValueError: not such a table, or a row that cannot be right; the message names the row and the reason.
        OSError: the file cannot be read.
    """
    table = _format(path)
    packed = _packed(table)
    found: dict[str, dict[Network, tuple[int, Row]]] = {}  # by session
    for number, row in enumerate(table.read(Path(path)), start=1):
        with _row_named(path, number):
            _check_columns(row)
            row = {name: _value(name, cell) if name in packed else cell for name, cell in row.items()}
            _check_row(row)
            others = found.setdefault(row["session"], {})
            _check_beside(row, others)
            others[row["key"], row["resolution"]] = number, row
    return [_session([row for _, row in rows.values()]) for rows in found.values()]


@contextmanager
def _row_named(path: str | Path, number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}, row {number}: {error}") from error


# -- sessions and rows ------------------------------------------------------------------------------------------------


def _columns() -> dict[str, Any]:
    """Every column of a table, with the type of its values."""
    hints = get_type_hints(Device)
    return {
        "session": str,
        "began": float,
        "purpose": str,
        "key": str,
        "resolution": int,
        **dict.fromkeys(_FOLLOWS, float),
        **{f"device.{field.name}": hints[field.name] for field in fields(Device)},
        "calls_per_repeat": int,
        "turns": Numbers,
        "started": Times,
        "seconds": Times,
        "doubts": Texts,
        "notes": Texts,
        "session_extras": Extras,
        "extras": Extras,
        "fingerprint": str,
    }


def _of_session() -> list[str]:
    """The columns that are the same in all rows of a session."""
    names = ("began", "purpose", "doubts", "notes", "session_extras", "fingerprint")
    return [name for name in _columns() if name in names or name.startswith("device.")]


def _rows(session: Session) -> Iterator[Row]:
    common = {
        "session": session.id,
        "began": float(session.began),
        "purpose": session.purpose,
        "doubts": list(session.doubts),
        "notes": list(session.notes),
        "session_extras": _floats(session.extras),
        "fingerprint": session.device.fingerprint,
        **{f"device.{name}": value for name, value in session.device.to_dict().items()},
    }
    halves = session.fit.half_widths() if session.measured else ()
    for number, network in enumerate(session.networks):
        (turns,) = np.nonzero(~np.isnan(session.seconds[number]))
        followed = dict.fromkeys(_FOLLOWS)
        if (place := session.places.get(network.name)) is not None:
            level, half = session.fit.levels[place], halves[place]
            values = [float(math.exp(value)) for value in (level, level - half, level + half)]
            followed = dict(zip(_FOLLOWS, values, strict=True)) if np.isfinite(values).all() else followed
        row = common | followed | {
            "key": network.key,
            "resolution": network.resolution,
            "calls_per_repeat": network.calls_per_repeat,
            "turns": turns.tolist(),
            "started": [None if math.isnan(start) else start for start in session.started[number, turns].tolist()],
            "seconds": session.seconds[number, turns].tolist(),
            "extras": _floats(network.extras),
        }  # fmt: skip
        yield {name: row[name] for name in _columns()}


def _floats(extras: Extras) -> dict[str, float]:
    return {name: float(value) for name, value in extras.items()}


def _session(rows: Sequence[Row]) -> Session:
    first = rows[0]
    shape = len(rows), len(first["doubts"])
    seconds, started = np.full(shape, np.nan), np.full(shape, np.nan)
    for number, row in enumerate(rows):
        seconds[number, row["turns"]] = row["seconds"]
        started[number, row["turns"]] = np.array(row["started"], dtype=float)
    networks = [MeasuredNetwork(row["key"], row["resolution"], row["calls_per_repeat"], row["extras"]) for row in rows]
    return Session(
        first["session"],
        _device(first),
        first["began"],
        tuple(networks),
        seconds,
        started,
        tuple(first["doubts"]),
        first["purpose"],
        tuple(first["notes"]),
        first["session_extras"],
    )


def _device(row: Row) -> Device:
    prefix = "device."
    return Device.from_dict({name.removeprefix(prefix): row[name] for name in _columns() if name.startswith(prefix)})


# -- what must be right -----------------------------------------------------------------------------------------------


def _check_columns(row: Mapping[str, Any]) -> None:
    names = _columns()
    if None in row or any(value is None and name not in _FOLLOWS for name, value in row.items()):
        raise ValueError("a cell is missing, or there is one too many")
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"no column {missing[0]!r}; export the table with this version of the project")
    if unknown := [name for name in row if name not in names]:
        raise ValueError(f"unknown column {unknown[0]!r}; the columns are {', '.join(names)}")


def _check_row(row: Row) -> None:
    """What one row says, by itself."""
    device = _device(row)
    for name, kind in _columns().items():
        if not name.startswith("device.") and not _is_of(row[name], kind, name):
            raise ValueError(f"{name} {str(row[name])[:40]!r} is not of the right form")
    if not row["session"] or not row["key"]:
        raise ValueError("a session or a key has no name")
    if row["resolution"] < 1 or row["calls_per_repeat"] < 1:
        raise ValueError(
            f"{row['key']!r} has resolution {row['resolution']} and {row['calls_per_repeat']} calls per repeat, which "
            "must be at least 1"
        )
    turns, seconds, n_turns = row["turns"], row["seconds"], len(row["doubts"])
    if n_turns > _MOST_TURNS:
        raise ValueError(f"{n_turns} turns; at most {_MOST_TURNS} are taken")
    if sorted(set(turns)) != turns or not all(0 <= turn < n_turns for turn in turns):
        raise ValueError(f"turns must ascend from 0 to {n_turns - 1} at most, as there are {n_turns} doubts")
    if not len(turns) == len(seconds) == len(row["started"]):
        raise ValueError(f"{len(turns)} turns, but {len(seconds)} seconds and {len(row['started'])} starts")
    if seconds and min(seconds) < _SHORTEST:
        raise ValueError(f"seconds holds {min(seconds)} s; no call takes less than {_SHORTEST} s")
    if any(start is not None and start < 0 for start in row["started"]):
        raise ValueError("a repeat started before its session")
    if row["fingerprint"] != device.fingerprint:
        raise ValueError(
            f"the fingerprint is {row['fingerprint']!r}, but that of the device described is "
            f"{device.fingerprint}: the row was edited, or comes from another version of the project"
        )


def _check_beside(row: Row, others: Mapping[Network, tuple[int, Row]]) -> None:
    """What a row says, beside those of the same session."""
    for number, other in islice(others.values(), 1):
        if wrong := [name for name in _of_session() if row[name] != other[name]]:
            raise ValueError(f"{wrong[0]} of session {row['session']!r} is not what row {number} has")
    if (network := (row["key"], row["resolution"])) in others:
        raise ValueError(f"session {row['session']!r} has {row['key']!r} in row {others[network][0]} already")


def _is_of(value: Any, kind: Any, name: str) -> bool:
    if kind is float:
        return (value is None and name in _FOLLOWS) or (type(value) is float and math.isfinite(value))
    if kind == Extras:
        return type(value) is dict and all(type(one) is float and math.isfinite(one) for one in value.values())
    if kind == Times:
        some = value if name == "seconds" else [one for one in value or () if one is not None]
        return type(value) is list and all(type(one) is float and math.isfinite(one) for one in some)
    if kind in (Texts, Numbers):
        return type(value) is list and all(type(one) is (str if kind == Texts else int) for one in value)
    return type(value) is kind


def _value(name: str, text: Any) -> Any:
    """What a cell of JSON says."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (TypeError, ValueError, RecursionError) as error:
        cut = f"; {_ADVICE}" if isinstance(text, str) and len(text) == _LONGEST_OF_SPREADSHEETS else ""
        raise ValueError(f"{name} {str(text)[:40]!r} cannot be read: {error}{cut}") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number that can be measured")


# -- kinds of tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """How rows become a file and back. What the file has no type for is a cell of JSON."""

    write: Callable[[Path, Sequence[Row]], None]
    read: Callable[[Path], Iterator[Row]]
    types: tuple[Any, ...]


def _format(path: str | Path) -> _Table:
    suffix = Path(path).suffix.lower()
    if suffix not in _TABLES:
        raise ValueError(f"{path} ends in {suffix or 'nothing'!r}; tables end in {' or '.join(_TABLES)}")
    return _TABLES[suffix]


def _packed(table: _Table) -> set[str]:
    return {name for name, kind in _columns().items() if kind not in table.types}


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(_columns()))
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path) -> Iterator[Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file, _long_cells():
            head = file.readline()
            file.seek(0)
            separator = ";" if head.count(";") > head.count(",") else ","
            yield from csv.DictReader(file, strict=True, delimiter=separator)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a CSV table: {error}") from error


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_CELL)  # the limit is the whole process's
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _write_parquet(path: Path, rows: Sequence[Row]) -> None:
    arrow, parquet = _pyarrow()
    natural = {
        str: arrow.string(), int: arrow.int64(), float: arrow.float64(), Times: arrow.list_(arrow.float64()),
        Numbers: arrow.list_(arrow.int64()), Texts: arrow.list_(arrow.string()),
    }  # fmt: skip
    columns = {
        name: arrow.array([row[name] for row in rows], natural.get(kind, arrow.string()))
        for name, kind in _columns().items()
    }
    parquet.write_table(arrow.table(columns), path)


def _read_parquet(path: Path) -> Iterator[Row]:
    arrow, parquet = _pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(256):
                yield from batch.to_pylist()
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{path} is not a Parquet table: {str(error).splitlines()[0]}") from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ValueError("Parquet needs pyarrow: pip install 'supernet-nas[parquet]'; or take a .csv file") from None
    return pyarrow, pyarrow.parquet


_TABLES = {
    ".csv": _Table(_write_csv, _read_csv, (str,)),
    ".parquet": _Table(_write_parquet, _read_parquet, (str, int, float, Times, Numbers, Texts)),
}
