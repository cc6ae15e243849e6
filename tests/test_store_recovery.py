"""A damaged store: told in one line, and everything that can still be read is saved."""

import dataclasses
import random
import sqlite3
from pathlib import Path

import pytest

from hardware import Device, Measurement, Score, Store
from hardware.store_recovery import recover

PAGE = 4096
DEVICE = Device("test", "cpu", "torch", "2", "cpu", threads=1, batch_size=1)
ONE = Measurement(DEVICE, "a", 32, tuple(1e-3 + 1e-6 * i for i in range(40)), 3, (2e-4,), ("be careful",))
MANY = [dataclasses.replace(ONE, key=f"k{i}") for i in range(400)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.add_measurements(MANY[:399], origin="elsewhere.csv")
        store.add_measurement(MANY[399])
        store.add_score(Score("k0", "d", "validation", {"accuracy": 0.5}))
        store.add_failure("broken", 32, DEVICE, "operator missing")
        store.add_planned([("k0", 32), ("broken", 32)], DEVICE)
    return path


def damage(path: Path, pages: list[int], rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for page in pages:
        content[page * PAGE : (page + 1) * PAGE] = rng.randbytes(PAGE)
    path.write_bytes(content)


def test_of_a_sound_store_everything_is_copied(path, tmp_path):
    done = recover(path, tmp_path / "new.sqlite")
    assert done.recovered == {"measurements": 400, "scores": 1, "failures": 1, "planned": 2}
    assert done.lost == 0 and done.rejected == 0
    with Store(path) as old, Store(tmp_path / "new.sqlite") as new:
        assert new.records(DEVICE) == old.records(DEVICE) and len(new.records(DEVICE)) == 400
        assert new.failures(DEVICE) == old.failures(DEVICE)
        assert new.planned(DEVICE) == old.planned(DEVICE)


@pytest.mark.parametrize("seed", range(4))
def test_pages_of_garbage_cost_only_what_lay_in_them(path, tmp_path, seed):
    rng = random.Random(seed)
    n_pages = path.stat().st_size // PAGE
    damage(path, rng.sample(range(1, n_pages), 6), rng)
    before = path.read_bytes()
    done = recover(path, tmp_path / "new.sqlite")
    assert path.read_bytes() == before
    with Store(tmp_path / "new.sqlite") as store:
        saved = store.measurements(DEVICE)
        assert 300 < len(saved) == done.recovered["measurements"] < 400
        assert all(measurement in MANY for measurement in saved)
        assert done.lost is None or done.lost >= 400 - len(saved)
        assert store.add_measurement(dataclasses.replace(ONE, key="and on it goes"))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["new.sqlite", "store.sqlite"]


def test_the_head_of_the_file_may_be_lost(path, tmp_path):
    damage(path, [0], random.Random(0))
    with pytest.raises(ValueError, match=r"damaged.*supernet measurements recover"):
        Store(path)
    recover(path, tmp_path / "new.sqlite")
    with Store(tmp_path / "new.sqlite") as store:
        assert store.measurements(DEVICE) == MANY


def test_half_a_file(path, tmp_path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = recover(path, tmp_path / "new.sqlite")
    assert 100 < done.recovered["measurements"] < 300 and done.lost is None


def test_what_lies_in_the_log_is_saved_too(path, tmp_path):
    with Store(path) as store:  # still open, so not written back yet
        store.add_measurement(ONE)
        assert Path(f"{path}-wal").stat().st_size > 0
        assert recover(path, tmp_path / "new.sqlite").recovered["measurements"] == 401


def test_a_digit_that_the_disk_changed_is_noticed(path, tmp_path):
    content = path.read_bytes()
    place = content.index(b"0.001038", len(content) // 2)
    path.write_bytes(content[:place] + b"0.009038" + content[place + 8 :])
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)  # SQLite does not see it
    with pytest.raises(ValueError, match=r"is damaged: what is stored for 'k"), Store(path) as store:
        store.measurements(DEVICE)
    done = recover(path, tmp_path / "new.sqlite")
    assert done.rejected == 1 and done.recovered["measurements"] == 399


def test_what_is_no_store_and_an_existing_file_are_refused(path, tmp_path):
    (tmp_path / "letter.txt").write_text("dear " * 2000)
    with pytest.raises(ValueError, match=r"nothing in .*letter.txt can be read"):
        recover(tmp_path / "letter.txt", tmp_path / "new.sqlite")
    assert not (tmp_path / "new.sqlite").exists()
    with pytest.raises(ValueError, match=r"exists; give a new file"):
        recover(path, tmp_path / "letter.txt")
    with pytest.raises(ValueError, match=r"is not a file"):
        recover(tmp_path / "missing.sqlite", tmp_path / "new.sqlite")
