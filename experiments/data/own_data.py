"""Data of one's own, from a function: images and targets of any kind, as arrays or as data sets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.image_data import SPLITS, EvaluationSplit, Split, check_ranks
from experiments.data.image_files import Rows
from supernet.plugins import called, imported
from supernet.scoring.images import resize

__all__ = ["OwnData", "OwnSplit", "open_own_data"]

_SAMPLED = 16  # examples of a data set that its digest is made of


@dataclass(frozen=True)
class OwnSplit:
    """One split: `given` is a pair of arrays (images, targets), or a data set of n pairs (image, target).

    Raises:
        ValueError: it is neither, or images are not float (n, channels, height, width); `name` is for the message.
    """

    name: str
    given: Any = field(repr=False)

    def __post_init__(self) -> None:
        if not hasattr(self.given, "__len__") or not hasattr(self.given, "__getitem__"):
            raise ValueError(
                f"{self.name} is a {type(self.given).__name__}; give a tuple (images, targets) of arrays, or a data "
                "set with a length and items (image, target)"
            )
        if self.arrays is not None and len(self.arrays[0]) != len(self.arrays[1]):
            raise ValueError(f"{self.name} has {len(self.arrays[0])} images and {len(self.arrays[1])} targets")
        if len(self) == 0:
            raise ValueError(f"{self.name} is empty")
        images, _ = self.batch(np.zeros(1, np.int64))
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"{self.name} has images {list(images.shape[1:])} of {images.dtype}; an image must be float (channels, "
                "height, width), normalised as the networks take it"
            )

    @cached_property
    def arrays(self) -> tuple[Tensor, Tensor] | None:
        """Images and targets of a split that is given as arrays."""
        if not isinstance(self.given, tuple) or len(self.given) != 2:
            return None
        images, targets = map(_tensor, self.given)
        return images, targets

    def __len__(self) -> int:
        return len(self.given if self.arrays is None else self.arrays[0])

    def batch(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Images (n, channels, height, width) and targets (n, ...) of rows (n,)."""
        if self.arrays is not None:
            chosen = torch.from_numpy(rows)
            return self.arrays[0][chosen], self.arrays[1][chosen]
        images, targets = zip(*(self.given[row] for row in rows.tolist()), strict=True)
        return torch.stack([_tensor(image) for image in images]), torch.stack([_tensor(one) for one in targets])

    @cached_property
    def targets(self) -> Tensor:
        """Those of all examples (n, ...)."""
        if self.arrays is not None:
            return self.arrays[1]
        return self.batch(np.arange(len(self)))[1]

    @property
    def digest(self) -> str:
        """Names the content of arrays; of a data set, its length and some of its examples."""
        shown = self.arrays or self.batch(np.unique(np.linspace(0, len(self) - 1, _SAMPLED).astype(np.int64)))
        content = hashlib.sha256(f"{len(self)} {[list(one.shape) for one in shown]}".encode())
        for one in shown:
            content.update(one.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]


