"""Images in the batches that an ONNX file of a fixed batch size takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

__all__ = ["fixed_batches"]

Images = NDArray[np.float32]


def fixed_batches(images: Iterable[Images], size: int) -> Iterator[tuple[Images, int]]:
    """Batches of exactly `size` images, and how many of each are new.

    Images come in batches (n, channels, height, width) of any n. The last batch is filled up with its first image,
    since a file with a fixed batch takes no other; those at its end are not new.
    """
    waiting: list[Images] = []
    n_waiting = 0
    for batch in images:
        waiting.append(batch)
        n_waiting += len(batch)
        if n_waiting < size:
            continue
        joined = np.concatenate(waiting)
        whole = n_waiting - n_waiting % size
        for first in range(0, whole, size):
            yield joined[first : first + size], size
        waiting, n_waiting = [joined[whole:]], n_waiting - whole
    if n_waiting:
        joined = np.concatenate(waiting)
        yield np.concatenate([joined, np.repeat(joined[:1], size - n_waiting, axis=0)]), n_waiting
