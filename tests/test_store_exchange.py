"""Tables of sessions: exact there and back, and nothing is taken that cannot be right."""

import csv
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hardware import Device, Session, Store
from hardware.loop.session import MeasuredNetwork
from hardware.store.exchange import read_sessions, write_sessions

DEVICE = Device('a "name", with\nbreaks', "cpu; fast", "torch", "2.0", "cpu", threads=1, batch_size=1)


def session(keys, id, device=DEVICE, n_turns=12, **more) -> Session:
    rng = np.random.default_rng(len(id))
    seconds = rng.lognormal(-7, 0.1, (len(keys), n_turns))
    started = 3 * rng.random(seconds.shape)
    seconds[0, [3, 7]] = started[0, [3, 7]] = np.nan  # did not take part
    started[-1, 5] = np.nan  # took part, and nobody knows when
    networks = tuple(MeasuredNetwork(key, 32, 1 + i, {"energy_joules": 0.1 + 0.2}) for i, key in enumerate(keys))
    return Session(id, device, 1.7e9 + 0.1, networks, seconds, started, ("",) * (n_turns - 1) + ("busy, hot",), **more)


FEW_TURNS = session(["a", "timm:x"], "few", dataclasses.replace(DEVICE, options=("x", "y")), n_turns=8)
SOME = [
    session(["007", "b", 'timm:"c"'], "first", purpose="final", notes=("take, care",), extras={"clock_hz": 1e9}),
    dataclasses.replace(FEW_TURNS, seconds=np.where(np.arange(8) < 4, FEW_TURNS.seconds, np.nan),
                        started=np.full((2, 8), np.nan)),
]  # fmt: skip


def same(a: Session, b: Session) -> bool:
    names = ("id", "device", "began", "networks", "doubts", "purpose", "notes", "extras")
    arrays = all(np.array_equal(getattr(a, x), getattr(b, x), equal_nan=True) for x in ("seconds", "started"))
    return arrays and all(getattr(a, name) == getattr(b, name) for name in names) and a.device.name == b.device.name


@pytest.fixture(params=["csv", "parquet"])
def path(request, tmp_path: Path) -> Path:
    return tmp_path / f"table.{request.param}"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def edit(path: Path, row: int = 0, **changes: str) -> None:
    """Change cells of a row of a CSV table."""
    rows = rows_of(path)
    rows[row] |= changes
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[row]))
        writer.writeheader()
        writer.writerows(rows)


def test_there_and_back_is_exact(path):
    write_sessions(SOME, path)
    found = read_sessions(path)
    assert len(found) == 2 and all(map(same, found, SOME))
    write_sessions(found, path)
    assert all(map(same, read_sessions(path), SOME))
    write_sessions([], path)
    assert read_sessions(path) == []


def test_what_follows_is_there_for_other_programs(path, tmp_path):
    import pyarrow.parquet as parquet

    write_sessions(SOME, tmp_path / "table.parquet")
    table = parquet.read_table(tmp_path / "table.parquet").to_pylist()
    write_sessions(SOME, tmp_path / "table.csv")
    for row, text in zip(table, rows_of(tmp_path / "table.csv"), strict=True):
        assert json.loads(text["latency"]) == row["latency"] and text["fingerprint"] == row["fingerprint"]
    first, half = SOME[0].fit, SOME[0].fit.half_widths()
    for place, row in enumerate(table[:3]):
        assert row["latency"] == pytest.approx(np.exp(first.levels[place]))
        assert row["latency_high"] / row["latency"] == pytest.approx(np.exp(half[place]))
        assert row["latency_low"] < row["latency"] and row["fingerprint"] == DEVICE.fingerprint
    assert [row["latency"] for row in table[3:]] == [None, None]  # too few turns
    assert table[0]["turns"] == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]


def test_rows_may_be_left_out_and_come_in_any_order(tmp_path):
    path = tmp_path / "table.csv"
    write_sessions(SOME, path)
    lines = rows_of(path)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows([lines[3], lines[2], lines[4], lines[0]])
    few, first = read_sessions(path)
    assert same(few, SOME[1]) and [network.key for network in first.networks] == ['timm:"c"', "007"]
    np.testing.assert_array_equal(first.seconds, SOME[0].seconds[[2, 0]])


