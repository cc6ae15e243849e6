"""`supernet measurements` on the store of a small run."""

import csv
import dataclasses
import json
import re
import shutil
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from hardware import Device, Session, Store
from hardware.loop.session import MeasuredNetwork

ONE = Device("one", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
EIGHT = dataclasses.replace(ONE, name="eight", batch_size=8)


def session(keys, device, *, factor=1.0, id="s", began=0.0, **more):
    """A network "7" takes 7 ms."""
    rng = np.random.default_rng(len(id))
    logs = np.log([[1e-3 * int(key) * factor] for key in keys])
    seconds = np.exp(logs + 0.1 * rng.standard_normal(30) + 0.01 * rng.standard_normal((len(keys), 30)))
    networks = tuple(MeasuredNetwork(str(key), 20, 2) for key in keys)
    return Session(id, device, 1.7e9 + began, networks, seconds, np.zeros_like(seconds), ("",) * 30, **more)


@pytest.fixture
def run(tmp_path):
    """A folder with a store."""
    folder = tmp_path / "run"
    folder.mkdir()
    with Store(folder / "store.sqlite") as store:
        store.add_session(session(range(1, 20), ONE, id="first"))
        store.add_session(session(range(10, 30), ONE, id="second", began=7e5, purpose="final"))
        store.add_session(session(range(10, 20), EIGHT, id="third", factor=8.0, notes=("hot; mend that",)))
    return folder


def test_list_says_of_every_device_what_people_should_know(command, run):
    newer = dataclasses.replace(ONE, runtime_version="99.0")
    with Store(run / "store.sqlite") as store:
        store.add_session(session(range(1, 4), newer, id="new"))
        store.add_failure("broken", 20, EIGHT, "operator missing")
        store.add_planned([("broken", 20), ("not yet", 20)], EIGHT)
    printed = command("measurements", "list", run).stdout
    assert re.search(rf"^{ONE.fingerprint} one: .*\n  29 networks in 2 sessions, .* to .*; ", printed, re.MULTILINE)
    assert re.search(r"; 1\S* ms to [23]\S* ms on one level\n", printed)
    assert re.search(r"within sessions the machine's speed moved by up to \d+%", printed)
    assert re.search(rf"^{EIGHT.fingerprint} eight: .*\n  10 networks in 1 session, ", printed, re.MULTILINE)
    assert "1 failed; the first: broken at 20 px: operator missing\n" in printed
    assert "measurements retry` has them tried" in printed and "1 are planned and not measured yet" in printed
    assert "  note: eight, 14 November 2023" in printed and ": hot; mend that" in printed
    assert f"one: {ONE.fingerprint} and {newer.fingerprint} are kept apart: runtime_version 2 → 99.0" in printed
    only = command("measurements", "list", run, "--device", "eight").stdout
    assert EIGHT.fingerprint in only and ONE.fingerprint not in only


def test_show_has_the_common_level_every_session_and_the_shape_of_the_repeats(command, run):
    with Store(run / "store.sqlite") as store:
        store.add_failure("broken", 20, ONE, "operator missing")
        store.add_session(session([15, 90], ONE, id="imported", began=9e5), origin="table.csv")
    printed = command("measurements", "show", run, "15").stdout
    assert printed.count("15 at 20 px on ") == 2
    assert re.search(
        r"\n  1[45]\S* ms, 95 % interval 1\S* ms to 1\S* ms \(±\d.\d%\), on the level of the session of", printed
    )
    assert "90 repeats on this level" in printed and "█" in printed
    for line in (
        r"session first \(planned\) of .*: 1\S* ms ±\d.\d% beside 18 other networks, 30 repeats of 2 calls",
        r"session second \(final\) of .* beside 19 other networks",
        r"session imported \(planned\) of .*, imported from table.csv: .* beside 1 other network, 30 repeats",
        r"warning: hot; mend that",
    ):
        assert re.search(rf"\n  {line}", printed), line
    assert "operator missing" in command("measurements", "show", run, "broken").stdout
    # A whole id is one, although others begin so; and what begins several is none.
    assert command("measurements", "show", run, "2").stdout.startswith("2 at 20 px on one")
    with Store(run / "store.sqlite") as store:
        store.add_failure("brittle", 20, ONE, "operator missing")
    for key, message in (("", "nothing with the id ''"), ("br", "begins the ids of 2 networks: brittle, broken; give")):
        done = command("measurements", "show", run, key, check=2)
        assert done.stderr.count("\n") == 1 and message in done.stderr


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_export_and_import_carry_everything_to_another_store(command, run, tmp_path, suffix):
    table, other = tmp_path / f"table.{suffix}", tmp_path / "other.sqlite"
    printed = command("measurements", "export", run, "--out", table).stdout
    assert "3 sessions of 39 networks written" in printed
    Store(other).close()
    assert "3 sessions added, 0 were there already" in command("measurements", "import", other, table).stdout
    assert "0 sessions added, 3 were there already" in command("measurements", "import", other, table).stdout
    with Store(run / "store.sqlite") as a, Store(other) as b:
        for device in a.devices():
            pairs = zip(a.sessions(device), b.sessions(device), strict=True)
            assert all(np.array_equal(x.seconds, y.seconds) and x.networks == y.networks for x, y in pairs)
            assert {record.origin for record in b.records(device)} == {table.name}


def test_an_edited_table_is_refused_as_a_whole(command, run, tmp_path):
    table, other = tmp_path / "table.csv", tmp_path / "other.sqlite"
    command("measurements", "export", run, "--out", table, "--device", "one")
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("seconds")
    rows[-1][column] = rows[-1][column].replace("[", "[-", 1)
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    Store(other).close()
    done = command("measurements", "import", other, table, check=2)
    assert done.stderr.count("\n") == 1 and f"row {len(rows) - 1}: seconds holds -" in done.stderr
    with Store(other) as store:
        assert store.devices() == []


def test_a_session_that_is_there_with_other_networks_is_one_line(command, run, tmp_path):
    table, other = tmp_path / "table.csv", tmp_path / "other.sqlite"
    command("measurements", "export", run, "--out", table)
    with Store(other) as store:
        store.add_session(session([1, 2], ONE, id="first"))
    done = command("measurements", "import", other, table, check=2)
    assert done.stderr.count("\n") == 1 and "session first is in" in done.stderr and "into a new store" in done.stderr


def test_what_only_reads_writes_nothing(command, run, tmp_path):
    before = {file.name: file.read_bytes() for file in run.iterdir()}
    for verb, *more in (("list",), ("show", "15"), ("export", "--out", tmp_path / "table.csv")):
        command("measurements", verb, run, *more)
    assert {file.name: file.read_bytes() for file in run.iterdir()} == before


def read_only_mounts_are_possible():
    return shutil.which("unshare") and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not read_only_mounts_are_possible(), reason="needs the right to mount")
