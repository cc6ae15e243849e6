"""Tar files for random access: where every image lies, from one scan that is kept as plain arrays."""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from experiments.data.image_files import ImageFiles, Rows
from experiments.data.listing import extension, image_extensions, is_hidden
from supernet.files import replacing

__all__ = ["Layout", "TarImages", "index_tars"]

Layout = Literal["folders", "webdataset"]
"""Whether the folder of an image is its class, or a file beside it (.cls, or .json with "label") has the number."""

_VERSION = 2


@dataclass(frozen=True)
class TarImages:
    """The images of some tar files, and what else was there.

    `labels` are int64 (n_images,), -1 where folders are classes. `unread` counts files that are no images that the
    decoder knows, by the ending of their names, `hidden` those of systems and programs.
    """

    images: ImageFiles
    labels: Rows
    unread: dict[str, int]
    hidden: int


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
    return TarImages(images, found["labels"], json.loads(str(found["unread"])), int(found["hidden"]))


def _load(place: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """The arrays of a kept scan; None where there is none, it is of other files, or it is damaged."""
    try:
        with np.load(place, allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if str(file["stamp"]) == stamp else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _scan(paths: Sequence[Path], layout: Layout) -> dict[str, np.ndarray]:
    found: list[tuple[_Member, int, int]] = []
    unread: Counter[str] = Counter()
    hidden = 0
    for number, path in enumerate(paths):
        with path.open("rb") as file:
            try:
                members = _members(file, "", 0, path.stat().st_size, unread)
            except tarfile.TarError as error:
                raise ValueError(f"data: {path} is damaged or not a tar file: {error}; copy it again") from None
            seen = [member for member in members if not any(map(is_hidden, member.name.split("/")))]
            hidden += len(members) - len(seen)
            if layout == "webdataset":
                found += [(member, number, label) for member, label in _webdataset_labels(seen, file, path, unread)]
                continue
            known = image_extensions()
            for member in seen:
                if extension(member.name) in known:
                    found.append((member, number, -1))
                else:
                    unread[extension(member.name) or "without ending"] += 1
    if not found and layout == "webdataset":
        raise ValueError(f"data: no image in {paths[0]}" + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""))
    return {
        "names": np.array([os.fsencode(member.name) for member, _, _ in found], np.bytes_),
        "files": np.array([number for _, number, _ in found], np.int64),
        "starts": np.array([member.start for member, _, _ in found], np.int64),
        "sizes": np.array([member.size for member, _, _ in found], np.int64),
        "labels": np.array([label for _, _, label in found], np.int64),
        "unread": np.array(json.dumps(unread)),
        "hidden": np.array(hidden),
    }


def _members(file: BinaryIO, prefix: str, start: int, stop: int, unread: Counter[str]) -> list[_Member]:
    """Every file in the tar that lies at [start, stop) of `file`, those of tar files inside it included.

    A link is what it leads to; one that leads nowhere in this tar file is counted as not read.
    """
    found: dict[str, _Member] = {}
    inner: list[_Member] = []
    links: dict[str, str] = {}
    file.seek(start)
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (member := tar.next()) is not None:
            tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  # it would keep all of them
            if member.offset >= stop:  # an inner tar file without end mark
                break
            name = posixpath.normpath(member.name).lstrip("/")
            if member.issym():
                links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.islnk():
                links[name] = posixpath.normpath(member.linkname).lstrip("/")
            if not member.isfile():
                continue
            end = member.offset_data + member.size
            if end > stop:
                raise tarfile.ReadError(f"it ends inside of {member.name}")
            if name.lower().endswith(".tar"):
                inner += _members(file, f"{prefix}{name[:-4]}/", member.offset_data, end, unread)
            else:
                found[name] = _Member(prefix + name, member.offset_data, member.size)
    for name in links:
        target, seen = name, {name}
        while target in links and links[target] not in seen:
            target = links[target]
            seen.add(target)
        if target in found:
            found[name] = found[target]._replace(name=prefix + name)
        else:
            unread["link that leads nowhere"] += 1
    return [*found.values(), *inner]


def _webdataset_labels(
    members: Sequence[_Member], file: BinaryIO, path: Path, unread: Counter[str]
) -> Iterator[tuple[_Member, int]]:
    """Images with their numbers: members of one sample share what comes before the first dot of the file's name, or
    before the last one where names have dots of their own."""
    extensions = {ending.removeprefix(".") for ending in image_extensions()}
    for parts in _samples(members, extensions):
        image = next((parts[ending] for ending in parts if ending in extensions), None)
        if image is None:
            unread["sample without image"] += 1
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


def _samples(members: Sequence[_Member], extensions: set[str]) -> Iterator[dict[str, _Member]]:
    by_first: dict[str, dict[str, _Member]] = {}
    for member in members:
        folder, _, name = member.name.rpartition("/")
        key, _, ending = name.partition(".")
        by_first.setdefault(f"{folder}/{key}", {})[ending.lower()] = member
    for parts in by_first.values():
        if not any(ending in extensions for ending in parts) and any(
            ending.rpartition(".")[2] in extensions for ending in parts
        ):
            by_last: dict[str, dict[str, _Member]] = {}
            for ending, member in parts.items():
                key, _, last = ending.rpartition(".")
                by_last.setdefault(key, {})[last] = member
            yield from by_last.values()
        else:
            yield parts
