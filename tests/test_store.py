"""The store: keeps the first, mixes nothing, survives kills and company."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardware import Device, Measurement, Score, Store
from hardware.device_changes import differences, explain_earlier

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
ONE = Measurement(DEVICE, "a", 32, (1e-3, 1.1e-3), 3, (2e-4,), ("be careful",))

WRITER = """
import sys
import time
from hardware import Device, Measurement, Store
device = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2])):
        store.add_measurement(Measurement(device, str(i), 32, (1e-3,) * 50))
        print(i, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def test_what_was_added_is_there_after_opening_again(path):
    with Store(path) as store:
        assert store.add_measurement(ONE)
        assert store.add_score(Score("a", "digest", "validation", {"accuracy": 0.5, "n_images": 10}))
    with Store(path) as store:
        assert store.measurement("a", 32, DEVICE) == ONE
        assert store.measurements(DEVICE) == [ONE]
        assert store.devices() == [DEVICE]
        assert store.score("a", "digest", "validation").metrics == {"accuracy": 0.5, "n_images": 10}
        assert store.scores("digest", "validation") == [store.score("a", "digest", "validation")]


def test_the_first_is_kept(path):
    with Store(path) as store:
        assert store.add_measurement(ONE)
        assert not store.add_measurement(dataclasses.replace(ONE, seconds=(5.0,)))
        assert store.measurements(DEVICE) == [ONE]
        assert store.add_score(Score("a", "d", "validation", {"accuracy": 0.5}))
        assert not store.add_score(Score("a", "d", "validation", {"accuracy": 0.6}))
        assert store.score("a", "d", "validation").metrics["accuracy"] == 0.5


def test_fingerprints_resolutions_digests_and_splits_are_kept_apart(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3")
    with Store(path) as store:
        store.add_measurement(ONE)
        store.add_score(Score("a", "d", "validation", {"accuracy": 0.5}))
        assert store.has_measurement("a", 32, dataclasses.replace(DEVICE, name="renamed"))
        assert not store.has_measurement("a", 32, newer)
        assert not store.has_measurement("a", 64, DEVICE)
        assert store.measurements(newer) == []
        assert store.add_measurement(dataclasses.replace(ONE, device=newer))
        assert len(store.measurements(DEVICE)) == 1
        assert len(store.devices()) == 2
        assert not store.has_score("a", "d", "test")
        assert not store.has_score("a", "e", "validation")
        with pytest.raises(KeyError, match="not measured"):
            store.measurement("b", 32, DEVICE)
        with pytest.raises(KeyError, match="not scored"):
            store.score("a", "d", "test")


def test_only_finite_metrics(path):
    with Store(path) as store, pytest.raises(ValueError, match="finite"):
        store.add_score(Score("a", "d", "validation", {"loss": float("nan")}))


def test_survives_the_kill_of_a_writer(path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "1000000"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip() == "60":
                break
        os.kill(writer.pid, signal.SIGKILL)
        said = 60 + sum(1 for _ in writer.stdout)
    with Store(path) as store:
        keys = [int(measurement.key) for measurement in store.measurements(DEVICE)]
        assert keys == list(range(len(keys)))
        assert len(keys) > said  # whatever was acknowledged is there
        assert store.add_measurement(ONE)


def test_several_processes_write_at_once(path):
    command = [sys.executable, "-c", WRITER, str(path), "40"]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert errors == [b""] * 4
    with Store(path) as store:
        assert sorted(int(measurement.key) for measurement in store.measurements(DEVICE)) == list(range(40))


def test_several_open_a_new_store_at_once(path):
    def write(key: str) -> None:
        with Store(path) as store:
            store.add_measurement(dataclasses.replace(ONE, key=key))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh"))
    with Store(path) as store:
        assert len(store.measurements(DEVICE)) == 8


def test_a_file_that_is_no_store_is_refused_and_stays_as_it_is(path):
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ValueError, match=str(path)):
        Store(path)
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_damaged_store_is_one_clear_line(path):
    with Store(path) as store:
        for i in range(300):
            store.add_measurement(dataclasses.replace(ONE, key=str(i)))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as caught, Store(path) as store:
        store.measurements(DEVICE)
    assert "\n" not in str(caught.value)


def test_another_database_or_a_newer_schema_is_refused(path, tmp_path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE recipes (name)")
    with pytest.raises(ValueError, match="no store"):
        Store(path)
    newer = tmp_path / "newer.sqlite"
    Store(newer).close()
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(ValueError, match="schema 99"):
        Store(newer)


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    for path in (tmp_path / "missing" / "store.sqlite", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            Store(path)


BULK = """
import sys
import time
from hardware import Device, Measurement, Store
device = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
with Store(sys.argv[1]) as store:
    print("open", flush=True)
    store.add_measurements(Measurement(device, str(i), 32, (1e-3,) * 200) for i in range(4000))
    print("done", flush=True)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_all_or_nothing(path):
    with Store(path) as store:
        store.add_measurement(ONE)
    with subprocess.Popen([sys.executable, "-c", BULK, str(path)], stdout=subprocess.PIPE) as writer:
        log = Path(f"{path}-wal")
        while not (log.exists() and log.stat().st_size > 500_000):  # half of it is in the log
            assert writer.poll() is None
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.stdout is not None and writer.stdout.read() == b"open\n"
    with Store(path) as store:
        assert store.measurements(DEVICE) == [ONE]
        assert store.add_measurement(dataclasses.replace(ONE, key="b"))


def test_a_full_disk_is_one_line_and_loses_nothing(path):
    with Store(path) as store:
        store.add_measurement(ONE)
    # A limit on the size of files fails like a full disk: in the middle of a write.
    limited = ["bash", "-c", f'ulimit -f 800; exec {sys.executable} -c "$0" {path} 1000000', WRITER]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    said = [int(line) for line in done.stdout.splitlines()]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError: cannot use the store") and "is the disk full?" in last
    with Store(path) as store:
        keys = [measurement.key for measurement in store.measurements(DEVICE)]
        assert keys == ["a", *map(str, said)] and len(said) > 20
        assert store.add_measurement(dataclasses.replace(ONE, key="b"))


def test_a_clock_that_jumps_back_changes_no_order(path, monkeypatch):
    clock = iter([2e9, 1e9, 0.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    with Store(path) as store:
        for key in "abc":
            store.add_measurement(dataclasses.replace(ONE, key=key))
        assert [record.measurement.key for record in store.records(DEVICE)] == ["a", "b", "c"]
        assert [record.added for record in store.records(DEVICE)] == [2e9, 1e9, 0.0]


def test_failures_are_kept_by_device_until_it_is_measured_after_all(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3")
    with Store(path) as store:
        assert store.add_failure("a", 32, DEVICE, "no operator\n  Mish")
        assert not store.add_failure("a", 32, DEVICE, "something else")
        (failure,) = store.failures(DEVICE)
        assert (failure.key, failure.resolution, failure.reason) == ("a", 32, "no operator Mish")
        assert failure.device == DEVICE and abs(failure.added - time.time()) < 60
        assert store.failures(newer) == [] and store.devices() == [DEVICE]
        store.add_measurement(ONE)
        assert store.failures(DEVICE) == []


def test_plans_keep_their_order_and_grow(path):
    with Store(path) as store:
        assert store.add_planned([("b", 32), ("a", 32)], DEVICE) == 2
        assert store.add_planned([("b", 32), ("a", 32), ("c", 24)], DEVICE) == 1
        assert store.planned(DEVICE) == [("b", 32), ("a", 32), ("c", 24)]
        store.add_measurements([ONE])
        assert store.measured(DEVICE) == {("a", 32)}


def test_what_changed_between_devices_of_one_name(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3", threads=2)
    other = dataclasses.replace(newer, name="other")
    assert differences(DEVICE, newer) == ["runtime_version 2 → 3", "threads 1 → 2"]
    assert differences(newer, other) == []
    with Store(path) as store:
        store.add_measurements([ONE, dataclasses.replace(ONE, key="b")])
        assert explain_earlier(store, DEVICE) == [] and explain_earlier(store, other) == []
        (line,) = explain_earlier(store, newer)
        assert line == "test: 2 measurements are kept apart, since runtime_version 2 → 3; threads 1 → 2"
