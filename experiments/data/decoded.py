"""Decoded images on disk, mapped into memory: for data sets so small that decoding costs more than transforming."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.data.image_files import ImageFiles, Rows
from experiments.data.splits import ImageSplit
from supernet.files import replacing

__all__ = ["DecodedImages", "decoded", "files_stamp"]


@dataclass(frozen=True)
class DecodedImages:
    """The images of a split in its order, from pixels that all processes share.

    `pixels` are uint8 of all images one after the other; image i begins at `starts[i]` and is `sizes[i]` = (height,
    width); both int64 (n_images, ...).
    """

    mode: str
    pixels: NDArray[np.uint8] = field(repr=False)
    starts: Rows
    sizes: NDArray[np.int64]

    def image(self, row: int) -> Image.Image:
        """The decoded image."""
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        raw = self.pixels[start : start + height * width * len(self.mode)]
        return Image.frombuffer(self.mode, (width, height), raw, "raw", self.mode, 0, 1)


def decoded(split: ImageSplit, mode: str, upright: bool, folder: Path | None) -> ImageSplit:
    """The same split from decoded images in `folder`, decoded now if they are not there; None: a temporary file. What
    is absent has no pixels.

    The pixels are in files of raw bytes that the system pages in and out, so any number of processes share them.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="decoded-images-") as temporary:
            return decoded(split, mode, upright, Path(temporary))  # an open map outlives its file
    text = f"{split.digest} {split.absent.tolist()} {files_stamp(split)} {mode} {upright}"
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    pixels, sizes = folder / f"{key}.pixels", folder / f"{key}.sizes.npy"
    if not sizes.exists():  # written last: with it, the pixels are complete
        found = np.zeros((len(split), 2), np.int64)
        with replacing(pixels) as temporary, temporary.open("wb") as file:
            for place in split.readable.tolist():
                image = split.pixels(place, mode, upright)
                found[place] = image.height, image.width
                file.write(image.tobytes())
        with replacing(sizes) as temporary:
            np.save(temporary, found)
    shapes = np.load(sizes)
    stops = np.cumsum(shapes.prod(axis=1) * len(mode))
    mapped = np.memmap(pixels, np.uint8, mode="r", shape=(int(stops[-1]),))
    starts = np.concatenate([[0], stops[:-1]])
    return ImageSplit(DecodedImages(mode, mapped, starts, shapes), np.arange(len(split)), split.labels, split.absent)


def files_stamp(split: ImageSplit) -> list[tuple[int, int]]:
    """Sizes and times of the files of a split: they change where images are replaced under their names."""
    source = split.source
    if not isinstance(source, ImageFiles):
        return []
    used = np.unique(source.files[split.rows[split.readable]])
    return [(status.st_size, status.st_mtime_ns) for status in (os.stat(path) for path in source.paths[used].tolist())]
