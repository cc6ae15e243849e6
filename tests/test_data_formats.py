"""Every format of docs/data.md, from files on disk to batches, by the recipe on the page."""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import tarfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.dataset_factory import create_dataset

from experiments.data import create_data
from experiments.data.image_data import Split
from experiments.data.timm_data import TimmData
from experiments.settings.sections import DataSettings

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
RECIPES = {title: text for title, text in re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)}  # fmt: skip  # noqa: E501, C416
CLASSES = ("bluebell", "daisy", "rose")
SIZES = {"train": 16, "val": 4, "test": 5}  # of every class


def picture(split: str, label: int, number: int) -> bytes:
    """A PNG file whose first pixel says what it is."""
    seed = list(SIZES).index(split) * 10_000 + label * 100 + number
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    pixels[0, 0] = (label, number, list(SIZES).index(split))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def pictures(split: str):
    """(class number, name of the file, content) of every image of a split."""
    for label, name in enumerate(CLASSES):
        for number in range(SIZES[split]):
            yield label, f"{name}{number:02}.png", picture(split, label, number)


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same images in every format."""
    root = tmp_path_factory.mktemp("data")
    for folder in ("flowers-packed", "shards", "flowers-parquet"):
        (root / folder).mkdir()
    for split in SIZES:
        with tarfile.open(root / "flowers-packed" / f"{split}.tar", "w") as tar:
            for label, name, content in pictures(split):
                folder = root / "flowers" / split / CLASSES[label]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
                add(tar, f"{CLASSES[label]}/{name}", content)
        for number in range(2):
            with tarfile.open(root / f"shards/flowers-{split}-{number:04}.tar", "w") as tar:
                for i, (label, name, content) in enumerate(list(pictures(split))[number::2]):
                    stem = name.removesuffix(".png")
                    add(tar, f"{stem}.png", content)
                    if i % 3:
                        add(tar, f"{stem}.cls", f"{label}\n".encode())
                    else:
                        add(tar, f"{stem}.json", json.dumps({"label": label, "by": "us"}).encode())
    write_mnist(root / "torchvision" / "MNIST" / "raw")
    return root


def write_mnist(folder: Path) -> None:
    """Handwritten digits as they are published: four files of a header and bytes."""
    folder.mkdir(parents=True)
    for split, name in (("train", "train"), ("test", "t10k")):
        rows = list(pictures(split))
        grey = [np.array(Image.open(io.BytesIO(content)).convert("L").resize((28, 28))) for _, _, content in rows]
        pixels = np.stack(grey)
        pixels[:, 0, 0] = [label for label, _, _ in rows]
        header = struct.pack(">4i", 2051, len(rows), 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = bytes(label for label, _, _ in rows)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, len(rows)) + labels)


@pytest.fixture(scope="module")
def parquet(files):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        rows = [{"image": {"bytes": content, "path": None}, "label": label} for label, _, content in pictures(split)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(files / f"flowers-parquet/{name}-0000.parquet")


def open_recipe(title: str, **changes: object) -> TimmData:
    settings = tomllib.loads(RECIPES[title])["data"] | changes
    data = create_data(DataSettings.model_validate_json(json.dumps(settings)), seed=0, resolution=16)
    assert isinstance(data, TimmData)
    return data


def contents(data: TimmData, split: Split) -> list[str]:
    """A digest of the pixels of every image of a split."""
    part = data.splits[split]
    return [hashlib.sha256(part.source.image(row).convert("RGB").tobytes()).hexdigest() for row in part.rows.tolist()]


def test_the_page_has_a_recipe_for_every_format():
    assert len(RECIPES) == 6 and all(RECIPES.values())


@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_reads_its_format(title, files, monkeypatch, request):
    monkeypatch.chdir(files)
    if title == "Hugging Face data sets":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        request.getfixturevalue("parquet")
    data = open_recipe(title)
    expected = [43, 5, 15] if title == "torchvision" else [48, 12, 15]  # it has two splits: validation is carved
    assert [data.n_images(split) for split in ("train", "validation", "test")] == expected
    assert data.n_classes == 3
    found: dict[Split, list[str]] = {split: contents(data, split) for split in ("train", "validation", "test")}
    for split, digests in found.items():
        assert len(set(digests)) == len(digests) == data.n_images(split)
    assert len(set().union(*map(set, found.values()))) == sum(map(len, found.values()))  # no image in two splits
    for split in data.splits.values():
        for row, label in zip(split.rows.tolist(), split.labels.tolist(), strict=True):
            assert np.asarray(split.source.image(row)).flat[0] == label
    batches = list(data.train_batches(epoch=0))
    assert len(batches) == data.steps_per_epoch == data.n_images("train") // 8
    assert all(images.shape == (8, data.in_channels, 16, 16) and images.dtype == torch.float32 for images, _ in batches)
    seen = sorted(torch.cat([labels for _, labels in batches]).tolist())
    assert len(seen) < data.n_images("train") or seen == sorted(data.splits["train"].labels.tolist())
    resumed = next(data.train_batches(epoch=0, skip=2))
    assert torch.equal(resumed[0], batches[2][0]) and torch.equal(resumed[1], batches[2][1])
    evaluated = torch.cat([labels for _, labels in data.evaluation_batches("test", 4)])
    assert sorted(evaluated.tolist()) == sorted(data.splits["test"].labels.tolist()) != evaluated.tolist()


def test_all_formats_make_the_same_batches(files, monkeypatch):
    monkeypatch.chdir(files)
    plain = {"augmentation": {}, "batch_size": 8}
    folder, packed = (open_recipe(title, **plain) for title in ("A folder of images", "Tar files"))
    for (a, x), (b, y) in zip(folder.train_batches(1), packed.train_batches(1), strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    cached = open_recipe("Small images")
    direct = open_recipe("Small images", cache=False, workers=0)
    for (a, x), (b, y) in zip(cached.train_batches(1), direct.train_batches(1), strict=True):
        assert torch.equal(a, b) and torch.equal(x, y)
    assert cached.digest == direct.digest


@pytest.mark.parametrize("nested", [False, True])
def test_tar_files_are_read_as_timm_reads_them(files, tmp_path, nested):
    path = files / "flowers-packed" / "train.tar"
    if nested:  # a tar file of one tar file per class, as ImageNet comes
        path = tmp_path / "train.tar"
        with tarfile.open(path, "w") as outer:
            for number, name in enumerate(CLASSES):
                inner = io.BytesIO()
                with tarfile.open(fileobj=inner, mode="w") as tar:
                    for label, file, content in pictures("train"):
                        if label == number:
                            add(tar, file, content)
                add(outer, f"{name}.tar", inner.getvalue())
    data = create_data(DataSettings(source="tar", root=str(path), batch_size=8), seed=0, resolution=16)
    assert isinstance(data, TimmData)
    source = data.splits["train"].source
    theirs = create_dataset("", root=str(path), split="", search_split=False, cache_tarinfo=False)
    labels = np.empty(len(theirs), np.int64)
    for split in data.splits.values():
        labels[split.rows] = split.labels
    assert len(theirs) == 48
    for row in range(len(theirs)):
        image, label = theirs[row]
        assert np.asarray(image).tobytes() == source.image(row).convert("RGB").tobytes() and label == labels[row]


def test_a_window_of_shards_is_read_at_a_time(files, monkeypatch):
    monkeypatch.chdir(files)
    data = open_recipe("WebDataset shards", shuffle_shards=1)
    train = data.splits["train"]
    shards = train.source.files[train.rows[data._order(3)]]  # type: ignore[attr-defined]
    assert np.count_nonzero(np.diff(shards)) == 1  # one after the other
    assert len({tuple(data._order(epoch)) for epoch in range(4)}) == 4
    assert {data.splits["train"].source.files[data._order(epoch)[0]] for epoch in range(8)} == {0, 1}  # type: ignore[attr-defined]


def test_the_index_is_kept_and_made_again_when_a_shard_changes(files, tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "00.tar").write_bytes((files / f"shards/flowers-{split}-0000.tar").read_bytes())
    settings = DataSettings(source="wds", root=str(tmp_path), batch_size=4)
    first = create_data(settings, seed=0, resolution=16)
    (kept,) = (tmp_path / "train").glob(".images-*.npz")
    written = kept.stat().st_mtime_ns
    assert create_data(settings, seed=0, resolution=16).digest == first.digest
    assert kept.stat().st_mtime_ns == written
    kept.write_bytes(kept.read_bytes()[:100])  # damaged: made again
    assert create_data(settings, seed=0, resolution=16).digest == first.digest
    (tmp_path / "train" / "00.tar").write_bytes((files / "shards/flowers-train-0001.tar").read_bytes())
    assert create_data(settings, seed=0, resolution=16).digest != first.digest
    assert np.load(kept, allow_pickle=False)["labels"].shape == (24,)


def test_a_folder_that_cannot_be_written_is_read(files, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.data.shards.replacing", _refusing(tmp_path / "shards"))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train-0.tar").write_bytes((files / "shards/flowers-train-0000.tar").read_bytes())
    settings = DataSettings(source="wds", root=str(tmp_path / "shards"), batch_size=4)
    create_data(settings, seed=0, resolution=16, cache_folder=tmp_path / "run")
    assert [path.suffix for path in (tmp_path / "run").iterdir()] == [".npz"]
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["train-0.tar"]


def _refusing(folder: Path):
    """`replacing` on a disk where `folder` is read-only; tests run as root, whom no file mode stops."""
    from supernet.files import replacing

    def guarded(path: Path):
        if path.parent == folder:
            raise OSError(30, "Read-only file system", str(path))
        return replacing(path)

    return guarded


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "is damaged or not a tar file"),
        (lambda path: path.write_bytes(b"no tar" * 200), "is damaged or not a tar file"),
        (lambda path: path.write_bytes(b""), "is damaged or not a tar file"),
        (lambda path: tarfile.open(path, "w").close(), "no image in"),
        (lambda path: _one_sample(path, "a.png", picture("train", 0, 0)), "a.png has no label"),
        (lambda path: _one_sample(path, "a.png", b"x", "a.cls", b"rose"), "a.cls is no label: b'rose'"),
        (lambda path: _one_sample(path, "a.png", b"x", "a.cls", b"-1"), "is no label"),
        (lambda path: _one_sample(path, "a.png", b"x", "a.json", b'{"name": 1}'), "a.json is no label"),
    ],
)  # fmt: skip
def test_a_damaged_shard_is_one_line(files, tmp_path, spoil, message):
    path = tmp_path / "train-0000.tar"
    path.write_bytes((files / "shards/flowers-train-0000.tar").read_bytes())
    spoil(path)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        create_data(DataSettings(source="wds", root=str(tmp_path), batch_size=4), seed=0, resolution=16)
    assert "\n" not in str(caught.value) and "train-0000.tar" in str(caught.value)


def _one_sample(path: Path, *parts: object) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in zip(parts[::2], parts[1::2], strict=True):
            add(tar, str(name), content)  # type: ignore[arg-type]


def test_a_shard_cut_off_after_indexing_is_one_line(files, tmp_path):
    path = tmp_path / "train-0000.tar"
    path.write_bytes((files / "shards/flowers-train-0000.tar").read_bytes())
    data = create_data(DataSettings(source="wds", root=str(tmp_path), batch_size=4, workers=1), seed=0, resolution=16)
    truncate(path)
    with pytest.raises(ValueError, match=r"cannot read .*train-0000.tar: .*.png: the file ends") as caught:
        list(data.train_batches(0))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("nowhere", "does not exist"),
        ("shards/flowers-train-{0000..0002}.tar", "flowers-train-0002.tar, which does not exist"),
        ("shards/flowers-{val,test}-{0000..0001}.tar", "has validation, test but no train"),
        ("flowers", "has no .tar file"),
    ],
)
def test_wrong_patterns_are_one_line(files, monkeypatch, root, message):
    monkeypatch.chdir(files)
    with pytest.raises(ValueError, match=re.escape(message)):
        open_recipe("WebDataset shards", root=root)


@pytest.mark.parametrize("how", ["linked", "inside"])
def test_a_folder_in_two_splits_is_refused(files, tmp_path, how):
    (tmp_path / "train").symlink_to(files / "flowers" / "train")
    (tmp_path / "test").symlink_to(files / "flowers" / "train" / ("" if how == "linked" else "rose"))
    with pytest.raises(ValueError, match="an image may be in one split only"):
        create_data(DataSettings(source="folder", root=str(tmp_path), batch_size=4), seed=0, resolution=16)


def test_a_shard_in_two_splits_is_refused(files, tmp_path):
    for split in ("train", "val"):
        (tmp_path / f"{split}-0.tar").symlink_to(files / "shards/flowers-train-0000.tar")
    with pytest.raises(ValueError, match="an image may be in one split only"):
        create_data(DataSettings(source="wds", root=str(tmp_path), batch_size=4), seed=0, resolution=16)
