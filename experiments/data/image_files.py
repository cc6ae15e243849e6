"""Images at byte ranges of files: folders, tar files and WebDataset shards all become this."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["ImageFiles", "Rows", "decode"]

Rows = NDArray[np.int64]

_OPEN_FILES = 32  # per process: shards may be more than a process may open


class ImageFiles:
    """Images that can be read in any order, from any number of processes.

    Only arrays, since a list of a million names is copied page by page into every process that touches it.

    Attributes:
        paths: the files, bytes (n_files,).
        names: of the images, relative to the root or to the tar file, bytes (n_images,).
        files: which file an image is in, int64 (n_images,).
        starts, sizes: where it is there in bytes, int64 (n_images,); size -1 is the whole file.
    """

    def __init__(
        self, paths: NDArray[np.bytes_], names: NDArray[np.bytes_], files: Rows, starts: Rows, sizes: Rows
    ) -> None:
        self.paths, self.names, self.files, self.starts, self.sizes = paths, names, files, starts, sizes
        self._open: OrderedDict[int, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self.names)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def image(self, row: int) -> Image.Image:
        """The decoded image.

        Raises:
            ValueError: it cannot be read; one line that names it.
        """
        return decode(lambda: io.BytesIO(self.content(row)), self.where(row))

    def content(self, row: int) -> bytes:
        """The file of the image.

        Raises:
            OSError: it cannot be read, or ends too early.
        """
        size = int(self.sizes[row])
        if size < 0:
            return Path(self._path(row)).read_bytes()
        # pread has no position that processes could take from each other, as those forked with an open file would.
        content = os.pread(self._file(row).fileno(), size, int(self.starts[row]))
        if len(content) != size:
            raise OSError(f"the file ends after {len(content)} of {size} bytes; copy it again")
        return content

    def where(self, row: int) -> str:
        """The image for a person: its path, or tar file and name."""
        path = self._path(row)
        return path if self.sizes[row] < 0 else f"{path}: {os.fsdecode(self.names[row].item())}"

    def _path(self, row: int) -> str:
        return os.fsdecode(self.paths[self.files[row]].item())

    def _file(self, row: int) -> Any:
        number = int(self.files[row])
        file = self._open.pop(number, None) or open(self._path(row), "rb", buffering=0)  # noqa: SIM115
        self._open[number] = file  # the last is the one used last
        if len(self._open) > _OPEN_FILES:
            self._open.popitem(last=False)[1].close()
        return file


def decode(open_file: Any, where: str) -> Image.Image:
    """The image in what `open_file()` returns, with its pixels loaded.

    Raises:
        ValueError: it cannot be read. No other image takes its place: that one might belong to another split.
    """
    try:
        image = Image.open(open_file())
        image.load()
    except UnidentifiedImageError:
        raise ValueError(f"data: cannot read {where}: it is no image of a known format; replace or remove it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"data: cannot read {where}: {reason}; replace or remove it") from None
    return image