def test_tables_saved_on_windows_are_read(tmp_path):
    path = tmp_path / "table.CSV"
    write_sessions(SOME, path)
    plain = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + plain)  # a byte order mark
    assert all(map(same, read_sessions(path), SOME))
    path.write_bytes(plain)
    rows = rows_of(path)
    for mark in (b"", b"\xef\xbb\xbf"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
            writer.writeheader()
            writer.writerows(rows)
        path.write_bytes(mark + path.read_bytes())
        assert all(map(same, read_sessions(path), SOME))


def test_more_turns_than_a_cell_usually_holds(path):
    many = session(["a"], "many", n_turns=20_000)
    write_sessions([many], path)
    assert same(read_sessions(path)[0], many)
    assert csv.field_size_limit() == 131_072  # the process's own, as before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": "[0.001, NaN]"}, "NaN is not a number that can be measured"),
        ({"seconds": "[0.001, 1e999]"}, "seconds .* is not of the right form"),
        ({"seconds": "[null]"}, "seconds .* is not of the right form"),
        ({"seconds": json.dumps([-0.001] * 10)}, "holds -0.001 s"),
        ({"seconds": json.dumps([1e-12] * 10)}, "no call takes less than"),
        ({"seconds": "[]"}, "10 turns, but 0 seconds and 10 starts"),
        ({"seconds": '["0.1"]'}, "is not of the right form"),
        ({"seconds": "[true]"}, "is not of the right form"),
        ({"seconds": "0.1, 0.2"}, "seconds .* cannot be read"),
        ({"seconds": "[" * 32_767}, "cannot be read: .*do not save it with a spreadsheet"),
        ({"turns": "[0, 1]"}, "2 turns, but 10 seconds"),
        ({"turns": json.dumps([0, 1, 2, 4, 5, 6, 8, 9, 10, 12])}, "turns must ascend from 0 to 11"),
        ({"turns": json.dumps([0, 0, 2, 4, 5, 6, 8, 9, 10, 11])}, "turns must ascend"),
        ({"turns": "[0.5]"}, "is not of the right form"),
        ({"started": json.dumps([-1.0] * 10)}, "started before its session"),
        ({"doubts": "[1]"}, "doubts .* is not of the right form"),
        ({"doubts": json.dumps([""] * 100_001)}, "100001 turns; at most 100000"),
        ({"latency": '"fast"'}, "latency 'fast' is not of the right form"),
        ({"key": ""}, "has no name"),
        ({"session": ""}, "has no name"),
        ({"began": "1700000000"}, "began .* is not of the right form"),
        ({"began": "Infinity"}, "Infinity is not a number"),
        ({"notes": '"none"'}, "notes 'none' is not of the right form"),
        ({"extras": '{"energy_joules": "much"}'}, "extras .* is not of the right form"),
        ({"session_extras": "[]"}, "session_extras '.*' is not of the right form"),
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
    write_sessions(SOME, path)
    edit(path, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        read_sessions(path)
    assert f"{path}, row 1: " in str(caught.value) and "\n" not in str(caught.value)


def test_rows_of_one_session_must_agree(tmp_path):
    path = tmp_path / "table.csv"
    write_sessions([session(["a", "b"], "one"), session(["a", "b"], "two", notes=("else",))], path)
    rows = rows_of(path)
    for change, message in (
        (rows[0], "row 2: session 'one' has 'a' in row 1 already"),
        (rows[3] | {"session": "one"}, "row 2: notes of session 'one' is not what row 1 has"),
    ):
        edit(path, 1, **change)
        with pytest.raises(ValueError, match=message):
            read_sessions(path)
    # Two sessions of one id, each right by itself.
    write_sessions([session(["a"], "one"), session(["b"], "one", notes=("else",))], path)
    with pytest.raises(ValueError, match="row 2: notes of session 'one' is not what row 1 has"):
        read_sessions(path)


def test_parquet_rows_are_checked_in_the_same_way(tmp_path):
    import pyarrow.parquet as parquet

    path = tmp_path / "table.parquet"
    write_sessions(SOME[1:], path)
    table = parquet.read_table(path)
    good = table.column("seconds").to_pylist()
    for name, value, message in (
        ("seconds", [[float("nan")], good[1]], "is not of the right form"),
        ("seconds", [None, good[1]], "a cell is missing"),
        ("seconds", [["x"], ["y"]], "is not of the right form"),
        ("device.name", [None, "x"], "a cell is missing"),
        ("device.options", [[None], ["x"]], "options"),
        ("extras", ["{", "{}"], "extras '{' cannot be read"),
    ):
        column = table.schema.get_field_index(name)
        parquet.write_table(table.set_column(column, name, [value]), path)
        with pytest.raises(ValueError, match=message) as caught:
            read_sessions(path)
        assert "row 1: " in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "no column 'session'"),
        (b"a;b\n1;2\n", "no column 'session'"),
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
        read_sessions(path)
    parquet = tmp_path / "table.parquet"
    parquet.write_bytes(content)
    with pytest.raises(ValueError, match="is not a Parquet table"):
        read_sessions(parquet)


def test_other_suffixes_and_a_missing_pyarrow_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"tables end in .csv or .parquet"):
        write_sessions(SOME, tmp_path / "table.xls")
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"pip install 'supernet-nas\[parquet\]'"):
        write_sessions(SOME, tmp_path / "table.parquet")


def test_what_is_there_already_is_counted_not_added(path, tmp_path):
    write_sessions(SOME, path)
    with Store(tmp_path / "store.sqlite") as store:
        store.add_session(SOME[0])
        found = read_sessions(path)
        assert store.add_sessions(found + found, origin="table.csv") == 1
        assert [record.origin for record in store.records(DEVICE)] == [""]
        assert [record.origin for record in store.records(SOME[1].device)] == ["table.csv"]
        assert all(map(same, [store.sessions(one.device)[0] for one in SOME], SOME))
