"""Three splits of any data set that timm opens: those on disk where there are, else carved from training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.data.image_data import Split

__all__ = ["ImageSplit", "open_splits"]

Rows = NDArray[np.int64]

_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
_HELD_OUT: tuple[Split, ...] = ("validation", "test")


@dataclass(frozen=True)
class ImageSplit:
    """The images at positions `rows` of an indexable data set of (PIL image, label); `labels` are int64 (n_images,)."""

    dataset: Any
    rows: Rows
    labels: Rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: Rows) -> ImageSplit:
        """The images at the given places of this split."""
        return replace(self, rows=self.rows[chosen], labels=self.labels[chosen])

    @property
    def digest(self) -> str:
        """Of labels and, where the data set has some, file names, in order; where the files lie does not matter."""
        hashed = hashlib.sha256(self.rows.tobytes() + self.labels.tobytes())
        if hasattr(self.dataset, "filename"):
            hashed.update("\n".join(str(self.dataset.filename(row)) for row in self.rows.tolist()).encode())
        return hashed.hexdigest()[:16]


def open_splits(
    source: str,
    root: str | None,
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    limits: Mapping[Split, int | None],
    image_mode: str = "RGB",
) -> dict[Split, ImageSplit]:
    """Train, validation and test images of `timm.data.create_dataset(source, root=root)`.

    A folder may hold ``train``, ``validation`` and ``test``, each a folder or a .tar file of one folder per class.
    Where only two are there, as in ImageNet, the second is the test split and validation is carved from train; where
    none is, both are. Carving and `limits` (how many images of a split are used) draw with the seed and keep the share
    of every class.

    Raises:
        ValueError: nothing to read there, a class that train lacks, or a split that would be empty.
    """
    opened = _open_all(source, root, image_mode)
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
    for stream, name in enumerate(_NAMES):
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


def _open_all(source: str, root: str | None, image_mode: str) -> dict[Split, ImageSplit]:
    """Every split that is there on its own, at least "train"."""
    kind = source.partition("/")[0].lower() if "/" in source else ""
    if kind == "torch" and source.lower() not in ("torch/image_folder", "torch/folder"):
        datasets: dict[Split, Any] = {
            "train": _create(source, root, "train"),
            "test": _create(source, root, "validation"),
        }
    elif kind == "hfds":
        datasets = {"train": _create(source, root, "train", input_img_mode=image_mode)}
        for name in _HELD_OUT:
            try:
                datasets[name] = _create(source, root, name, input_img_mode=image_mode)
            except ValueError:
                continue  # the data set has no such split
    elif source in ("", "folder", "tar"):
        datasets = _open_files(root, image_mode)
    else:
        raise ValueError(
            f"data.source {source!r} cannot be read at random; there are 'digits', 'folder', 'tar', 'torch/NAME' and "
            "'hfds/NAME': unpack a stream (WebDataset, tfds) into a folder or tar file of one folder per class"
        )
    splits: dict[Split, ImageSplit] = {}
    for name, dataset in datasets.items():
        labels = _labels(dataset)
        splits[name] = ImageSplit(dataset, np.arange(len(labels)), labels)
    return splits


def _open_files(root: str | None, image_mode: str) -> dict[Split, Any]:
    if not root:
        raise ValueError("data.root is missing: the folder or .tar file of the images, one folder per class")
    base = Path(root)
    if not base.exists():
        raise ValueError(f"data.root {root} does not exist; give a folder or .tar file of one folder per class")
    if base.is_file() and base.suffix.lower() != ".tar":
        raise ValueError(f"data.root {root} is neither a folder nor a .tar file; unpack it, or pack it as .tar")
    found: dict[Split, Path] = {}
    for split, names in _NAMES.items():
        candidates = [base / name for name in names] + [base / f"{name}.tar" for name in names]
        there = [path for path in candidates if path.is_dir() or path.is_file()]
        if there:
            found[split] = there[0]
    if found and "train" not in found:
        raise ValueError(f"data.root {root} has {', '.join(found)} but no train; name the training folder 'train'")
    found = found or {"train": base}
    train, class_names = _open_path(found["train"], image_mode)
    datasets: dict[Split, Any] = {"train": train}
    for split in _HELD_OUT:
        if split in found:
            dataset, names = _open_path(found[split], image_mode)
            if unknown := sorted(set(names) - set(class_names)):
                raise ValueError(f"data: class {unknown[0]!r} of {found[split]} does not occur in {found['train']}")
            if names != class_names:  # a class may be absent: the numbers must be those of the training split
                dataset, _ = _open_path(found[split], image_mode, class_map=class_names)
            datasets[split] = dataset
    return datasets


def _open_path(path: Path, image_mode: str, class_map: dict[str, int] | None = None) -> tuple[Any, dict[str, int]]:
    """The data set of one folder or tar file, and the numbers of its classes."""
    # timm's cache of a tar's contents is a pickle beside the data: none is read or written.
    kwargs = {"cache_tarinfo": False} if path.suffix.lower() == ".tar" and path.is_file() else {}
    dataset = _create("", str(path), "", search_split=False, class_map=class_map, input_img_mode=image_mode, **kwargs)
    reader = dataset.reader
    return dataset, dict(reader.class_name_to_idx if kwargs else reader.class_to_idx)


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
    elif hasattr(reader, "targets"):  # timm, tar
        labels = reader.targets
    elif hasattr(reader, "samples"):  # timm, folder
        labels = [label for _, label in reader.samples]
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
