"""Tables of measurements: exact there and back, and nothing is taken that cannot be right."""

import csv
import dataclasses
import json
import random
import sys
from pathlib import Path

import pytest

from hardware import Device, Measurement, Store
from hardware.store_exchange import read_measurements, write_measurements

DEVICE = Device('a "name", with\nbreaks', "cpu", "torch", "2.0", "cpu", threads=1, batch_size=1)
RNG = random.Random(0)
SOME = [
    Measurement(DEVICE, "007", 32, tuple(RNG.random() for _ in range(50)), 3, (0.1 + 0.2, 1e-7), ("take, care",)),
    Measurement(dataclasses.replace(DEVICE, threads=2), "timm:x", 224, (1e-3,)),
]


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path: Path) -> Path:
    return tmp_path / f"table.{request.param}"


def edit(path: Path, **changes: str) -> None:
    """Change cells of the first row of a CSV table."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0] |= changes
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_there_and_back_is_exact(path):
    write_measurements(SOME, path)
    assert read_measurements(path) == SOME
    assert [m.device.name for m in read_measurements(path)] == [DEVICE.name] * 2
    write_measurements([], path)
    assert read_measurements(path) == []


def test_more_repeats_than_a_cell_usually_holds(path):
    many = dataclasses.replace(SOME[0], seconds=tuple(RNG.random() for _ in range(20_000)))
    write_measurements([many], path)
    assert read_measurements(path) == [many]
    assert csv.field_size_limit() == 131_072  # the process's own, as before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": "[0.001, NaN]"}, "NaN is not a number that can be measured"),
        ({"seconds": "[0.001, 1e999]"}, "inf"),
        ({"seconds": "[-0.001]"}, "holds -0.001 s"),
        ({"seconds": "[1e-12]"}, "no call takes less than"),
        ({"seconds": "[]"}, "has no repeats"),
        ({"seconds": '["0.1"]'}, "must be a list of numbers"),
        ({"seconds": "[true]"}, "must be a list of numbers"),
        ({"seconds": "0.1, 0.2"}, "seconds .* cannot be read"),
        ({"seconds": json.dumps([0.1] * 100_001)}, "100001 seconds; at most 100000"),
        ({"seconds": json.dumps([0.1] * 50)}, "was changed after it was exported"),
        ({"median": "0.1"}, "was changed after it was exported"),
        ({"key": "another"}, "was changed after it was exported"),
        ({"device.threads": "4"}, "that of the device described is"),
        ({"device.threads": "4.0"}, "threads 4.0 is not of type int"),
        ({"device.runtime_version": "3.0"}, "that of the device described is"),
        ({"fingerprint": "0" * 12}, "the fingerprint is '000000000000'"),
        ({"resolution": "32.5"}, "resolution '32.5' is not of the right form"),
        ({"resolution": "-1"}, "has resolution -1"),
        ({"calls_per_repeat": "0"}, "0 calls per repeat"),
        ({"mood": "good"}, "unknown column 'mood'"),
    ],
)
def test_rows_that_cannot_be_right_are_refused_by_number(tmp_path, changes, message):
    path = tmp_path / "table.csv"
    write_measurements(SOME[:1], path)
    edit(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_measurements(path)
    assert f"{path}, row 1: " in str(caught.value) and "\n" not in str(caught.value)


def test_parquet_rows_are_checked_in_the_same_way(tmp_path):
    import pyarrow.parquet as parquet

    path = tmp_path / "table.parquet"
    write_measurements(SOME, path)
    table = parquet.read_table(path)
    for name, value, message in (
        ("seconds", [[float("nan")], [1e-3]], "nan"),
        ("seconds", [[0.1], [1e-3]], "was changed after"),
        ("device.name", [None, "x"], "a cell is missing"),
    ):
        column = table.schema.get_field_index(name)
        edited = table.set_column(column, name, [value])
        parquet.write_table(edited, path)
        with pytest.raises(ValueError, match=message):
            read_measurements(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "no column 'key'"),
        (b'a,b\n"1,2', "is not a CSV table"),
        (b"\xff\xfe", "is not a CSV table"),
        (b"a,b\n1\n", "a cell is missing"),
        (b"a,b\n1,2,3\n", "one too many"),
    ],
)
def test_files_that_are_no_tables(tmp_path, content, message):
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_measurements(path)
    parquet = tmp_path / "table.parquet"
    parquet.write_bytes(content)
    with pytest.raises(ValueError, match="is not a Parquet table"):
        read_measurements(parquet)


def test_other_suffixes_and_a_missing_pyarrow_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"tables end in .csv or .parquet"):
        write_measurements(SOME, tmp_path / "table.xls")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'supernet-nas\[parquet\]'"):
        write_measurements(SOME, tmp_path / "table.parquet")


def test_what_is_there_already_is_counted_not_added(tmp_path):
    write_measurements(SOME, tmp_path / "table.csv")
    with Store(tmp_path / "store.sqlite") as store:
        store.add_measurement(SOME[0])
        found = read_measurements(tmp_path / "table.csv")
        assert store.add_measurements(found + found, origin="table.csv") == 1
        assert [record.origin for record in store.records(SOME[0].device)] == [""]
        assert [record.origin for record in store.records(SOME[1].device)] == ["table.csv"]
