"""Measurements as tables for other programs: CSV and Parquet, written and read back exactly."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from hardware.device import Device
from hardware.measurement import Measurement

__all__ = ["read_measurements", "write_measurements"]

_LONGEST_CELL = 2**24  # characters
_MOST_REPEATS = 100_000
_SHORTEST = 1e-8  # seconds: no call of a network takes less

Row = dict[str, Any]


def write_measurements(measurements: Sequence[Measurement], path: str | Path) -> None:
    """Write a table with one row for each measurement, raw repeats included; the suffix of `path` says which kind.

    The columns are the fields of the measurement and, as ``device.…``, of its device; then what follows from them:
    the median in seconds, the fingerprint of the device, and a digest of the row by which `read_measurements` notices
    numbers that were edited.

    Raises:
        ValueError: a suffix other than .csv and .parquet, or pyarrow is missing.
    """
    table = _format(path)
    packed = _packed(table)
    rows = [
        {name: json.dumps(value) if name in packed else value for name, value in _row(measurement).items()}
        for measurement in measurements
    ]
    table.write(Path(path), rows)


def read_measurements(path: str | Path) -> list[Measurement]:
    """The measurements in a table that `write_measurements` wrote; every field of every row is checked.

    Raises:
        ValueError: not such a table, or a row that cannot be right; the message names the row and the reason.
        OSError: the file cannot be read.
    """
    table = _format(path)
    packed = _packed(table)
    measurements = []
    for number, row in enumerate(table.read(Path(path)), start=1):
        try:
            _check_columns(row)
            unpacked = {name: _value(name, cell) if name in packed else cell for name, cell in row.items()}
            measurements.append(_measurement(unpacked))
        except ValueError as error:
            raise ValueError(f"{path}, row {number}: {error}") from error
    return measurements


# -- one row ----------------------------------------------------------------------------------------------------------


def _types() -> dict[str, Any]:
    """Every column that makes up a measurement, in order, with the type of its values."""
    device = {f"device.{name}": kind for name, kind in _hints(Device).items()}
    own = _hints(Measurement)
    del own["device"]
    return own | device


def _columns() -> dict[str, Any]:
    """Every column of a table, with the type of its values."""
    return _types() | {"median": float, "fingerprint": str, "digest": str}


def _hints(cls: type[Device] | type[Measurement]) -> dict[str, Any]:
    return {name: kind for name, kind in get_type_hints(cls).items() if name in cls.__dataclass_fields__}


def _row(measurement: Measurement) -> Row:
    data = measurement.to_dict()
    data |= {f"device.{name}": value for name, value in data.pop("device").items()}
    row = {name: data[name] for name in _types()}
    return row | {
        "median": measurement.median,
        "fingerprint": measurement.device.fingerprint,
        "digest": _digest(row),
    }


def _check_columns(row: Mapping[str, Any]) -> None:
    names = _columns()
    if None in row or None in row.values():
        raise ValueError("a cell is missing, or there is one too many")
    if missing := [name for name in names if name not in row]:
        raise ValueError(f"no column {missing[0]!r}; export the table with this version of the project")
    if unknown := [name for name in row if name not in names]:
        raise ValueError(f"unknown column {unknown[0]!r}; the columns are {', '.join(names)}")


def _measurement(row: Mapping[str, Any]) -> Measurement:
    names = _types()
    values = {name: row[name] for name in names}
    data = {name: value for name, value in values.items() if not name.startswith("device.")}
    device = {name.removeprefix("device."): value for name, value in values.items() if name.startswith("device.")}
    for name in ("seconds", "reference_seconds"):
        _check_times(name, data[name])
    measurement = Measurement.from_dict(data | {"device": device})
    written = _row(measurement)
    if wrong := [name for name in names if written[name] != values[name]]:
        raise ValueError(f"{wrong[0]} {str(values[wrong[0]])[:40]!r} is not of the right form")
    if row["fingerprint"] != measurement.device.fingerprint:
        raise ValueError(
            f"the fingerprint is {row['fingerprint']!r}, but that of the device described is "
            f"{measurement.device.fingerprint}: the row was edited, or comes from another version of the project"
        )
    if row["digest"] != written["digest"] or row["median"] != written["median"]:
        raise ValueError(f"the measurement of {measurement.key!r} was changed after it was exported; export it again")
    return measurement


def _check_times(name: str, times: Any) -> None:
    if not isinstance(times, list) or not all(type(time) in (int, float) for time in times):
        raise ValueError(f"{name} must be a list of numbers; got {str(times)[:40]!r}")
    if len(times) > _MOST_REPEATS:
        raise ValueError(f"{len(times)} {name}; at most {_MOST_REPEATS} repeats are taken")
    if times and min(times) < _SHORTEST:
        raise ValueError(f"{name} holds {min(times)} s; no call takes less than {_SHORTEST} s")


def _digest(values: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits of everything the row says; numbers keep all their digits in JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _value(name: str, text: Any) -> Any:
    """What a cell of JSON says."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} {str(text)[:40]!r} cannot be read: {error}") from error


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
    suffix = Path(path).suffix
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
        with path.open(newline="", encoding="utf-8") as file, _long_cells():
            yield from csv.DictReader(file, strict=True)
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
        str: arrow.string(), int: arrow.int64(), float: arrow.float64(),
        tuple[float, ...]: arrow.list_(arrow.float64()), tuple[str, ...]: arrow.list_(arrow.string()),
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
    ".parquet": _Table(_write_parquet, _read_parquet, (str, int, float, tuple[float, ...], tuple[str, ...])),
}
