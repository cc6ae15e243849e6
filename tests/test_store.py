"""The store: keeps the first, mixes nothing, survives kills and company, and is one file."""

import dataclasses
import itertools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hardware import Device, Score, Session, Store
from hardware.device_changes import differences, explain_earlier
from hardware.loop.session import MeasuredNetwork

DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)

# Adds as many sessions, each of one network and 20 turns, and says so after every one.
WRITER = """
import sys
import numpy as np
from hardware import Device, Session, Store
from hardware.loop.session import MeasuredNetwork
device = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[2])):
        seconds = np.full((1, 20), 1e-3)
        networks = (MeasuredNetwork(str(i), 32),)
        store.add_session(Session(f"{sys.argv[3]}{i}", device, i, networks, seconds, 0 * seconds, ("",) * 20))
        print(i, flush=True)
"""


def session(keys="ab", id="one", n_turns=10, device=DEVICE, began=5.0, **more) -> Session:
    rng = np.random.default_rng(len(id))
    seconds = rng.lognormal(-7, 0.1, (len(keys), n_turns))
    seconds[0, n_turns // 2] = np.nan
    started = np.where(np.isnan(seconds), np.nan, rng.random(seconds.shape))
    networks = tuple(MeasuredNetwork(key, 32, 3, {"file_bytes": 1.0 + n}) for n, key in enumerate(keys))
    more.setdefault("doubts", ("busy",) + ("",) * (n_turns - 1))
    return Session(id, device, began, networks, seconds, started, **more)


def until(whole: Session, n_turns: int, **more) -> Session:
    """A session as it was after so many turns."""
    return dataclasses.replace(
        whole,
        seconds=whole.seconds[:, :n_turns],
        started=whole.started[:, :n_turns],
        doubts=whole.doubts[:n_turns],
        **more,
    )


def same(a: Session, b: Session) -> bool:
    names = ("id", "device", "began", "networks", "doubts", "purpose", "notes", "extras")
    arrays = all(np.array_equal(getattr(a, x), getattr(b, x), equal_nan=True) for x in ("seconds", "started"))
    return arrays and all(getattr(a, name) == getattr(b, name) for name in names)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite"


def count(path: Path, table: str = "sessions") -> int:
    with sqlite3.connect(path) as database:
        return database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def test_what_was_added_is_there_after_opening_again(path):
    one = session(purpose="final", notes=("take care",), extras={"clock_hz": 1e9})
    with Store(path) as store:
        assert store.add_session(one, origin="elsewhere.csv") == 10
        assert store.add_score(Score("a", "digest", "validation", {"accuracy": 0.5, "n_images": 10}))
    with Store(path) as store:
        (record,) = store.records(DEVICE)
        assert same(record.session, one) and record.origin == "elsewhere.csv" and abs(record.added - time.time()) < 60
        assert store.devices() == [DEVICE] and store.measured(DEVICE) == {("a", 32), ("b", 32)}
        assert set(store.measurements(DEVICE)) == {("a", 32), ("b", 32)}
        assert store.score("a", "digest", "validation").metrics == {"accuracy": 0.5, "n_images": 10}
        assert store.scores("digest", "validation") == [store.score("a", "digest", "validation")]


def test_a_session_grows_and_what_is_there_of_it_stays(path):
    whole = session(n_turns=30)
    with Store(path) as store:
        assert store.add_session(until(whole, 4)) == 4
        assert store.measured(DEVICE) == set()  # too few turns
        assert store.add_session(until(whole, 12)) == 8
        assert store.measured(DEVICE) == {("a", 32), ("b", 32)}
        changed = dataclasses.replace(whole, seconds=whole.seconds * 2, notes=("hot",), extras={"hz": 1.0})
        assert store.add_session(changed) == 18
        assert store.add_session(whole) == store.add_session(until(whole, 3)) == 0
        (there,) = store.sessions(DEVICE)
        np.testing.assert_array_equal(there.seconds[:, :12], whole.seconds[:, :12])
        np.testing.assert_array_equal(there.seconds[:, 12:], 2 * whole.seconds[:, 12:])
    with Store(path) as store:
        assert same(until(store.sessions(DEVICE)[0], 3), until(whole, 3, notes=there.notes, extras=there.extras))


def test_an_earlier_state_takes_no_notes_away(path):
    whole = session(notes=("hot",))
    with Store(path) as store:
        store.add_session(whole)
        assert store.add_session(until(whole, 4, notes=())) == 0
        assert store.sessions(DEVICE)[0].notes == ("hot",)


def test_part_of_a_session_that_is_there_adds_nothing_and_another_one_of_its_id_is_refused(path):
    whole = session("abc")
    part = dataclasses.replace(whole, networks=whole.networks[1:], seconds=whole.seconds[1:], started=whole.started[1:])
    with Store(path) as store:
        store.add_session(whole)
        assert store.add_sessions([part]) == 0
        assert same(store.sessions(DEVICE)[0], whole)
        newer = dataclasses.replace(DEVICE, runtime_version="3")
        for other in (session("abcd"), session("abx"), dataclasses.replace(whole, device=newer)):
            with pytest.raises(ValueError, match=r"session one is in .* take it into a new store") as caught:
                store.add_sessions([session("y", id="new"), other])
            assert "\n" not in str(caught.value) and "damaged" not in str(caught.value)
        assert len(store.sessions(DEVICE)) == 1  # all or none


def test_sessions_come_in_the_order_in_which_they_began(path, monkeypatch):
    clock = itertools.count(2e9, -1.0)  # of the machine that adds them runs backwards
    monkeypatch.setattr(time, "time", lambda: next(clock))
    with Store(path) as store:
        for began in (3.0, 1.0, 2.0):
            store.add_session(session(id=str(began), began=began))
        assert [record.session.began for record in store.records(DEVICE)] == [1.0, 2.0, 3.0]


def test_fingerprints_resolutions_digests_and_splits_are_kept_apart(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3")
    with Store(path) as store:
        store.add_session(session())
        store.add_score(Score("a", "d", "validation", {"accuracy": 0.5}))
        assert store.measured(dataclasses.replace(DEVICE, name="renamed")) == {("a", 32), ("b", 32)}
        assert store.measured(newer) == set() and store.sessions(newer) == [] and len(store.measurements(newer)) == 0
        store.add_session(session(id="two", device=newer))
        assert len(store.sessions(DEVICE)) == 1 and len(store.devices()) == 2
        assert not store.has_score("a", "d", "test")
        assert not store.has_score("a", "e", "validation")
        with pytest.raises(KeyError, match="not scored"):
            store.score("a", "d", "test")


def test_the_first_score_is_kept_and_only_finite_ones(path):
    with Store(path) as store:
        assert store.add_score(Score("a", "d", "validation", {"accuracy": 0.5}))
        assert not store.add_score(Score("a", "d", "validation", {"accuracy": 0.6}))
        assert store.score("a", "d", "validation").metrics["accuracy"] == 0.5
        with pytest.raises(ValueError, match="finite"):
            store.add_score(Score("a", "d", "validation", {"loss": float("nan")}))


# -- kills, copies and company ----------------------------------------------------------------------------------------


def test_survives_the_kill_of_a_writer_and_the_file_alone_has_it_all(path, tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), "1000000", "x"], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if line.strip() == "60":
                break
        os.kill(writer.pid, signal.SIGKILL)
        said = 60 + sum(1 for _ in writer.stdout)
    with Store(path) as store:
        keys = [int(one.networks[0].key) for one in store.sessions(DEVICE)]
        assert keys == list(range(len(keys)))
        assert len(keys) > said  # whatever was acknowledged is there
        assert store.add_session(session(began=1e9))
        # The file that the documentation names, copied while it is open.
        shutil.copy(path, tmp_path / "copied.sqlite")
        assert [file.name for file in tmp_path.iterdir() if file.name.startswith("store")] == ["store.sqlite"]
    with Store(tmp_path / "copied.sqlite", read_only=True) as store:
        assert len(store.sessions(DEVICE)) == len(keys) + 1


def test_several_processes_write_at_once(path):
    command = [sys.executable, "-c", WRITER, str(path), "30"]
    writers = [
        subprocess.Popen([*command, name], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for name in "abca"
    ]  # two of them add the same
    with Store(path) as store:
        while any(writer.poll() is None for writer in writers):
            store.sessions(DEVICE)
            time.sleep(0.01)
        assert [writer.communicate(timeout=60)[1] for writer in writers] == [b""] * 4
        assert len(store.sessions(DEVICE)) == 90


def test_several_open_a_new_store_at_once(path):
    def write(key: str) -> None:
        with Store(path) as store:
            store.add_session(session(id=key))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, "abcdefgh"))
    with Store(path) as store:
        assert len(store.sessions(DEVICE)) == 8


