"""A damaged store: told in one line, and everything that can still be read is saved."""

import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from hardware import Device, Score, Session, Store
from hardware.loop.session import MeasuredNetwork
from hardware.store.recovery import recover

PAGE = 4096
DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
N_TURNS, N_NETWORKS = 30, 12


def session(number: int) -> Session:
    rng = np.random.default_rng(number)
    seconds = rng.lognormal(-7, 0.1, (N_NETWORKS, N_TURNS))
    networks = tuple(MeasuredNetwork(f"k{i}", 32) for i in range(N_NETWORKS))
    return Session(f"s{number:02}", DEVICE, number, networks, seconds, seconds, ("",) * N_TURNS, notes=("be careful",))


SESSIONS = {one.id: one for one in map(session, range(40))}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.add_sessions(list(SESSIONS.values())[:39], origin="elsewhere.csv")
        store.add_session(SESSIONS["s39"])
        store.add_score(Score("k0", "d", "validation", {"accuracy": 0.5}))
        store.add_failure("broken", 32, DEVICE, "operator missing")
        store.add_planned([("k0", 32), ("broken", 32)], DEVICE)
    return path


def damage(path: Path, pages: list[int], rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[page * PAGE : (page + 1) * PAGE] = rng.randbytes(PAGE)
    path.write_bytes(content)


def rows(session: Session) -> set[tuple[str, ...]]:
    """Every repeat with whose it is, and in which turn, by the seconds: no two are the same."""
    return {
        (network.key, repr(seconds)) for network, row in zip(session.networks, session.seconds.tolist(), strict=True)
        for seconds in row
    }  # fmt: skip


def same(a: Session, b: Session) -> bool:
    return a.networks == b.networks and a.notes == b.notes and np.array_equal(a.seconds, b.seconds)


def test_of_a_sound_store_everything_is_copied(path, tmp_path):
    done = recover(path, tmp_path / "new.sqlite")
    turns = 40 * N_TURNS
    assert done.recovered == {
        "sessions": 40, "networks": 40 * N_NETWORKS, "turns": turns, "scores": 1, "failures": 1, "planned": 2,
    }  # fmt: skip
    assert done.lost == 0 and done.rejected == 0
    with Store(path) as old, Store(tmp_path / "new.sqlite") as new:
        before, after = old.records(DEVICE), new.records(DEVICE)
        assert len(after) == 40 and all(same(a.session, b.session) for a, b in zip(before, after, strict=True))
        assert [(r.origin, r.added) for r in before] == [(r.origin, r.added) for r in after]
        assert new.failures(DEVICE) == old.failures(DEVICE) and len(new.failures(DEVICE)) == 1
        assert new.planned(DEVICE) == old.planned(DEVICE)
        assert new.measured(DEVICE) == old.measured(DEVICE)


@pytest.mark.parametrize("seed", range(6))
def test_pages_of_garbage_cost_only_what_lay_in_them(path, tmp_path, seed):
    rng = random.Random(seed)
    n_pages = path.stat().st_size // PAGE
    damage(path, rng.sample(range(1, n_pages), 6), rng)
    before = path.read_bytes()
    done = recover(path, tmp_path / "new.sqlite")
    assert path.read_bytes() == before
    with Store(tmp_path / "new.sqlite") as store:
        saved = store.sessions(DEVICE)
        assert 20 < len(saved) == done.recovered["sessions"]
        assert sum(one.n_turns for one in saved) == done.recovered["turns"]
        assert sum(len(one.networks) for one in saved) == done.recovered["networks"]
        for one in saved:  # whatever is left of a session is true
            assert rows(one) <= rows(SESSIONS[one.id]) and one.notes == ("be careful",)
        assert {name for one in saved for name in one.names} == store.measured(DEVICE)
        assert len(store.measurements(DEVICE)) > 0
        assert done.lost is None or done.lost > 0
        assert store.add_session(session(99))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.sqlite", "store.sqlite"]


def test_a_network_that_is_lost_leaves_the_others_of_its_session(path, tmp_path):
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM networks WHERE session = 's07' AND number IN (3, 11)")
        database.execute("DELETE FROM turns WHERE session = 's07' AND turn IN (0, 12)")
        database.execute("DELETE FROM turns WHERE session = 's08' AND turn > 3")
        database.execute("DELETE FROM sessions WHERE id = 's09'")
        database.execute("DELETE FROM networks WHERE session = 's10'")
    with pytest.raises(ValueError, match="damaged"), Store(path) as store:
        store.sessions(DEVICE)
    recover(path, tmp_path / "new.sqlite")
    with Store(tmp_path / "new.sqlite") as store:
        saved = {one.id: one for one in store.sessions(DEVICE)}
        assert SESSIONS.keys() - saved.keys() == {"s09", "s10"}
        left = [i for i in range(N_NETWORKS) if i not in (3, 11)]
        turns = [turn for turn in range(N_TURNS) if turn not in (0, 12)]
        assert saved["s07"].networks == tuple(SESSIONS["s07"].networks[i] for i in left)
        np.testing.assert_array_equal(saved["s07"].seconds, SESSIONS["s07"].seconds[left][:, turns])
        assert saved["s08"].n_turns == 4 and saved["s08"].measured == ()
        assert all(same(saved[id], SESSIONS[id]) for id in saved if id not in ("s07", "s08"))


def test_the_head_of_the_file_may_be_lost(path, tmp_path):
    damage(path, [0], random.Random(0))
    with pytest.raises(ValueError, match=r"damaged.*supernet measurements recover"):
        Store(path)
    recover(path, tmp_path / "new.sqlite")
    with Store(tmp_path / "new.sqlite") as store:
        assert all(same(one, SESSIONS[one.id]) for one in store.sessions(DEVICE)) and len(store.sessions(DEVICE)) == 40


def test_half_a_file(path, tmp_path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = recover(path, tmp_path / "new.sqlite")
    assert 5 < done.recovered["sessions"] <= 40 and done.lost is None
    with Store(tmp_path / "new.sqlite") as store:
        for one in store.sessions(DEVICE):
            assert rows(one) <= rows(SESSIONS[one.id])


def test_what_a_kill_left_half_written_is_taken_back(path, tmp_path):
    whole = tmp_path / "whole.sqlite"
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute("PRAGMA cache_size = 1")  # so that it writes before it is told to
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE turns SET seconds = replace(seconds, '0.000', '0.009')")
        assert Path(f"{path}-journal").exists()
        for suffix in ("", "-journal"):
            shutil.copyfile(f"{path}{suffix}", f"{whole}{suffix}")
        database.execute("ROLLBACK")
    done = recover(whole, tmp_path / "new.sqlite")
    assert done.recovered["turns"] == 40 * N_TURNS and done.rejected == 0


def test_a_digit_that_the_disk_changed_is_noticed(path, tmp_path):
    content = path.read_bytes()
    value = repr(float(SESSIONS["s20"].seconds[4, 5])).encode()
    assert content.count(value) == 2  # when it began, in this test
    path.write_bytes(content.replace(value, value[:-1] + (b"1" if value[-1:] != b"1" else b"2")))
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)  # SQLite does not see it
    with pytest.raises(ValueError, match=r"is damaged: what is stored for 's20' in turns"), Store(path) as store:
        store.sessions(DEVICE)
    done = recover(path, tmp_path / "new.sqlite")
    assert done.rejected == 1 and done.recovered["turns"] == 40 * N_TURNS - 1
    with Store(tmp_path / "new.sqlite") as store:
        assert len(store.sessions(DEVICE)) == 40


def test_what_is_no_store_and_an_existing_file_are_refused(path, tmp_path):
    (tmp_path / "letter.txt").write_text("dear " * 2000)
    with pytest.raises(ValueError, match=r"nothing in .*letter.txt can be read"):
        recover(tmp_path / "letter.txt", tmp_path / "new.sqlite")
    assert not (tmp_path / "new.sqlite").exists()
    with pytest.raises(ValueError, match=r"exists; give a new file"):
        recover(path, tmp_path / "letter.txt")
    with pytest.raises(ValueError, match=r"is not a file"):
        recover(tmp_path / "missing.sqlite", tmp_path / "new.sqlite")
