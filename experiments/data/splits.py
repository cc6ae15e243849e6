"""Three splits of any data set: those on disk, else carved from training; what is in them, and what was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from experiments.data.classes import folder_classes, labels_from_csv
from experiments.data.image_data import SPLITS, Split
from experiments.data.image_files import ImageFiles, Rows, decode
from experiments.data.listing import Listing, list_images
from experiments.data.locating import HELD_OUT, SPLIT_NAMES, existing_root, find_shards, find_splits
from experiments.data.pixels import as_pixels
from experiments.data.shards import index_tars

__all__ = ["FoundImages", "ImageSource", "ImageSplit", "open_splits"]

_NO_ROWS: Rows = np.empty(0, np.int64)


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
    """The images `rows` of a source, and their labels, both int64 (n_images,).

    `absent` are the places in it, int64, of images that cannot be read and are never asked for. They keep their places,
    so that everything else stays as it was; see `readable`.
    """

    source: ImageSource
    rows: Rows
    labels: Rows
    absent: Rows = field(default_factory=lambda: _NO_ROWS)
    known_as: str | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def readable(self) -> Rows:
        """The places of the images that can be read."""
        return np.setdiff1d(np.arange(len(self)), self.absent)

    def take(self, chosen: Rows) -> ImageSplit:
        """The images at the given places of this split."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    @property
    def digest(self) -> str:
        """Of labels and, where images have some, names, in order; where the files lie does not matter, nor what is
        absent. A split that a run has begun with keeps its digest in `known_as`."""
        if self.known_as is not None:
            return self.known_as
        hashed = hashlib.sha256(self.rows.tobytes() + self.labels.tobytes())
        if isinstance(self.source, ImageFiles):
            hashed.update(b"\n".join(self.source.names[self.rows].tolist()))
        return hashed.hexdigest()[:16]

    def pixels(self, place: int, mode: str, upright: bool) -> Image.Image:
        """The image at a place of the split as 8-bit grey ("L") or colour ("RGB"); see `as_pixels`.

        Raises:
            ValueError: it cannot be read, or has no such pixels; one line that names it.
        """
        image = self.source.image(int(self.rows[place]))
        try:
            return as_pixels(image, mode, upright)
        except (ValueError, OSError) as error:
            raise ValueError(f"data: cannot use {self.name(place)}: {error}; or remove it") from None

    def name(self, place: int) -> str:
        """What to call the image at a place of the split."""
        row = int(self.rows[place])
        return self.source.where(row) if isinstance(self.source, ImageFiles) else f"image {row}"