# Adds one large session, far more than SQLite keeps in memory.
BULK = """
import sys
import numpy as np
from hardware import Device, Session, Store
from hardware.loop.session import MeasuredNetwork
device = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
seconds = np.random.default_rng(0).random((200, 4000)) + 1
networks = tuple(MeasuredNetwork(str(i), 32) for i in range(200))
with Store(sys.argv[1]) as store:
    print("open", flush=True)
    store.add_session(Session("bulk", device, 9.0, networks, seconds, seconds, ("",) * 4000))
    print("done", flush=True)
"""


def test_a_kill_in_the_middle_of_a_write_leaves_all_or_nothing(path, tmp_path):
    with Store(path) as store:
        store.add_session(session())
    before = path.stat().st_size
    with subprocess.Popen([sys.executable, "-c", BULK, str(path)], stdout=subprocess.PIPE) as writer:
        while path.stat().st_size < before + 500_000:  # part of it is in the file
            assert writer.poll() is None
        os.kill(writer.pid, signal.SIGKILL)
        assert writer.stdout is not None and writer.stdout.read() == b"open\n"
    shutil.copytree(tmp_path, tmp_path / "copy")
    with Store(path) as store:
        assert [one.id for one in store.sessions(DEVICE)] == ["one"]
        assert store.add_session(session(id="two"))
    with Store(tmp_path / "copy" / "store.sqlite", read_only=True) as store:  # who only reads takes it back as well
        assert [one.id for one in store.sessions(DEVICE)] == ["one"]


