"""The processes that read images: any number makes the same batches, and none is lost, left over or silent."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import time
from collections.abc import Iterable, Iterator
from itertools import chain
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import create_data
from experiments.data.digits import ComposedDigits
from experiments.data.image_data import ImageData
from experiments.settings.sections import DataSettings

STRONG = {"auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4, "random_erasing": 0.5}


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    """Each test begins without processes, also after one that failed, and ends without."""
    gc.collect()
    before = set(active_children())
    yield
    gc.collect()
    assert not set(active_children()) - before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (root / name).mkdir()
        for i in range(60):
            Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


def open_data(folder: Path, **given: object) -> ImageData:
    settings = {"source": "folder", "root": str(folder), "batch_size": 12, "augmentation": STRONG, **given}
    return create_data(DataSettings.model_validate(settings), seed=0, resolution=24)


def error_of(batches: Iterable[Any]) -> str:
    """The message with which reading ends. (`pytest.raises` keeps what it caught, and with it the processes.)"""
    try:
        list(batches)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("cache", [False, True])
def test_neither_workers_nor_ranks_change_an_image(folder, cache):
    whole = list(open_data(folder, workers=0).train_batches(epoch=3))
    sharing = open_data(folder, workers=2, cache=cache)
    for n_ranks in (2, 3):
        parts = [list(sharing.train_batches(epoch=3, skip=1, rank=rank, n_ranks=n_ranks)) for rank in range(n_ranks)]
        assert {len(batches) for batches in parts} == {len(whole) - 1}
        for (images, labels), *shares in zip(whole[1:], *parts, strict=True):
            for rank, (share, share_labels) in enumerate(shares):
                assert torch.equal(share, images[rank::n_ranks]) and torch.equal(share_labels, labels[rank::n_ranks])


def test_ranks_share_the_composed_digits():
    digits = ComposedDigits(0, 16, batch_size=8, train_images=24, validation_images=20, test_images=20)
    images, labels = next(digits.train_batches(0))
    share, share_labels = next(digits.train_batches(0, rank=1, n_ranks=4))
    assert torch.equal(share, images[1::4]) and torch.equal(share_labels, labels[1::4])


def test_a_batch_that_cannot_be_shared_evenly_is_refused(folder):
    with pytest.raises(ValueError, match="batch_size 12 cannot be shared by 5 processes; take 10"):
        next(open_data(folder).train_batches(0, rank=0, n_ranks=5))
    with pytest.raises(ValueError, match="rank 2 of 2 processes"):
        next(open_data(folder).train_batches(0, rank=2, n_ranks=2))


def test_processes_memory_and_files_do_not_grow_over_epochs(folder):
    data = open_data(folder, workers=2)
    seen = []
    for epoch in range(7):
        next(data.train_batches(epoch, skip=2))  # left in the middle, as by a rollback
        list(data.train_batches(epoch))
        list(data.evaluation_batches("test", 12))
        pids = sorted(child.pid for child in active_children() if child.pid)
        files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in (os.getpid(), *pids)]
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
        seen.append((pids, files, pages * os.sysconf("SC_PAGE_SIZE")))
    pids, files, memory = zip(*seen[1:], strict=True)
    assert len(pids[0]) == 2 and all(ids == pids[0] for ids in pids)  # one pool, and nothing else
    # A batch on its way holds descriptors and memory for a moment, so of the later epochs the least is looked at.
    assert np.all(np.min(files[3:], axis=0) <= np.max(files[:3], axis=0))
    assert min(memory[3:]) < 1.02 * max(memory[:3]) + 2**20


def test_two_epochs_at_once_are_refused_rather_than_mixed(folder):
    data = open_data(folder, workers=1)
    first = data.train_batches(0)
    next(first)
    expected = [labels for _, labels in open_data(folder, workers=0).train_batches(1)]
    assert all(torch.equal(labels, e) for (_, labels), e in zip(data.train_batches(1), expected, strict=True))
    assert "another epoch was begun" in error_of(first)


@pytest.mark.slow
def test_a_killed_worker_is_one_line(folder):
    others = set(active_children())
    data = open_data(folder, workers=2)
    batches = data.train_batches(0)
    next(batches)
    killed = set(active_children()) - others
    for child in killed:
        child.kill()
    message = error_of(batches)
    assert "a process that reads images was killed" in message and "\n" not in message
    assert len(killed) == 2 and not killed & set(active_children())
    assert len(list(data.train_batches(0))) == data.steps_per_epoch  # the next attempt has new ones


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_and_nothing_takes_its_place(folder, tmp_path, workers):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i}.png").write_bytes((folder / name / f"{i}.png").read_bytes())
    damaged = tmp_path / "ant" / "3.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    data = open_data(tmp_path, workers=workers, batch_size=2)
    batches = chain(data.evaluation_batches("validation", 4), data.evaluation_batches("test", 4), data.train_batches(0))
    assert re.fullmatch("data: cannot read .*ant/3.png: .*; replace or remove it", error_of(batches))


def test_decoded_images_are_kept_shared_and_made_again_when_files_change(folder, tmp_path):
    settings = DataSettings.model_validate(
        {"source": "folder", "root": str(folder), "batch_size": 12, "cache": True, "workers": 1}
    )
    data = create_data(settings, seed=0, resolution=24, cache_folder=tmp_path)
    first = next(data.train_batches(0))[0]
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 6
    again = create_data(settings, seed=0, resolution=24, cache_folder=tmp_path)
    assert torch.equal(next(again.train_batches(0))[0], first)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
    os.utime(folder / "ant" / "0.png", ns=(1, 1))
    next(create_data(settings, seed=0, resolution=24, cache_folder=tmp_path).train_batches(0))
    assert len(list(tmp_path.iterdir())) == 8  # of the one split that has this image


def test_a_training_that_goes_while_a_batch_is_handed_over_leaves_no_lines(folder, monkeypatch, capfd):
    batches = open_data(folder, workers=1).train_batches(0)
    next(batches)
    reached = []

    def interrupted(*_: object) -> None:
        reached.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("multiprocessing.connection.answer_challenge", interrupted)
        with pytest.raises(KeyboardInterrupt):  # between two messages with the process that has the memory
            for _ in batches:
                pass
    assert reached
    del batches
    gc.collect()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_the_whole_group_leaves_a_checkpoint_and_no_process(commands, tmp_path, recipe_path, asked, code):
    """Slurm sends SIGTERM, a terminal SIGINT to all processes of a group, also to those that read images."""
    for name in ("ant", "bee"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(60):
            Image.new("RGB", (24, 24), (2 * i, 100, 50)).save(tmp_path / "d" / name / f"{i}.png")
    old = "batch_size = 64\ntrain_images = 640\nvalidation_images = 200\ntest_images = 200\n"
    text = recipe_path.read_text().replace(
        old, f'source = "folder"\nroot = "{tmp_path}/d"\nbatch_size = 8\nworkers = 2\n'
    )
    text = text.replace("calibration_images = 128", "calibration_images = 64").replace("epochs = 2", "epochs = 500")
    (tmp_path / "r.toml").write_text(text + "[engine]\nvalidate_every = 0\nsave_seconds = 1000.0\n")
    training = commands.begin("run", tmp_path / "r.toml", "--out", tmp_path / "run")
    while not training.has_ended and "epoch 2" not in training.said():
        time.sleep(0.02)
    os.killpg(training.pid, asked)
    done = training.end()
    errors = done.stderr
    assert done.returncode == code, errors
    assert errors.strip().splitlines()[-1].endswith("the same command carries on from here"), errors
    assert "Traceback" not in errors
    folder = tmp_path / "run" / "checkpoints"
    finished = json.loads((folder / "epochs.jsonl").read_text().splitlines()[-1])["step"]
    saved = max(int(path.name.split("-")[1].split(".")[0]) for path in folder.glob("step-*.pt"))
    assert saved > finished or (asked == signal.SIGINT and saved == finished)  # with nothing to lose it ends at once
    with pytest.raises(ProcessLookupError):  # multiprocessing's own helper goes a moment after the others
        for _ in range(100):
            os.killpg(training.pid, 0)
            time.sleep(0.05)
