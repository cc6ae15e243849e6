"""Images from folders and tar files: splits that never mix, and the same batches for the same seed and epoch."""

from __future__ import annotations

import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import create_data
from experiments.data.timm_data import TimmData
from experiments.settings.sections import DataSettings


def make_folder(root: Path, n_per_class: int, classes: tuple[str, ...] = ("ant", "bee", "cat"), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(n_per_class):
            pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}{i:03}.png")
    return root


def open_data(root: Path, seed: int = 0, **given: object) -> TimmData:
    settings: dict[str, object] = {"batch_size": 8, "workers": 0, **given}
    data = create_data(
        DataSettings.model_validate({"source": "folder", "root": str(root), **settings}),
        seed=seed,
        resolution=16,
    )
    assert isinstance(data, TimmData)
    return data


def files(data: TimmData, split: str) -> set[str]:
    part = data.splits[split]  # type: ignore[index]
    source: Any = part.source
    return {source.where(row) for row in part.rows.tolist()}


def test_one_folder_is_split_in_three(tmp_path):
    data = open_data(make_folder(tmp_path, 20), validation_fraction=0.1, test_fraction=0.2)
    parts = {split: files(data, split) for split in ("train", "validation", "test")}
    assert {split: len(names) for split, names in parts.items()} == {"train": 42, "validation": 6, "test": 12}
    assert len(set.union(*parts.values())) == 60
    for split in data.splits.values():
        assert len(set(np.bincount(split.labels))) == 1  # every class in its share
    assert data.n_classes == 3 and data.steps_per_epoch == 5


def test_folders_on_disk_are_taken_as_they_are(tmp_path):
    for split, n in (("train", 10), ("val", 4), ("test", 5)):
        make_folder(tmp_path / split, n)
    data = open_data(tmp_path)
    assert [data.n_images(split) for split in ("train", "validation", "test")] == [30, 12, 15]
    assert all("/val/" in name for name in files(data, "validation"))


def test_a_lone_validation_folder_is_the_test_split(tmp_path):
    make_folder(tmp_path / "train", 20)
    make_folder(tmp_path / "val", 5)
    data = open_data(tmp_path)
    assert all("/val/" in name for name in files(data, "test"))
    assert data.n_images("validation") == 6 and data.n_images("train") == 54


def test_a_class_absent_from_the_test_split_keeps_the_numbers(tmp_path):
    make_folder(tmp_path / "train", 20)
    make_folder(tmp_path / "test", 5, classes=("bee", "cat"))
    assert set(open_data(tmp_path).splits["test"].labels) == {1, 2}


def test_tar_files_are_read(tmp_path):
    folder = make_folder(tmp_path / "images", 12)
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("train", "test"):
        with tarfile.open(packed / f"{name}.tar", "w") as tar:
            tar.add(folder, arcname=".")
    alone, both = open_data(packed / "train.tar"), open_data(packed, workers=2)
    assert alone.n_classes == both.n_classes == 3
    assert both.n_images("test") == 36 and alone.n_images("test") == 7
    images, labels = next(both.train_batches(0))
    assert images.shape == (8, 3, 16, 16) and labels.dtype == torch.int64


def test_batches_depend_on_seed_and_epoch_alone(tmp_path):
    make_folder(tmp_path, 20)
    strong = {"auto_augment": "rand-m9-mstd0.5", "color_jitter": 0.4, "random_erasing": 0.5}
    data, again = open_data(tmp_path, augmentation=strong), open_data(tmp_path, workers=2, augmentation=strong)
    reseeded = open_data(tmp_path, seed=1, augmentation=strong)
    random.seed(5)
    torch.manual_seed(5)
    first = list(data.train_batches(epoch=1))
    state = random.getstate(), torch.get_rng_state()
    second = list(again.train_batches(epoch=1))
    for (a, x), (b, y) in zip(first, second, strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    rest = list(data.train_batches(epoch=1, skip=3))
    assert torch.equal(rest[0][0], first[3][0]) and len(rest) == len(first) - 3
    assert not torch.equal(first[0][0], next(data.train_batches(epoch=2))[0])
    assert not torch.equal(first[0][0], next(reseeded.train_batches(epoch=1))[0])
    assert state[0] == random.getstate() and torch.equal(state[1], torch.get_rng_state())
    assert data.digest == again.digest != reseeded.digest


def test_evaluation_and_calibration_are_fixed(tmp_path):
    make_folder(tmp_path, 20)
    data = open_data(tmp_path, in_channels=1)
    small, large = (list(data.evaluation_batches("test", size)) for size in (5, 12))
    assert torch.equal(torch.cat([x for x, _ in small]), large[0][0]) and large[0][0].shape == (12, 1, 16, 16)
    first, again = (torch.cat(list(data.calibration_batches(20, size))) for size in (7, 20))
    assert first.shape == (20, 1, 16, 16) and torch.equal(first, again)
    with pytest.raises(ValueError, match="99 calibration images; the training split has 42"):
        next(data.calibration_batches(99, 10))


def test_limits_keep_the_share_of_every_class(tmp_path):
    data = open_data(make_folder(tmp_path, 20), train_images=30, test_images=6)
    assert data.n_images("train") == 30 and data.n_images("test") == 6
    assert np.ptp(np.bincount(data.splits["train"].labels)) <= 2


@pytest.mark.parametrize(
    ("make", "settings", "message"),
    [
        (lambda root: root / "nowhere", {}, "does not exist"),
        (lambda root: root, {}, "Found 0 images"),
        (lambda root: make_folder(root, 1), {}, "no image is left"),
        (lambda root: make_folder(root, 20, classes=("only",)), {}, "one class only"),
        (lambda root: make_folder(root, 3), {"validation_fraction": 0.3, "test_fraction": 0.3}, "fewer than one batch"),
        (lambda root: make_folder(root / "test", 3).parent, {}, "no train"),
    ],
)
def test_bad_folders_get_one_line(tmp_path, make, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        open_data(make(tmp_path), **settings)
    assert "\n" not in str(caught.value)


def test_unknown_classes_and_sources_are_refused(tmp_path):
    make_folder(tmp_path / "train", 5)
    make_folder(tmp_path / "test", 5, classes=("ant", "dog"))
    with pytest.raises(ValueError, match="class 'dog'"):
        open_data(tmp_path)
    with pytest.raises(ValueError, match="'wds' with the shards as root"):
        open_data(tmp_path, source="wds/imagenet")
    with pytest.raises(ValueError, match="neither a folder nor"):
        (tmp_path / "images.zip").write_bytes(b"")
        open_data(tmp_path / "images.zip")