def test_a_full_disk_is_one_line_and_loses_nothing(path):
    with Store(path) as store:
        store.add_session(session(began=-1.0))
    # A limit on the size of files fails like a full disk: in the middle of a write.
    limited = ["bash", "-c", f'ulimit -f 300; exec {sys.executable} -c "$0" {path} 1000000 x', WRITER]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    said = [int(line) for line in done.stdout.splitlines()]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("OSError: cannot use the store") and "is the disk full?" in last
    with Store(path) as store:
        ids = [one.id for one in store.sessions(DEVICE)]
        assert ids == ["one", *(f"x{i}" for i in said)] and len(said) > 20
        assert store.add_session(session(id="two"))


# -- files that are no stores, or must not be written -----------------------------------------------------------------


def test_reading_writes_nothing_at_all(path, tmp_path):
    with Store(path) as store:
        store.add_session(session())
        store.add_failure("c", 32, DEVICE, "no operator")
    before = path.read_bytes()
    with Store(path, read_only=True) as store:
        assert len(store.sessions(DEVICE)) == 1 and len(store.measurements(DEVICE)) == 2
        assert store.devices() == [DEVICE] and len(store.failures(DEVICE)) == 1
        assert [file.name for file in tmp_path.iterdir()] == ["store.sqlite"]
        for write in (lambda: store.add_session(session(id="two")), lambda: store.add_planned([("x", 32)], DEVICE)):
            with pytest.raises(OSError, match="readonly"):
                write()
    assert path.read_bytes() == before


