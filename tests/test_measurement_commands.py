"""`supernet measurements` on the store of a small run."""

import csv
import dataclasses
import re
import shutil
import sqlite3

import pytest

from hardware import Store


@pytest.fixture
def run(finished_run, tmp_path):
    """A copy of a finished run that may be changed."""
    shutil.copytree(finished_run, tmp_path / "run")
    return tmp_path / "run"


def count(run):
    with sqlite3.connect(run / "store.sqlite") as database:
        return database.execute("SELECT count(*) FROM measurements").fetchone()[0]


def test_list_has_a_row_for_every_device_and_says_what_is_kept_apart(command, run):
    with Store(run / "store.sqlite") as store:
        one, eight = store.devices()
        n = [len(store.measurements(device)) for device in (one, eight)]
        newer = dataclasses.replace(one, runtime_version="99.0")
        store.add_measurement(dataclasses.replace(store.measurements(one)[0], device=newer))
        store.add_failure("broken", 20, eight, "operator missing")
        store.add_planned([("broken", 20), ("not yet", 20)], eight)
    printed = command("measurements", "list", run).stdout
    assert re.search(
        rf"^{one.fingerprint} one: .*\n  {n[0]} measured, medians .* with a warning$", printed, re.MULTILINE
    )
    assert re.search(rf"^{eight.fingerprint} eight: .*\n  {n[1]} measured", printed, re.MULTILINE)
    assert "1 failed; the first: broken at 20 px: operator missing\n  1 are planned and not measured yet" in printed
    assert f"one: {one.fingerprint} and {newer.fingerprint} are kept apart: runtime_version" in printed
    assert "→ 99.0" in printed
    only = command("measurements", "list", run, "--device", "eight").stdout
    assert eight.fingerprint in only and one.fingerprint not in only


def test_show_has_every_device_and_the_shape_of_the_repeats(command, run):
    with Store(run / "store.sqlite") as store:
        one, _ = store.devices()
        measurement = store.measurements(one)[0]
        store.add_failure("broken", 20, one, "operator missing")
    printed = command("measurements", "show", run, measurement.key[:6]).stdout
    assert printed.count(f"{measurement.key} at {measurement.resolution} px on ") == 2
    assert f"{len(measurement.seconds)} repeats of" in printed and "95 % interval" in printed and "█" in printed
    assert "operator missing" in command("measurements", "show", run, "broken").stdout
    done = command("measurements", "show", run, "", check=2)
    assert done.stderr.count("\n") == 1 and "nothing with the id ''" in done.stderr


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_and_import_carry_everything_to_another_store(command, run, tmp_path, suffix):
    table, other = tmp_path / f"table.{suffix}", tmp_path / "other.sqlite"
    n = count(run)
    assert f"{n} measurements written" in command("measurements", "export", run, "--out", table).stdout
    Store(other).close()
    assert f"{n} measurements added, 0 were there" in command("measurements", "import", other, table).stdout
    assert f"0 measurements added, {n} were there" in command("measurements", "import", other, table).stdout
    with Store(run / "store.sqlite") as a, Store(other) as b:
        for device in a.devices():
            assert a.measurements(device) == b.measurements(device)
            assert {record.origin for record in b.records(device)} == {table.name}


def test_an_edited_table_is_refused_as_a_whole(command, run, tmp_path):
    table, other = tmp_path / "table.csv", tmp_path / "other.sqlite"
    command("measurements", "export", run, "--out", table, "--device", "one")
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("seconds")
    rows[-1][column] = rows[-1][column].replace("[", "[1", 1)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    Store(other).close()
    done = command("measurements", "import", other, table, check=2)
    assert done.stderr.count("\n") == 1 and f"row {len(rows) - 1}: the measurement of" in done.stderr
    with Store(other) as store:
        assert store.devices() == []


def test_a_damaged_store_is_told_and_saved(command, run, tmp_path):
    store = run / "store.sqlite"
    with Store(store):
        pass  # writes the log back into the file
    content = bytearray(store.read_bytes())
    content[:4096] = bytes(4096)
    store.write_bytes(content)
    done = command("measurements", "list", run, check=2)
    assert done.stderr.count("\n") == 1 and f"supernet measurements recover {store} --out NEW" in done.stderr
    printed = command("measurements", "recover", store, "--out", tmp_path / "new.sqlite").stdout
    assert "measurements" in printed and "0 rows could not be read" in printed
    assert len(command("measurements", "list", tmp_path / "new.sqlite").stdout.splitlines()) > 3


def test_what_is_not_there_is_one_line(command, run, tmp_path):
    for arguments, message in (
        (("list", tmp_path), "there is no store at"),
        (("list", run, "--device", "phone"), "there are: one, eight"),
        (("import", run, tmp_path / "missing.csv"), "missing.csv"),
        (("export", run, "--out", tmp_path / "table.txt"), "tables end in .csv or .parquet"),
        (("recover", tmp_path / "missing", "--out", tmp_path / "new"), "is not a file"),
    ):
        done = command("measurements", *arguments, check=2)
        assert done.stderr.count("\n") == 1 and message in done.stderr
    assert not (tmp_path / "new").exists() and not (tmp_path / "store.sqlite").exists()
