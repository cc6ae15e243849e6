"""Old stores are brought to the present version, whole or not at all, also by several processes at once."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hardware import Device, Measurement, Score, Store
from hardware.store_schema import VERSION

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
FIRST = """
CREATE TABLE measurements (
    key TEXT NOT NULL, resolution INTEGER NOT NULL, fingerprint TEXT NOT NULL,
    device TEXT NOT NULL, repeats TEXT NOT NULL, warnings TEXT NOT NULL, added REAL NOT NULL,
    PRIMARY KEY (key, resolution, fingerprint)
);
CREATE TABLE scores (
    key TEXT NOT NULL, digest TEXT NOT NULL, split TEXT NOT NULL, metrics TEXT NOT NULL, added REAL NOT NULL,
    PRIMARY KEY (key, digest, split)
);
PRAGMA user_version = 1;
"""
OPENER = """
import sys
from hardware import Device, Measurement, Store
device = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
sys.stdin.read(1)
with Store(sys.argv[1]) as store:
    store.add_measurement(Measurement(device, sys.argv[2], 32, (1e-3,)))
"""


def measurement(key: str) -> Measurement:
    return Measurement(DEVICE, key, 32, (1e-3, 1.1e-3), 3, (2e-4,), ("be careful",))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store as the first version wrote it."""
    path = tmp_path / "old.sqlite"
    device = json.dumps({"name": "test", "hardware": "cpu", "runtime": "torch", "runtime_version": "2",
                         "provider": "cpu", "threads": 1, "batch_size": 1, "precision": "fp32"})  # fmt: skip
    repeats = json.dumps({"seconds": [1e-3, 1.1e-3], "calls_per_repeat": 3, "reference_seconds": [2e-4]})
    with sqlite3.connect(path) as database:
        database.executescript(FIRST)
        for i in range(300):
            row = (f"k{i}", 32, DEVICE.fingerprint, device, repeats, '["be careful"]', 1.7e9)
            database.execute("INSERT INTO measurements VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        database.execute("""INSERT INTO scores VALUES ('k0', 'd', 'validation', '{"accuracy": 0.5}', 1.7e9)""")
    database.close()
    return path


def version(path: Path) -> int:
    with sqlite3.connect(path) as database:
        return database.execute("PRAGMA user_version").fetchone()[0]


def test_a_store_of_the_first_version_is_brought_to_the_present(old, tmp_path):
    with Store(old) as store:
        assert store.measurements(DEVICE) == [measurement(f"k{i}") for i in range(300)]
        assert {record.added for record in store.records(DEVICE)} == {1.7e9}
        assert store.scores("d", "validation") == [Score("k0", "d", "validation", {"accuracy": 0.5})]
        assert store.add_failure("broken", 32, DEVICE, "operator missing")
        assert store.add_measurement(measurement("new"))
    assert version(old) == VERSION
    Store(tmp_path / "new.sqlite").close()
    tables = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"
    with sqlite3.connect(old) as a, sqlite3.connect(tmp_path / "new.sqlite") as b:
        layouts = [[(name, sql.split()) for name, sql in database.execute(tables)] for database in (a, b)]
        assert layouts[0] == layouts[1]
        assert a.execute("SELECT count(*) FROM measurements WHERE checksum = ''").fetchone() == (0,)


def test_several_processes_bring_it_up_at_once(old):
    command = [sys.executable, "-c", OPENER, str(old)]
    openers = [subprocess.Popen([*command, f"new{i}"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) for i in range(4)]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"x")
        opener.stdin.flush()
    assert [opener.communicate(timeout=60)[1] for opener in openers] == [b""] * 4
    with Store(old) as store:
        assert len(store.measurements(DEVICE)) == 304


def test_a_disk_that_is_full_leaves_the_old_store_as_it_was(old):
    before = old.read_bytes()
    limited = ["bash", "-c", f'ulimit -f 40; exec {sys.executable} -c "$0" {old} new', OPENER]
    done = subprocess.run(limited, input=b"x", capture_output=True, check=False)
    assert done.returncode == 1 and b"OSError: cannot use the store" in done.stderr
    with sqlite3.connect(old) as database:
        assert database.execute("SELECT count(*) FROM measurements").fetchone() == (300,)
    assert version(old) == 1
    assert len(old.read_bytes()) == len(before)
    with Store(old) as store:
        assert len(store.measurements(DEVICE)) == 300


def test_a_writer_of_the_first_version_may_have_it_open(old):
    # Its statement names no column of the second version; what it writes is read without a checksum.
    with sqlite3.connect(old) as writer, Store(old) as store:
        row = writer.execute("SELECT resolution, fingerprint, device, repeats, warnings FROM measurements").fetchone()
        writer.execute(
            "INSERT OR IGNORE INTO measurements (key, resolution, fingerprint, device, repeats, warnings, added) "
            "VALUES ('late', ?, ?, ?, ?, ?, 1.8e9)", row,
        )  # fmt: skip
        writer.commit()
        assert store.measurement("late", 32, DEVICE) == measurement("late")
