"""Images that are read once and kept, as long as they fit into memory, at the resolution that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

import torch
from torch import Tensor

from supernet.scoring.images import resize

__all__ = ["KeptImages"]

_MEMORY = 2 * 2**30  # bytes that are kept

Labels = TypeVar("Labels", Tensor, None)


class KeptImages(Generic[Labels]):
    """Batches of images and labels, or None for labels, at any resolution.

    Args:
        read: reads all batches: float32 images (n, channels, resolution, resolution) and labels (n,) or None.
        n_images: how many there are.
        channels: of an image.
        resolution: in which they are read.
        device: where they are kept.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[tuple[Tensor, Labels]]],
        n_images: int,
        channels: int,
        resolution: int,
        device: torch.device,
    ) -> None:
        self.read, self.device = read, device
        self.fits = n_images * channels * resolution**2 * torch.float32.itemsize <= _MEMORY
        self._whole: list[tuple[Tensor, Labels]] | None = None
        self._resized: tuple[int, list[tuple[Tensor, Labels]]] = (0, [])

    def at(self, resolution: int) -> Iterable[tuple[Tensor, Labels]]:
        """The batches at a resolution, in channels-last order. One resolution is kept: ask for equal ones in a row."""
        if not self.fits:
            return self._made(self.read(), resolution)
        if self._whole is None:
            self._whole = [(images.to(self.device), labels) for images, labels in self.read()]
        if self._resized[0] != resolution:
            self._resized = (resolution, list(self._made(self._whole, resolution)))
        return self._resized[1]

    def _made(self, batches: Iterable[tuple[Tensor, Labels]], resolution: int) -> Iterator[tuple[Tensor, Labels]]:
        for images, labels in batches:
            resized = resize(images.to(self.device), resolution)
            yield resized.contiguous(memory_format=torch.channels_last), labels