def test_a_run_that_is_mounted_read_only_can_be_read(run, tmp_path):
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    supernet = f"{sys.executable} -m experiments measurements"
    script = f"""mount --bind {run} {mounted} && mount -o remount,ro,bind {mounted} || exit 9
        touch {mounted}/x 2>/dev/null && exit 8
        {supernet} list {mounted} && {supernet} show {mounted} 15 && {supernet} export {mounted} --out {tmp_path}/t.csv
    """
    done = subprocess.run(["unshare", "-m", "bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "39 networks written" in done.stdout, done.stderr


def test_a_damaged_store_is_told_and_saved(command, run, tmp_path):
    store = run / "store.sqlite"
    content = bytearray(store.read_bytes())
    content[:4096] = bytes(4096)
    store.write_bytes(content)
    done = command("measurements", "list", run, check=2)
    assert done.stderr.count("\n") == 1 and f"supernet measurements recover {store} --out NEW" in done.stderr
    printed = command("measurements", "recover", store, "--out", tmp_path / "new.sqlite").stdout
    assert "3 sessions, 49 networks, 90 turns" in printed and "0 rows could not be read" in printed
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


def test_a_backup_is_whole_and_what_is_not_whole_says_so(command, run, tmp_path):
    store, out = run / "store.sqlite", tmp_path / "backup.sqlite"
    printed = command("measurements", "backup", run, "--out", out).stdout
    assert "3 sessions, 49 networks, 90 turns, 0 scores; checked" in printed
    with Store(store) as a, Store(out, read_only=True) as b:
        for device in a.devices():
            pairs = zip(a.sessions(device), b.sessions(device), strict=True)
            assert all(np.array_equal(x.seconds, y.seconds) for x, y in pairs)
    assert "exists; give a new file" in command("measurements", "backup", run, "--out", out, check=2).stderr

    def told(content, verb="list", *more):
        (tmp_path / "copy.sqlite").write_bytes(content)
        done = command("measurements", verb, tmp_path / "copy.sqlite", *more, check=2)
        assert done.stderr.count("\n") == 1
        return done.stderr

    content = store.read_bytes()
    for verb in (("list",), ("show", "15"), ("export", "--out", tmp_path / "t.csv"), ("retry",)):
        assert "is empty, which no store ever is" in told(b"", *verb)
        assert "is not whole: " in told(content[: len(content) // 2 // 4096 * 4096], *verb)
    for change in (
        "DELETE FROM turns WHERE session = 'first' AND turn = 29",
        "DELETE FROM turns WHERE session = 'first' AND turn = 2",
        "DELETE FROM networks WHERE session = 'second'",
        "UPDATE turns SET seconds = '[0.1]' WHERE session = 'third' AND turn = 4",
    ):
        with sqlite3.connect(tmp_path / "torn.sqlite") as database:
            database.deserialize(content)
            database.execute(change)
            database.commit()
            torn = database.serialize()
        assert "is not whole: " in told(torn), change
        (tmp_path / "torn2.sqlite").write_bytes(torn)
        done = command("measurements", "backup", tmp_path / "torn2.sqlite", "--out", tmp_path / "b2", check=2)
        assert "is not whole" in done.stderr and not (tmp_path / "b2").exists()


def test_a_store_is_backed_up_while_it_is_written(command, run, tmp_path):
    with Store(run / "store.sqlite") as store:
        store._file.connection.execute("BEGIN IMMEDIATE")
        store._file.connection.execute("DELETE FROM turns")
        printed = command("measurements", "backup", run, "--out", tmp_path / "backup.sqlite").stdout
        store._file.connection.execute("ROLLBACK")
    assert "90 turns" in printed


def test_a_run_becomes_studies_of_optuna(command, finished_run, tmp_path):
    optuna = pytest.importorskip("optuna")
    out = tmp_path / "studies.db"
    command("measurements", "studies", finished_run, "--out", out)
    goals = json.loads((finished_run / "front.json").read_text())["goals"]
    for name, goal in goals.items():
        study = optuna.load_study(study_name=f"{finished_run.name}: {name}", storage=f"sqlite:///{out}")
        assert study.metric_names == goal["objectives"] and len(study.trials) == len(goal["candidates"])
        best = {tuple(trial.values) for trial in study.best_trials}
        front = [tuple(c["values"][one] for one in goal["objectives"]) for c in goal["front"]["candidates"]]
        assert best == set(front)
    assert "is there already" in command("measurements", "studies", finished_run, "--out", out, check=2).stderr
