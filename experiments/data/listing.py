"""Every file below a folder or in tar files, and which of them are images: found once, whatever links lead to it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from timm.utils.misc import natural_key

from experiments.data.image_files import ImageFiles

__all__ = ["Listing", "extension", "image_extensions", "is_hidden", "list_images"]

_NOT_PICTURES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"})
"""What Pillow knows by name and cannot decode without another program."""

_HIDDEN = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found"})


@cache
def image_extensions() -> frozenset[str]:
    """The endings of file names, in lower case with their dot, that the decoder reads."""
    Image.init()
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_PICTURES)


def extension(name: str) -> str:
    """The ending of a file name in lower case with its dot: ``.png`` of ``a.v2.PNG``; empty where it has none."""
    return os.path.splitext(name)[1].lower()


def is_hidden(name: str) -> bool:
    """Whether a file or folder is one that systems and programs leave behind: ``.cache``, ``._a.png``, ``__MACOSX``."""
    return name.startswith(".") or name.lower() in _HIDDEN


@dataclass
class Listing:
    """Images below a root, in natural order of their names, and what else was there.

    Attributes:
        names: of the images, relative to the root, with "/".
        paths: the files on disk.
        places: which of `paths` an image is in, where it begins there and its size in bytes; -1 is the whole file.
        same: equal for two names of one file.
        unread: how many files are no images that the decoder knows, by the ending of their names.
        hidden: how many files and folders were hidden ones.
        broken: links that lead nowhere, or to a folder above themselves.
    """

    names: list[str] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    same: list[tuple[int, ...]] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, name: str, path: bytes, place: tuple[int, int], same: tuple[int, ...]) -> None:
        """One more image: its name, the file it is in, where it begins there and its size, and what it is."""
        if not self.paths or self.paths[-1] != path:
            self.paths.append(path)
        self.names.append(name)
        self.places.append((len(self.paths) - 1, *place))
        self.same.append(same)

    def in_order(self) -> Listing:
        """The same in natural order of the names: 2 before 10."""
        order = sorted(range(len(self.names)), key=lambda row: natural_key(self.names[row]))
        self.names = [self.names[row] for row in order]
        self.places = [self.places[row] for row in order]
        self.same = [self.same[row] for row in order]
        return self

    def images(self) -> ImageFiles:
        """All of them, to be read in any order."""
        places = np.array(self.places, np.int64).reshape(-1, 3)
        return ImageFiles(
            np.array(self.paths),
            np.array([os.fsencode(name) for name in self.names]),
            *(np.ascontiguousarray(places[:, column]) for column in range(3)),
        )


def list_images(root: Path, cache_folder: Path | None = None) -> Listing:
    """What is in a folder, or in a .tar file; tar files in a folder count as folders of their name.

    Args:
        root: the folder or .tar file.
        cache_folder: where to note where images lie in tar files, if that cannot be noted beside them.

    Raises:
        ValueError: a folder cannot be read, or a tar file is damaged.
    """
    listing = Listing()
    if root.is_file():
        _list_tar(root, "", listing, cache_folder)
    else:
        try:
            status = root.stat()
            _list_folder(os.fspath(root), "", ((status.st_dev, status.st_ino),), listing, cache_folder)
        except OSError as error:
            raise ValueError(f"data: cannot read {error.filename or root}: {error.strerror}") from None
    return listing.in_order()


def _list_folder(
    folder: str, prefix: str, above: tuple[tuple[int, int], ...], listing: Listing, cache_folder: Path | None
) -> None:
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    known, device = image_extensions(), above[-1][0]
    for entry in found:
        name = prefix + entry.name
        if is_hidden(entry.name):
            listing.hidden += 1
        elif entry.is_dir():
            status = entry.stat()
            here = (status.st_dev, status.st_ino)
            if here in above:  # following it would never end
                listing.broken.append(name)
            else:
                _list_folder(entry.path, f"{name}/", (*above, here), listing, cache_folder)
        elif not entry.is_file():
            listing.broken.append(name)
        elif extension(entry.name) in known:
            if entry.is_symlink():
                status = entry.stat()
                same = (status.st_dev, status.st_ino)
            else:
                same = (device, entry.inode())  # known without asking for the file
            listing.add(name, os.fsencode(entry.path), (0, -1), same)
        elif extension(entry.name) == ".tar":
            _list_tar(Path(entry.path), name.removesuffix(entry.name[-4:]) + "/", listing, cache_folder)
        else:
            listing.unread[extension(entry.name) or "without ending"] += 1


def _list_tar(path: Path, prefix: str, listing: Listing, cache_folder: Path | None) -> None:
    from experiments.data.shards import index_tars

    found, file = index_tars([path], "folders", cache_folder), path.stat()
    listing.unread.update(found.unread)
    listing.hidden += found.hidden
    for row in range(len(found.images)):
        start, size = int(found.images.starts[row]), int(found.images.sizes[row])
        name = prefix + os.fsdecode(found.images.names[row].item())
        listing.add(name, os.fsencode(path), (start, size), (file.st_dev, file.st_ino, start))
