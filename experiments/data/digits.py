"""The embedded data: scikit-learn's handwritten digits composed into a harder task, on the fly and from a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from experiments.data.image_data import EvaluationSplit, Preprocessing, Split, check_ranks
from experiments.settings.sections import DIGITS_IMAGES

__all__ = ["ComposedDigits"]

_VERSION = 1  # of the composition: part of the digest, so raise it whenever an image changes
_STREAMS = {"train": 0, "validation": 1, "test": 2, "calibration": 3}
_SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}  # of the 1,797 real digits
_CHUNK = 500  # images are composed in chunks of this size wherever the batch size must not matter

_SIZE = (0.55, 0.85)  # of the canvas
_ROTATION = np.deg2rad(20.0)
_N_FRAGMENTS = 2
_FRAGMENT_INK = (0.4, 0.9)  # weaker than the digit, so that a person can tell which of them is meant
_BACKGROUND = (0.0, 0.5)
_CONTRAST = (0.35, 1.0)
_NOISE = 0.1
_MEAN, _STD = 0.375, 0.27  # of all pixels of the composites


class _Digits(NamedTuple):
    """Real digits: ink in [0, 1] (n, 1, 8, 8), and their labels int64 (n,)."""

    ink: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ComposedDigits:
    """Ten classes of cluttered digits in grey: `ImageData` that needs no file.

    A digit covers 0.55 to 0.85 of the canvas, turned by up to 20°, among two fainter quarters of other digits, with
    random contrast, background and noise. The splits are made of disjoint real digits, stratified and drawn with the
    seed. Training composites are new in every epoch; validation and test composites are made once and kept.

    `resolution` is the side of the canvas in pixels; `train_images` counts the composites of one epoch.
    """

    seed: int
    resolution: int = 32
    batch_size: int = 64
    train_images: int = DIGITS_IMAGES["train"]
    validation_images: int = DIGITS_IMAGES["validation"]
    test_images: int = DIGITS_IMAGES["test"]

    @property
    def n_classes(self) -> int:
        return 10

    @property
    def in_channels(self) -> int:
        return 1

    @property
    def steps_per_epoch(self) -> int:
        return self.train_images // self.batch_size

    @property
    def digest(self) -> str:
        text = f"digits {_VERSION} {self!r}"
        return hashlib.sha256(text.encode() + self._real["train"].ink.numpy().tobytes()).hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, range(self.n_classes)))

    @property
    def identity(self) -> str:
        return self.digest

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing((_MEAN,), (_STD,), "bilinear", 1.0, True)  # of pictures of such digits

    def description(self) -> list[str]:
        counts = (
            f"{self.train_images} composites per epoch, {self.validation_images} validation, {self.test_images} test"
        )
        return [f"{counts}; classes 0 to 9, in all splits alike, of disjoint real digits of scikit-learn"]

    def n_images(self, split: Split) -> int:
        return {"train": self.train_images, "validation": self.validation_images, "test": self.test_images}[split]

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_ranks(self.batch_size, rank, n_ranks)
        for step in range(skip, self.steps_per_epoch):
            images, labels = self._compose("train", self.batch_size, epoch, step)
            yield images[rank::n_ranks], labels[rank::n_ranks]

    def evaluation_batches(self, split: EvaluationSplit, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._validation if split == "validation" else self._test
        yield from zip(images.split(batch_size), labels.split(batch_size), strict=True)

    def calibration_batches(self, n_images: int, batch_size: int) -> Iterator[Tensor]:
        if n_images > self.train_images:
            raise ValueError(
                f"{n_images} calibration images; the training split has {self.train_images}: ask for fewer"
            )
        chunks = [self._compose("calibration", _CHUNK, step)[0] for step in range(-(-n_images // _CHUNK))]
        yield from torch.cat(chunks)[:n_images].split(batch_size)

    @cached_property
    def _validation(self) -> tuple[Tensor, Tensor]:
        return self._composed_once("validation")

    @cached_property
    def _test(self) -> tuple[Tensor, Tensor]:
        return self._composed_once("test")

    def _composed_once(self, split: EvaluationSplit) -> tuple[Tensor, Tensor]:
        n = self.n_images(split)
        chunks = [self._compose(split, _CHUNK, step) for step in range(-(-n // _CHUNK))]
        images, labels = (torch.cat(parts)[:n] for parts in zip(*chunks, strict=True))
        return images, labels

    @cached_property
    def _real(self) -> dict[str, _Digits]:
        """The real digits of each split, disjoint and with every class in the same share."""
        from sklearn.datasets import load_digits

        ink, labels = load_digits(return_X_y=True)
        rng = np.random.default_rng((self.seed, len(_STREAMS)))
        rows: dict[str, list[int]] = {split: [] for split in _SHARES}
        stops = np.cumsum(list(_SHARES.values()))[:-1]
        for label in range(self.n_classes):
            members = rng.permutation(np.flatnonzero(labels == label))
            for split, part in zip(_SHARES, np.split(members, (stops * len(members)).astype(int)), strict=True):
                rows[split] += part.tolist()
        pixels = torch.from_numpy(ink.astype(np.float32)).div_(16).reshape(-1, 1, 8, 8)
        classes = torch.from_numpy(labels.astype(np.int64))
        parts = {split: _Digits(pixels[chosen], classes[chosen]) for split, chosen in rows.items()}
        return {**parts, "calibration": parts["train"]}

    def _compose(self, stream: str, n: int, *position: int) -> tuple[Tensor, Tensor]:
        """`n` composites (n, 1, resolution, resolution) and labels (n,), the same for the same stream and position."""
        rng = np.random.default_rng((self.seed, _STREAMS[stream], *position))
        real = self._real[stream]
        chosen = torch.from_numpy(rng.integers(len(real.labels), size=n))
        ink = self._placed(real.ink[chosen], rng.uniform(*_SIZE, n), rng)
        for _ in range(_N_FRAGMENTS):
            others = real.ink[torch.from_numpy(rng.integers(len(real.labels), size=n))]
            quarters = others.reshape(n, 2, 4, 2, 4).transpose(2, 3).reshape(n, 4, 1, 4, 4)
            quarter = quarters[torch.arange(n), torch.from_numpy(rng.integers(4, size=n))]
            quarter = quarter * _column(rng.uniform(*_FRAGMENT_INK, n))
            ink = torch.maximum(ink, self._placed(quarter, rng.uniform(*_SIZE, n) / 2, rng))
        noise = torch.from_numpy(rng.standard_normal(ink.shape, dtype=np.float32))
        images = ink.mul_(_column(rng.uniform(*_CONTRAST, n))).add_(_column(rng.uniform(*_BACKGROUND, n)))
        return images.add_(noise, alpha=_NOISE).sub_(_MEAN).div_(_STD), real.labels[chosen]

    def _placed(self, ink: Tensor, size: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Ink (n, 1, h, h) drawn on a canvas at `size` (n,) of its side, turned and moved at random, wholly inside."""
        n = len(size)
        angle = rng.uniform(-_ROTATION, _ROTATION, n)
        centre = rng.uniform(-1, 1, (n, 2, 1)) * (1 - size)[:, None, None]  # of a canvas from -1 to 1
        turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(n, 2, 2)
        inverse = turn / size[:, None, None]
        theta = torch.from_numpy(np.concatenate([inverse, -inverse @ centre], axis=2).astype(np.float32))
        grid = affine_grid(theta, [n, 1, self.resolution, self.resolution], align_corners=False)
        return grid_sample(ink, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).reshape(-1, 1, 1, 1)