@dataclass(frozen=True)
class FoundImages:
    """The three splits, and how they came about.

    Attributes:
        splits: train, validation and test.
        classes: names of the classes by number; empty where the data does not tell them.
        carved: the split that a split was taken out of, where it is not on disk itself.
        left_out: what was found and is not used, one line each.
    """

    splits: dict[Split, ImageSplit]
    classes: tuple[str, ...] = ()
    carved: Mapping[Split, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def open_splits(
    source: str,
    root: str | None,
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    limits: Mapping[Split, int | None],
    cache_folder: Path | None = None,
    folders: Mapping[Split, str] | None = None,
    labels: str | None = None,
) -> FoundImages:
    """Train, validation and test images of a source.

    - ``folder``, ``tar``: one folder per class, as files or in .tar files, in folders that are named after splits or in
      one (see `find_splits` and `folder_classes`); or with a CSV file of `labels`.
    - ``wds``: WebDataset shards. `root` holds a folder of shards per split, or shards named after their split, or is
      a pattern such as ``shards/{train,val}-{0000..0009}.tar``.
    - ``torch/NAME``, ``hfds/NAME``: what `timm.data.create_dataset` calls so.

    Where only two splits are there, as in ImageNet, the second is the test split and validation is carved from train;
    where one is, both are (a Hugging Face split without labels counts as none). Carving and `limits` (how many images
    of a split are used) draw with the seed and keep the share of every class; carving leaves every class at least one
    training image. Where images lie in tar files is noted beside them, or in `cache_folder`.

    Raises:
        ValueError: nothing to read there, a class that train lacks, a split that would be empty, one file in two, or
            names of which nobody can tell what they mean.
    """
    found = _open_all(source, root, cache_folder, folders, labels)
    opened, carved = dict(found.splits), {}
    if "test" not in opened and "validation" in opened:
        opened["test"] = opened.pop("validation")
        carved["test"] = "the validation images that are there: they are the test"
    n_found, splits = len(opened["train"]), dict(opened)
    fractions: tuple[tuple[Split, float], ...] = (("test", test_fraction), ("validation", validation_fraction))
    for name, fraction in fractions:
        if name not in splits:
            rng = np.random.default_rng((seed, 0, name == "test"))
            order = _stratified_order(splits["train"].labels, rng, keep_one=True)
            n_classes = len(np.unique(splits["train"].labels))
            n_carved = min(round(fraction * n_found), len(order) - n_classes)
            splits[name] = splits["train"].take(np.sort(order[:n_carved]))
            splits["train"] = splits["train"].take(np.sort(order[n_carved:]))
            carved[name] = "the training images"
    for stream, name in enumerate(SPLITS):
        split, limit = splits[name], limits.get(name)
        if limit is not None and limit < len(split):
            order = _stratified_order(split.labels, np.random.default_rng((seed, 1, stream)))
            splits[name] = split.take(np.sort(order[:limit]))
        if len(splits[name]) == 0:
            raise ValueError(
                f"data: no image is left for {name} out of {n_found} training images in {root or source}; "
                "raise the fractions of [data] or add images"
            )
    return replace(found, splits={name: splits[name] for name in SPLITS}, carved=carved)


def _open_all(
    source: str, root: str | None, cache_folder: Path | None, folders: Mapping[Split, str] | None, labels: str | None
) -> FoundImages:
    """Every split that is there on its own, at least "train"."""
    splits: dict[Split, ImageSplit] = {}
    if source == "wds":
        left_out: list[str] = []
        for name, shards in find_shards(root).items():
            found = index_tars(shards, "webdataset", cache_folder)
            splits[name] = _whole(found.images, found.labels)
            left_out += _uncounted(f"{name}: ", found.unread, found.hidden)
        return FoundImages(splits, left_out=tuple(left_out))
    if source in ("", "folder", "tar"):
        return _open_folders(root, cache_folder, folders, labels)
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
    return FoundImages(splits, _class_names(datasets["train"]))


def _open_folders(
    root: str | None, cache_folder: Path | None, folders: Mapping[Split, str] | None, labels: str | None
) -> FoundImages:
    base = existing_root(root, "the folder or .tar file of the images, one folder per class")
    if base.is_file() and base.suffix.lower() != ".tar":
        raise ValueError(f"data.root {root} is neither a folder nor a .tar file; unpack it, or pack it as .tar")
    listing = list_images(base, cache_folder)
    if not listing.names:
        others = f" ({_counts(listing.unread)} are no images that can be read)" if listing.unread else ""
        raise ValueError(f"data: Found 0 images in {root}{others}; give the folder with one folder per class")
    rows_of = {name: row for row, name in enumerate(listing.names)}
    of_split: dict[Split, dict[str, str]] = {}
    if labels is not None:
        classes, splits = labels_from_csv(base / labels, listing.names)
        for name, label in classes.items():
            of_split.setdefault("train" if splits is None else splits[name], {})[name] = label
        if "train" not in of_split:
            raise ValueError(f"data.labels {labels} has no image with the split train")
    else:
        prefixes = find_splits(listing.names, str(root), folders)
        _check_one_split(listing, prefixes)
        of_split = {split: folder_classes(listing.names, prefix, str(root)) for split, prefix in prefixes.items()}
    by_number = sorted(set(of_split["train"].values()), key=_natural)
    numbers = {name: number for number, name in enumerate(by_number)}
    opened: dict[Split, ImageSplit] = {}
    images, n_twice, seen = listing.images(), 0, {}
    for split in SPLITS:
        label_of, rows, values = of_split.get(split, {}), [], []
        for name in sorted(label_of, key=rows_of.__getitem__):
            row, label = rows_of[name], label_of[name]
            if label not in numbers:
                raise ValueError(
                    f"data: class {label!r} of {split} ({name} in {root}) does not occur in the training images"
                )
            before = seen.setdefault(listing.same[row], (split, label, name))
            if before[:2] != (split, label):
                raise ValueError(
                    f"data: {before[2]} and {name} in {root} are one file; an image may be in one split only, and of "
                    "one class: remove the link"
                )
            if before[2] != name:
                n_twice += 1
                continue
            rows.append(row)
            values.append(numbers[label])
        if rows:
            opened[split] = ImageSplit(images, np.array(rows, np.int64), np.array(values, np.int64))
    used = {name for names in of_split.values() for name in names}
    return FoundImages(opened, tuple(by_number), left_out=_left_out(listing, used, n_twice))


def _check_one_split(listing: Listing, prefixes: Mapping[Split, str]) -> None:
    """Raises ValueError where a file is in two splits, whatever the folders inside of these mean."""
    seen: dict[tuple[int, ...], tuple[Split, str]] = {}
    for split, prefix in prefixes.items():
        for name, same in zip(listing.names, listing.same, strict=True):
            if name.startswith(prefix) and seen.setdefault(same, (split, name))[0] != split:
                other, first = seen[same]
                raise ValueError(
                    f"data: {first} in {other} and {name} in {split} are one file; an image may be in one split only"
                )


def _left_out(listing: Listing, used: set[str], n_twice: int) -> tuple[str, ...]:
    lines = _uncounted("", listing.unread, listing.hidden)
    if loose := [name for name in listing.names if name not in used]:
        lines.append(f"{len(loose)} images outside of the folders of classes or splits, such as {loose[0]}")
    if n_twice:
        lines.append(f"{n_twice} names of files that links lead to twice")
    if listing.broken:
        lines.append(
            f"{len(listing.broken)} links that lead nowhere or to a folder above themselves, such as "
            f"{listing.broken[0]}"
        )
    return tuple(lines)


def _uncounted(where: str, unread: Mapping[str, int], hidden: int) -> list[str]:
    lines = [f"{where}{_counts(unread)}, which the decoder of images does not read"] if unread else []
    return [*lines, f"{where}{hidden} hidden files and folders"] if hidden else lines


def _counts(unread: Mapping[str, int]) -> str:
    most = sorted(unread.items(), key=lambda item: (-item[1], item[0]))
    n = sum(unread.values())
    return f"{n} file{'s' if n > 1 else ''} ({', '.join(f'{n} {ending}' for ending, n in most[:5])})"


def _natural(name: str) -> list[Any]:
    from timm.utils.misc import natural_key

    return natural_key(name)


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


def _class_names(dataset: Any) -> tuple[str, ...]:
    """Names of the classes by number, where the data set tells them."""
    reader: Any = getattr(dataset, "reader", None)
    if hasattr(reader, "label_key"):
        return tuple(getattr(reader.dataset.features[reader.label_key], "names", None) or ())
    return tuple(map(str, getattr(dataset, "classes", ())))


def _stratified_order(labels: Rows, rng: np.random.Generator, *, keep_one: bool = False) -> Rows:
    """A random order of the images in which every beginning holds each class in its share, to about one image; with
    `keep_one`, one of every class comes after all the others."""
    shuffled = rng.permutation(len(labels))
    position = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        position[members] = (np.arange(len(members)) + rng.random()) / len(members)
        position[members[-1]] += keep_one
    return shuffled[np.argsort(position[shuffled], kind="stable")]
