"""What training and scoring ask of data: batches that are the same whenever seed and epoch are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

__all__ = ["SPLITS", "EvaluationSplit", "ImageData", "Preprocessing", "Split", "check_ranks"]

Split = Literal["train", "validation", "test"]
EvaluationSplit = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image file before a network sees it: upright, resized so that the shorter side is
    ``resolution / crop``, cropped in the centre to `resolution`, divided by 255, then ``(x - mean) / std`` per channel.

    Attributes:
        mean, std: of values in [0, 1], one per channel.
        interpolation: of resizing, "bicubic" or "bilinear".
        crop: share of the side that the centre crop keeps.
        upright: whether the EXIF orientation is heeded.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop: float
    upright: bool


class ImageData(Protocol):
    """Labelled images in three splits that never mix.

    Images are float32 (n, in_channels, resolution, resolution), normalised; labels are int64 (n,), or for a task of
    one's own targets (n, ...) of any kind. Everything is a
    function of the constructor's arguments and of those given here: no hidden position, so any batch can be made again.
    """

    @property
    def n_classes(self) -> int:
        """Of the labels; where targets are no labels, the outputs that a network for them needs."""
        ...

    @property
    def in_channels(self) -> int: ...

    @property
    def resolution(self) -> int:
        """Height and width of the images in pixels, the largest that a network of the run takes."""
        ...

    @property
    def digest(self) -> str:
        """Names the images, how they are split and transformed, and the seed: equal digests, equal batches."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes by number; empty where nobody has named them."""
        ...

    @property
    def identity(self) -> str:
        """What the training of a run is bound to: like `digest`, but it stays when images turn out to be damaged."""
        ...

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images for a network are made of image files; None where nobody says."""
        ...

    def description(self) -> list[str]:
        """What is in the splits, how they came about and what was left out, one line each."""
        ...

    @property
    def steps_per_epoch(self) -> int:
        """Training batches in an epoch; all are full."""
        ...

    def n_images(self, split: Split) -> int:
        """Number of images of a split."""
        ...

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from batch `skip` on: exactly those an uninterrupted epoch would have had.

        Of `n_ranks` processes that train together, each reads the images ``rank::n_ranks`` of every batch.

        Raises:
            ValueError: the batch size is not divisible by `n_ranks`.
        """
        ...

    def evaluation_batches(self, split: EvaluationSplit, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image of the split once, in a random order that never changes; the last batch may be smaller."""
        ...

    def calibration_batches(self, n_images: int, batch_size: int) -> Iterator[Tensor]:
        """Images of a fixed slice of the training split, made as in training; the last batch may be smaller.

        Raises:
            ValueError: the training split has fewer images.
        """
        ...


def check_ranks(batch_size: int, rank: int, n_ranks: int) -> None:
    """Raises ValueError where a batch cannot be shared out evenly, or there is no such rank."""
    if not 0 <= rank < n_ranks:
        raise ValueError(f"rank {rank} of {n_ranks} processes; ranks count from 0")
    if batch_size % n_ranks:
        lower = max(1, batch_size // n_ranks) * n_ranks
        raise ValueError(f"data.batch_size {batch_size} cannot be shared by {n_ranks} processes; take {lower}")
