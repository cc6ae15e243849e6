"""Tar files for random access: where every image lies, from one scan that is kept as plain arrays."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from timm.data.readers.img_extensions import get_img_extensions
from timm.utils.misc import natural_key

from experiments.data.image_files import ImageFiles, Rows
from supernet.files import replacing

__all__ = ["Layout", "TarImages", "index_tars"]

Layout = Literal["folders", "webdataset"]
"""Whether the folder of an image is its class, or a file beside it (.cls, or .json with "label") has the number."""

_VERSION = 1


@dataclass(frozen=True)
class TarImages:
    """The images of some tar files; `labels` are int64 (n_images,), positions in `classes` if those are not empty."""

    images: ImageFiles
    labels: Rows
    classes: tuple[str, ...]


class _Member(NamedTuple):
    name: str
    start: int
    size: int


def index_tars(paths: Sequence[Path], layout: Layout, cache_folder: Path | None = None) -> TarImages:
    """Where the images of uncompressed tar files lie, tar files inside them included.

    The scan reads headers only. It is kept beside the first file, or in `cache_folder` where that cannot be written,
    and made again when a file changes its size or time.

    Raises:
        ValueError: a file is damaged or ends too early, a label is missing, or there is no image.
    """
    try:
        stamp = [[path.name, (status := path.stat()).st_size, status.st_mtime_ns] for path in paths]
    except OSError as error:
        raise ValueError(f"data: cannot read {error.filename}: {error.strerror}") from None
    text = json.dumps([_VERSION, layout, stamp])
    key = hashlib.sha256(json.dumps([layout, [path.name for path in paths]]).encode()).hexdigest()[:8]
    places = [folder / f".images-{key}.npz" for folder in (paths[0].parent, cache_folder) if folder is not None]
    found = next((index for place in places if (index := _load(place, text)) is not None), None)
    if found is None:
        found = _scan(paths, layout)
        for place in places:
            try:
                with replacing(place) as temporary:
                    np.savez(temporary, **(found | {"stamp": np.array(text)}))  # pyright: ignore[reportArgumentType]
                break
            except OSError:
                continue  # the data cannot be written; without any place, every start scans
    images = ImageFiles(
        np.array([os.fsencode(path) for path in paths]),
        *(found[name] for name in ("names", "files", "starts", "sizes")),  # type: ignore[arg-type]
    )
    return TarImages(images, found["labels"], tuple(found["classes"].tolist()))


def _load(place: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """The arrays of a kept scan; None where there is none, it is of other files, or it is damaged."""
    try:
        with np.load(place, allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if str(file["stamp"]) == stamp else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _scan(paths: Sequence[Path], layout: Layout) -> dict[str, np.ndarray]:
    found: list[tuple[_Member, int, int | str]] = []
    for number, path in enumerate(paths):
        with path.open("rb") as file:
            try:
                members = list(_members(file, "", 0, path.stat().st_size))
            except tarfile.TarError as error:
                raise ValueError(f"data: {path} is damaged or not a tar file: {error}; copy it again") from None
            labelled = _webdataset_labels(members, file, path) if layout == "webdataset" else _folder_labels(members)
            found += [(member, number, label) for member, label in labelled]
    if not found:
        raise ValueError(f"data: no image in {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""))
    classes: list[str] = []
    if layout == "folders":
        found.sort(key=lambda entry: natural_key(entry[0].name))
        classes = sorted({str(label) for _, _, label in found}, key=natural_key)
        if classes == [""]:
            raise ValueError(
                f"data: {paths[0]} has images outside of class folders; pack one folder per class, "
                "or take source 'wds' if every image has a .cls file"
            )
    number_of = {name: number for number, name in enumerate(classes)}
    return {
        "names": np.array([os.fsencode(member.name) for member, _, _ in found]),
        "files": np.array([number for _, number, _ in found], np.int64),
        "starts": np.array([member.start for member, _, _ in found], np.int64),
        "sizes": np.array([member.size for member, _, _ in found], np.int64),
        "labels": np.array([number_of.get(str(label), label) for _, _, label in found], np.int64),
        "classes": np.array(classes, np.str_),
    }


def _members(file: BinaryIO, prefix: str, start: int, stop: int) -> Iterator[_Member]:
    """Every regular file in the tar that lies at [start, stop) of `file`, those of tar files inside it included."""
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep all of them
            if member.offset >= stop:  # an inner tar file without end mark
                break
            if not member.isfile():
                continue
            end = member.offset_data + member.size
            if end > stop:
                raise tarfile.ReadError(f"it ends inside of {member.name}")
            if member.name.lower().endswith(".tar"):
                yield from _members(file, f"{prefix}{member.name[:-4]}/", member.offset_data, end)
            else:
                yield _Member(prefix + member.name, member.offset_data, member.size)


def _folder_labels(members: Sequence[_Member]) -> Iterator[tuple[_Member, str]]:
    extensions = get_img_extensions(as_set=True)
    for member in members:
        if os.path.splitext(member.name)[1].lower() in extensions:
            yield member, os.path.basename(os.path.dirname(member.name))


def _webdataset_labels(members: Sequence[_Member], file: BinaryIO, path: Path) -> Iterator[tuple[_Member, int]]:
    """Images with their numbers: members of one sample share what comes before the first dot of the file's name."""
    extensions = {extension.removeprefix(".") for extension in get_img_extensions()}
    samples: dict[str, dict[str, _Member]] = {}
    for member in members:
        folder, _, name = member.name.rpartition("/")
        key, _, extension = name.partition(".")
        samples.setdefault(f"{folder}/{key}", {})[extension.lower()] = member
    for parts in samples.values():
        image = next((parts[extension] for extension in parts if extension in extensions), None)
        if image is None:
            continue
        label = parts.get("cls") or parts.get("json")
        if label is None:
            raise ValueError(f"data: {path}: {image.name} has no label; put a .cls file with its number beside it")
        text = os.pread(file.fileno(), label.size, label.start)
        try:
            number = json.loads(text)["label"] if label is parts.get("json") else int(text)
            if type(number) is not int or number < 0:
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"data: {path}: {label.name} is no label: {text[:40]!r}; write the number of the class from 0 on "
                '(in .json as "label")'
            ) from None
        yield image, number
