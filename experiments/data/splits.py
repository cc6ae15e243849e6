"""Three splits of any data set that timm opens, and of WebDataset shards: those on disk, else carved from training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from experiments.data.image_data import Split
from experiments.data.image_files import ImageFiles, Rows, decode
from experiments.data.locating import HELD_OUT, SPLIT_NAMES, find_folders, find_shards
from experiments.data.shards import index_tars

__all__ = ["ImageSource", "ImageSplit", "open_splits"]


class ImageSource(Protocol):
    """Images by number; any process may read any of them at any time."""

    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            ValueError: it cannot be read; one line that names it.
        """
        ...


@dataclass(frozen=True)
class ImageSplit:
    """The images `rows` of a source, and their labels, both int64 (n_images,)."""

    source: ImageSource
    rows: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Rows) -> ImageSplit:
        """The images at the given places of this split."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    @property
    def digest(self) -> str:
        """Of labels and, where images have some, names, in order; where the files lie does not matter."""
        hashed = hashlib.sha256(self.rows.tobytes() + self.labels.tobytes())
        if isinstance(self.source, ImageFiles):
            hashed.update(b"\n".join(self.source.names[self.rows].tolist()))
        return hashed.hexdigest()[:16]


def open_splits(
    source: str,
    root: str | None,
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    limits: Mapping[Split, int | None],
    cache_folder: Path | None = None,
) -> dict[Split, ImageSplit]:
    """Train, validation and test images of a source.

    - ``folder``, ``tar``: one folder per class, as files or in a .tar file. `root` is one of them, or holds ``train``,
      ``validation`` and ``test``.
    - ``wds``: WebDataset shards. `root` holds a folder of shards per split, or shards named after their split, or is
      a pattern such as ``shards/{train,val}-{0000..0009}.tar``.
    - ``torch/NAME``, ``hfds/NAME``: what `timm.data.create_dataset` calls so.

    Where only two splits are there, as in ImageNet, the second is the test split and validation is carved from train;
    where one is, both are (a Hugging Face split without labels counts as none). Carving and `limits` (how many images
    of a split are used) draw with the seed and keep the share of every class. Where images lie in tar files is noted
    beside them, or in `cache_folder`.

    Raises:
        ValueError: nothing to read there, a class that train lacks, a split that would be empty, or one file in two.
    """
    opened = _open_all(source, root, cache_folder)
    if "test" not in opened and "validation" in opened:
        opened["test"] = opened.pop("validation")
    n_found, splits = len(opened["train"]), dict(opened)
    carved: dict[Split, float] = {"test": test_fraction, "validation": validation_fraction}
    for name, fraction in carved.items():
        if name not in splits:
            order = _stratified_order(splits["train"].labels, np.random.default_rng((seed, 0, name == "test")))
            n_carved = round(fraction * n_found)
            splits[name] = splits["train"].take(np.sort(order[:n_carved]))
            splits["train"] = splits["train"].take(np.sort(order[n_carved:]))
    for stream, name in enumerate(SPLIT_NAMES):
        split, limit = splits[name], limits.get(name)
        if limit is not None and limit < len(split):
            order = _stratified_order(split.labels, np.random.default_rng((seed, 1, stream)))
            splits[name] = split.take(np.sort(order[:limit]))
        if len(splits[name]) == 0:
            raise ValueError(
                f"data: no image is left for {name} out of {n_found} training images in {root or source}; "
                "raise the fractions of [data] or add images"
            )
    return splits


def _open_all(source: str, root: str | None, cache_folder: Path | None) -> dict[Split, ImageSplit]:
    """Every split that is there on its own, at least "train"."""
    splits: dict[Split, ImageSplit] = {}
    if source == "wds":
        for name, shards in find_shards(root).items():
            found = index_tars(shards, "webdataset", cache_folder)
            splits[name] = _whole(found.images, found.labels)
        return splits
    if source in ("", "folder", "tar"):
        classes: dict[str, int] = {}
        for name, path in find_folders(root).items():
            images, labels, names = _open_path(path, cache_folder)
            classes = classes or {name: number for number, name in enumerate(names)}  # train comes first
            if unknown := sorted(set(names) - set(classes)):
                raise ValueError(f"data: class {unknown[0]!r} of {path} does not occur in the training images")
            # A class may be absent: the numbers must be those of the training split.
            splits[name] = _whole(images, np.array([classes[name] for name in names], np.int64)[labels])
        return splits
    kind = source.partition("/")[0].lower() if "/" in source else ""
    if kind == "torch" and source.lower() not in ("torch/image_folder", "torch/folder"):
        datasets: dict[Split, Any] = {
            "train": _create(source, root, "train"),
            "test": _create(source, root, "validation"),
        }
    elif kind == "hfds":
        datasets = _huggingface(source, root)
    else:
        raise ValueError(
            f"data.source {source!r} cannot be read at random; there are 'digits', 'folder', 'tar', 'wds' with the "
            "shards as root, 'torch/NAME' and 'hfds/NAME': unpack another stream into one folder per class"
        )
    for name, dataset in datasets.items():
        splits[name] = _whole(_Indexed(dataset, f"{source} {name}"), _labels(dataset))
    return splits


def _huggingface(source: str, root: str | None) -> dict[Split, Any]:
    """Every split with labels; published test splits may come without."""
    datasets: dict[Split, Any] = {"train": _create(source, root, "train")}
    for split in HELD_OUT:
        for name in SPLIT_NAMES[split]:
            try:
                found = _create(source, root, name)
            except ValueError as error:
                if "Unknown split" in str(error):
                    continue
                raise
            if _labels(found).min() >= 0:
                datasets[split] = found
            break
    return datasets


def _whole(source: ImageSource, labels: Rows) -> ImageSplit:
    return ImageSplit(source, np.arange(len(labels)), labels)


def _open_path(path: Path, cache_folder: Path | None) -> tuple[ImageFiles, Rows, tuple[str, ...]]:
    """The images of a folder or tar file of one folder per class, their labels, and the names of the classes."""
    if path.is_file():
        found = index_tars([path], "folders", cache_folder)
        return found.images, found.labels, found.classes
    reader = _create("", str(path), "", search_split=False).reader
    paths = [name for name, _ in reader.samples]
    labels = np.array([label for _, label in reader.samples], np.int64)
    names = np.array([str(Path(name).relative_to(path)).encode(errors="surrogateescape") for name in paths])
    images = ImageFiles(
        np.array([name.encode(errors="surrogateescape") for name in paths]),
        names,
        np.arange(len(names)),
        np.zeros(len(names), np.int64),
        np.full(len(names), -1),
    )
    return images, labels, tuple(sorted(reader.class_to_idx, key=reader.class_to_idx.__getitem__))


@dataclass(frozen=True)
class _Indexed:
    """An indexable data set of timm or torchvision."""

    dataset: Any
    name: str

    def image(self, row: int) -> Image.Image:
        # timm's own indexing puts the next image in the place of a damaged one: its reader does not.
        reader = getattr(self.dataset, "reader", None)
        if reader is None:
            return self.dataset[row][0]
        return decode(lambda: reader[row][0], f"{self.name}, image {row}")


def _create(source: str, root: str | None, split: str, **kwargs: Any) -> Any:
    from timm.data.dataset_factory import create_dataset

    try:
        return create_dataset(source, root=root, split=split, **kwargs)
    except (RuntimeError, ValueError, AssertionError, OSError, ImportError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"data: cannot read {root or source}: {reason[:200]}") from error


def _labels(dataset: Any) -> Rows:
    """Labels int64 (n_images,) without opening an image."""
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(dataset, "targets"):  # torchvision
        labels = dataset.targets
    elif hasattr(reader, "label_key"):  # timm, Hugging Face
        labels = reader.dataset[reader.label_key]
    else:
        raise ValueError(
            f"data: {type(dataset).__name__} does not tell its labels; use a folder of one folder per class"
        )
    return np.asarray(labels, dtype=np.int64)


def _stratified_order(labels: Rows, rng: np.random.Generator) -> Rows:
    """A random order of the images in which every beginning holds each class in its share, to about one image."""
    shuffled = rng.permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return shuffled[np.argsort(position[shuffled], kind="stable")]