@dataclass(frozen=True)
class OwnData:
    """`ImageData` over three splits that a function gave; targets are class indices (n,) or anything else (n, ...).

    Images are resized to `resolution` where they have another; targets are left as they are. The order follows from
    the seed and the epoch.
    """

    splits: Mapping[Split, OwnSplit]
    seed: int
    resolution: int
    batch_size: int

    @property
    def n_classes(self) -> int:
        """Classes of integer targets; of others, which are (n, n_outputs, ...), the second size."""
        return self._n_classes

    @cached_property
    def _n_classes(self) -> int:
        _, targets = self.splits["train"].batch(np.zeros(1, np.int64))
        if targets.dtype != torch.int64:
            if targets.ndim < 2:
                raise ValueError(
                    "data: real targets must be (n, n_outputs, ...); of single numbers make a column (n, 1)"
                )
            return targets.shape[1]
        classes = getattr(self.splits["train"].given, "classes", None)  # as data sets of torchvision have
        return len(classes) if classes else int(max(split.targets.max() for split in self.splits.values())) + 1

    @property
    def in_channels(self) -> int:
        return self.splits["train"].batch(np.zeros(1, np.int64))[0].shape[1]

    @property
    def digest(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        parts = [self.splits[name].digest for name in SPLITS]
        text = f"own {parts} {self.seed} {self.resolution} {self.batch_size}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, getattr(self.splits["train"].given, "classes", None) or ()))

    @property
    def identity(self) -> str:
        return self.digest

    @property
    def preprocessing(self) -> None:
        return None  # the function's own business

    def description(self) -> list[str]:
        return [
            f"{name}: {len(split)} examples, images {list(images.shape[1:])}, targets {list(targets.shape[1:])} of "
            f"{str(targets.dtype).removeprefix('torch.')}"
            for name, split in self.splits.items()
            for images, targets in [split.batch(np.zeros(1, np.int64))]
        ]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.splits["train"]) // self.batch_size

    def n_images(self, split: Split) -> int:
        return len(self.splits[split])

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        check_ranks(self.batch_size, rank, n_ranks)
        order = np.random.default_rng((self.seed, 1, epoch)).permutation(len(self.splits["train"]))
        batches = order[: self.steps_per_epoch * self.batch_size].reshape(-1, self.batch_size)
        for rows in batches[skip:, rank::n_ranks]:
            yield self._batch("train", rows)

    def evaluation_batches(self, split: EvaluationSplit, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.default_rng((self.seed, 4)).permutation(len(self.splits[split]))
        yield from (self._batch(split, order[at : at + batch_size]) for at in range(0, len(order), batch_size))

    def calibration_batches(self, n_images: int, batch_size: int) -> Iterator[Tensor]:
        n_train = len(self.splits["train"])
        if n_images > n_train:
            raise ValueError(f"{n_images} calibration images; the training split has {n_train}: ask for fewer")
        order = np.random.default_rng((self.seed, 2)).permutation(n_train)[:n_images]
        yield from (
            self._batch("train", order[start : start + batch_size])[0] for start in range(0, n_images, batch_size)
        )

    def _batch(self, split: Split, rows: Rows) -> tuple[Tensor, Tensor]:
        images, targets = self.splits[split].batch(rows)
        return resize(images, self.resolution), targets


def open_own_data(source: str, options: Mapping[str, Any], *, seed: int, resolution: int, batch_size: int) -> OwnData:
    """The data that the function `source`, ``package.module:function``, returns: by "train", "validation" and "test"
    what `OwnSplit` takes.

    The function gets `options`, and `seed` where it has a parameter of this name.

    Raises:
        ValueError: there is no such function, it fails, or returns something else.
    """
    splits = called(imported(source, f"data.source {source}"), source, {"seed": seed}, options)
    if not isinstance(splits, Mapping) or set(splits) != set(SPLITS):
        found = f"keys {', '.join(map(repr, splits))}" if isinstance(splits, Mapping) else f"a {type(splits).__name__}"
        raise ValueError(f"{source} returns {found}; return a dictionary of 'train', 'validation' and 'test'")
    try:
        data = OwnData({name: OwnSplit(name, splits[name]) for name in SPLITS}, seed, resolution, batch_size)
        shapes = {tuple(split.batch(np.zeros(1, np.int64))[0].shape[1:2]) for split in data.splits.values()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{source}: {' '.join(str(error).split())}") from error
    if len(shapes) > 1:
        raise ValueError(f"{source}: images of the splits differ in their channels")
    return data


def _tensor(values: Any) -> Tensor:
    """Numbers as training takes them: float32, int64 or boolean."""
    tensor = torch.as_tensor(values)
    if tensor.is_floating_point():
        return tensor.float()
    return tensor if tensor.dtype == torch.bool else tensor.long()