def test_reading_needs_no_permission_to_write(path, tmp_path):
    strange = tmp_path / "a folder with [brackets], 100 % and #?"
    strange.mkdir()
    with Store(strange / "store.sqlite") as store:
        store.add_session(session())
    (strange / "store.sqlite").chmod(0o444)
    strange.chmod(0o555)
    try:
        with Store(strange / "store.sqlite", read_only=True) as store:
            assert len(store.sessions(DEVICE)) == 1
    finally:
        strange.chmod(0o755)
    for nothing in (tmp_path / "missing.sqlite", tmp_path):
        with pytest.raises(OSError, match="cannot use the store"):
            Store(nothing, read_only=True)
    assert not (tmp_path / "missing.sqlite").exists()
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty, which no store ever is"):
        Store(path, read_only=True)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_store_is_refused_and_stays_as_it_is(path, read_only):
    path.write_bytes(b"something else entirely" * 100)
    with pytest.raises(ValueError, match=str(path)):
        Store(path, read_only)
    assert path.read_bytes() == b"something else entirely" * 100


def test_a_damaged_store_is_one_clear_line(path):
    with Store(path) as store:
        for i in range(100):
            store.add_session(session(id=str(i)))
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged") as caught, Store(path) as store:
        store.sessions(DEVICE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE turns SET seconds = replace(seconds, '0.000', '0.009')",
        "UPDATE turns SET doubt = ''",
        "UPDATE turns SET turn = 99 WHERE turn = 3",
        "UPDATE networks SET key = 'c' WHERE number = 1",
        "UPDATE networks SET calls = 9",
        "UPDATE sessions SET notes = '[\"no\"]'",
        "UPDATE sessions SET began = 6",
        "DELETE FROM networks WHERE number = 1",
    ],
)
def test_what_is_not_as_it_was_written_is_noticed(path, change):
    with Store(path) as store:
        store.add_session(session())
    with sqlite3.connect(path) as database:
        database.execute(change)
    with pytest.raises(ValueError, match=r"is damaged: .*supernet measurements recover"), Store(path) as store:
        store.sessions(DEVICE)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("version", [1, 2, 99])
def test_a_store_of_another_version_is_refused_in_one_line(path, version, read_only):
    Store(path).close()
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"has schema {version}, .* measure into a new file") as caught:
        Store(path, read_only)
    assert "\n" not in str(caught.value) and path.read_bytes() == before


def test_another_database_is_refused(path):
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE recipes (name)")
    with pytest.raises(ValueError, match="no store"):
        Store(path)


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path):
    for path in (tmp_path / "missing" / "store.sqlite", tmp_path):
        with pytest.raises(OSError, match=str(path)):
            Store(path)


# -- failures, plans and devices --------------------------------------------------------------------------------------


def test_failures_are_kept_by_device_until_it_is_measured_after_all(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3")
    with Store(path) as store:
        assert store.add_failure("a", 32, DEVICE, "no operator\n  Mish")
        assert not store.add_failure("a", 32, DEVICE, "something else")
        (failure,) = store.failures(DEVICE)
        assert (failure.key, failure.resolution, failure.reason) == ("a", 32, "no operator Mish")
        assert failure.device == DEVICE and abs(failure.added - time.time()) < 60
        assert store.failures(newer) == [] and store.devices() == [DEVICE]
        store.add_session(session())
        assert store.failures(DEVICE) == []


def test_plans_keep_their_order_and_grow(path):
    with Store(path) as store:
        assert store.add_planned([("b", 32), ("a", 32)], DEVICE) == 2
        assert store.add_planned([("b", 32), ("a", 32), ("c", 24)], DEVICE) == 1
        assert store.planned(DEVICE) == [("b", 32), ("a", 32), ("c", 24)]
        assert store.measured(DEVICE) == set()


def test_what_changed_between_devices_of_one_name(path):
    newer = dataclasses.replace(DEVICE, runtime_version="3", threads=2)
    other = dataclasses.replace(newer, name="other")
    assert differences(DEVICE, newer) == ["runtime_version 2 → 3", "threads 1 → 2"]
    assert differences(newer, other) == []
    with Store(path) as store:
        store.add_session(session())
        assert explain_earlier(store, DEVICE) == [] and explain_earlier(store, other) == []
        (line,) = explain_earlier(store, newer)
        assert line == "test: 2 measurements are kept apart, since runtime_version 2 → 3; threads 1 → 2"
