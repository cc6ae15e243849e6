"""Images from folders, tar files and whatever else timm opens, the same for the same seed and epoch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from experiments.data.image_data import EvaluationSplit, Split
from experiments.data.splits import ImageSplit, Rows

__all__ = ["Augmentation", "TimmData"]

_CALIBRATION_EPOCH = 2**31  # an epoch of the training transform that no training reaches
_NORMS = {  # mean and standard deviation by number of channels; one channel is grey ImageNet
    1: ((0.449,), (0.226,)),
    3: (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
}


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image, in timm's terms; the evaluation transform resizes and crops the centre."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    color_jitter: float = 0.0
    auto_augment: str | None = None
    random_erasing: float = 0.0


@dataclass(frozen=True)
class TimmData:
    """`ImageData` over three splits of images on disk (see `splits.open_splits`).

    Order and augmentation follow from (seed, epoch, image) alone, so the number of workers changes nothing but speed.
    `evaluation_crop` is the share of the side that the centre crop of an evaluation image keeps.
    """

    splits: Mapping[Split, ImageSplit]
    seed: int
    resolution: int
    batch_size: int
    in_channels: int = 3
    workers: int = 2
    augmentation: Augmentation = Augmentation()
    evaluation_crop: float = 0.875

    @property
    def n_classes(self) -> int:
        return int(max(split.labels.max() for split in self.splits.values())) + 1

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.batch_size

    @property
    def digest(self) -> str:
        settings = (self.seed, self.resolution, self.batch_size, self.in_channels, self.evaluation_crop)
        text = repr((self._split_digests, settings, asdict(self.augmentation)))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def _split_digests(self) -> dict[Split, str]:
        return {name: self.splits[name].digest for name in sorted(self.splits)}

    def n_images(self, split: Split) -> int:
        return len(self.splits[split])

    def train_batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng((self.seed, 1, epoch)).permutation(len(self.splits["train"]))
        batches = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)[skip:]
        yield from self._load("train", list(batches), epoch)

    def evaluation_batches(self, split: EvaluationSplit, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._load(split, _chunks(np.arange(len(self.splits[split])), batch_size), epoch=None)

    def calibration_batches(self, n_images: int, batch_size: int) -> Iterator[Tensor]:
        n_train = len(self.splits["train"])
        if n_images > n_train:
            raise ValueError(f"{n_images} calibration images; the training split has {n_train}: ask for fewer")
        chosen = np.random.default_rng((self.seed, 2)).permutation(n_train)[:n_images]
        for images, _ in self._load("train", _chunks(chosen, batch_size), _CALIBRATION_EPOCH):
            yield images

    def _load(self, split: Split, batches: list[Rows], epoch: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of the images at the given places; `epoch` seeds the training transform, None: that of evaluation."""
        transform = self._evaluation_transform if epoch is None else self._training_transform
        images = _Images(self.splits[split], transform, self.in_channels, (self.seed, 3, epoch or 0))
        yield from DataLoader(
            images,
            batch_sampler=[batch.tolist() for batch in batches],
            num_workers=min(self.workers, len(batches)),
            generator=torch.Generator(),  # a generator of its own, so that the global one is left alone
        )

    @cached_property
    def _training_transform(self) -> Any:
        mean, std = _NORMS[self.in_channels]
        return create_transform(
            self.resolution,
            is_training=True,
            scale=self.augmentation.crop_scale,
            hflip=self.augmentation.flip,
            color_jitter=self.augmentation.color_jitter,
            auto_augment=self.augmentation.auto_augment,
            re_prob=self.augmentation.random_erasing,
            interpolation="bicubic",
            mean=mean,
            std=std,
        )

    @cached_property
    def _evaluation_transform(self) -> Any:
        mean, std = _NORMS[self.in_channels]
        return create_transform(
            self.resolution, crop_pct=self.evaluation_crop, interpolation="bicubic", mean=mean, std=std
        )


class _Images(Dataset[tuple[Tensor, int]]):
    """Transformed images of a split, each with random numbers of its own."""

    def __init__(self, split: ImageSplit, transform: Any, in_channels: int, seed: tuple[int, ...]) -> None:
        self.split = split
        self.transform = transform
        self.mode = "L" if in_channels == 1 else "RGB"
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = int(self.split.rows[index])
        image, label = self.split.dataset[row]
        with _seeded(*self.seed, row):
            return self.transform(image.convert(self.mode)), int(label)


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Global random numbers follow from the key inside, and are what they were after.

    timm's transforms draw from the three global generators and take no other, so this is the one place that seeds them.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    words = np.random.SeedSequence(key).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])  # noqa: NPY002
    torch.default_generator.manual_seed(words[2])
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.set_rng_state(before[2])


def _chunks(rows: Rows, size: int) -> list[Rows]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
