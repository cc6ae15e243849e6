"""Images from folders, tar files and whatever else timm opens, the same for the same seed and epoch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import create_transform
from torch import Tensor

from experiments.data.decoded import decoded
from experiments.data.describing import describe
from experiments.data.image_data import EvaluationSplit, Preprocessing, Split, check_ranks
from experiments.data.image_files import ImageFiles, Rows
from experiments.data.reading import BatchReader, Request, Transform, global_randomness_kept
from experiments.data.splits import FoundImages, ImageSplit
from experiments.settings.sections import AugmentationSettings

__all__ = ["TimmData"]

_VERSION = 3  # of the transforms and their random numbers: part of the digest
_CALIBRATION_EPOCH = 2**31  # an epoch of the training transform that no training reaches


@dataclass(frozen=True)
class TimmData:
    """`ImageData` over three splits of images on disk (see `splits.open_splits`).

    Order and augmentation follow from (seed, epoch, image) alone, so the number of workers or ranks changes nothing but
    speed. With `cache`, every image is decoded once, into `cache_folder` or, without one, a temporary file. With
    `shuffle_shards`, training goes through the tar files in random order, so many at a time, and mixes the images of
    these. With `balanced`, an epoch has every class equally often.
    """

    found: FoundImages
    seed: int
    resolution: int
    batch_size: int
    in_channels: int
    workers: int
    augmentation: AugmentationSettings
    preprocessing: Preprocessing
    cache: bool
    cache_folder: Path | None
    shuffle_shards: int | None
    balanced: bool

    @property
    def splits(self) -> Mapping[Split, ImageSplit]:
        """Train, validation and test."""
        return self.found.splits

    @property
    def classes(self) -> tuple[str, ...]:
        return self.found.classes[: self.n_classes]

    @property
    def n_classes(self) -> int:
        return int(max(split.labels.max() for split in self.splits.values())) + 1

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.batch_size

    @property
    def identity(self) -> str:
        settings = (
            self.seed,
            self.resolution,
            self.batch_size,
            self.in_channels,
            self.preprocessing,
            self.shuffle_shards,
            self.balanced,
        )
        text = repr((_VERSION, self._split_digests, settings, self.augmentation.model_dump()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def digest(self) -> str:
        absent = {name: split.absent.tolist() for name, split in self.splits.items() if len(split.absent)}
        return hashlib.sha256(f"{self.identity} {absent}".encode()).hexdigest()[:16] if absent else self.identity

    def description(self) -> list[str]:
        return describe(self.found)

    @cached_property
    def _split_digests(self) -> dict[Split, str]:
        return {name: self.splits[name].digest for name in sorted(self.splits)}

    def check_transforms(self) -> None:
        """Raises whatever timm raises where it cannot make or use the transforms: they are tried on one image."""
        grey = Image.new(self._mode, (self.resolution + 5, self.resolution + 3), 128)
        transform = self._transform
        with global_randomness_kept():
            transform.training(grey)
            transform.evaluation(grey)

    def close(self) -> None:
        """End the processes that read training images."""
        self._reader.close()

    def n_images(self, split: Split) -> int:
        return len(self.splits[split].readable)

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_ranks(self.batch_size, rank, n_ranks)
        order = self._order(epoch)
        seeds = self._seeds(epoch)
        batches = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)[skip:, rank::n_ranks]
        yield from self._reader.read_in_pool([Request("train", places, seeds[places]) for places in batches])

    def evaluation_batches(self, split: EvaluationSplit, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        # In random order, so that what a score is after some batches is an estimate of what it will be.
        order = np.random.default_rng((self.seed, 4)).permutation(len(self.splits[split]))
        order = order[~np.isin(order, self.splits[split].absent)]
        yield from self._reader.read([Request(split, places) for places in _chunks(order, batch_size)])

    def calibration_batches(self, n_images: int, batch_size: int) -> Iterator[Tensor]:
        n_train = self.n_images("train")
        if n_images > n_train:
            raise ValueError(f"{n_images} calibration images; the training split has {n_train}: ask for fewer")
        order = np.random.default_rng((self.seed, 2)).permutation(len(self.splits["train"]))
        chosen = order[~np.isin(order, self.splits["train"].absent)][:n_images]
        seeds = self._seeds(_CALIBRATION_EPOCH)
        requests = [Request("train", places, seeds[places]) for places in _chunks(chosen, batch_size)]
        yield from (images for images, _ in self._reader.read(requests))

    def _order(self, epoch: int) -> Rows:
        """The training images in the order of this epoch.

        In the place of one that is absent comes another training image, so that batches are full and everything else
        stays as it was. Balanced, every class comes equally often, its images in turn.
        """
        train = self.splits["train"]
        rng = np.random.default_rng((self.seed, 1, epoch))
        order = rng.permutation(len(train))
        if self.balanced:
            order = _balanced(order, train.labels, rng)
        if self.shuffle_shards is not None and isinstance(train.source, ImageFiles):
            shards = train.source.files[train.rows[order]]
            windows = rng.permutation(len(train.source.paths))[shards] // self.shuffle_shards
            order = order[np.argsort(windows, kind="stable")]
        gone = np.isin(order, train.absent)
        if gone.any():
            order[gone] = np.random.default_rng((self.seed, 5, epoch)).choice(train.readable, gone.sum())
        return order

    def _seeds(self, epoch: int) -> Rows:
        """The seed of every training image for its augmentation in this epoch."""
        return np.random.default_rng((self.seed, 3, epoch)).integers(2**62, size=len(self.splits["train"]))

    @cached_property
    def _reader(self) -> BatchReader:
        splits = dict(self.splits)
        if self.cache:
            splits.update(
                (name, decoded(split, self._mode, self.preprocessing.upright, self.cache_folder))
                for name, split in splits.items()
            )
        return BatchReader(splits, self._transform, self.workers)

    @property
    def _mode(self) -> str:
        return "L" if self.in_channels == 1 else "RGB"

    @property
    def _transform(self) -> Transform:
        augmentation, how = self.augmentation, self.preprocessing
        training = create_transform(
            self.resolution,
            is_training=True,
            scale=augmentation.crop_scale,
            hflip=augmentation.flip,
            # None, since a jitter of 0 costs as much as the crop.
            color_jitter=augmentation.color_jitter or None,  # pyright: ignore[reportArgumentType]
            auto_augment=augmentation.auto_augment,
            interpolation=how.interpolation,
            use_prefetcher=True,  # timm's word for: leave the pixels uint8
        )
        evaluation = create_transform(
            self.resolution, crop_pct=how.crop, interpolation=how.interpolation, use_prefetcher=True
        )
        erase = RandomErasing(augmentation.random_erasing, device="cpu") if augmentation.random_erasing else None
        return Transform(self._mode, how.upright, training, evaluation, erase, how.mean, how.std)


def _balanced(order: Rows, labels: Rows, rng: np.random.Generator) -> Rows:
    """As many images as `order` has, every class equally often to one image, and none twice before all its class."""
    classes = rng.permutation(np.unique(labels))
    share, rest = divmod(len(order), len(classes))
    parts = []
    for number, label in enumerate(classes.tolist()):
        members, n = order[labels[order] == label], share + (number < rest)
        rounds = [members, *(rng.permutation(members) for _ in range(-(-n // len(members)) - 1))]
        parts.append(np.concatenate(rounds)[:n])
    return rng.permutation(np.concatenate(parts))


def _chunks(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
