"""Mixup and cutmix: training images blended in pairs, and their labels with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Mixing"]


@dataclass(frozen=True)
class Mixing:
    """timm's mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019), drawn once per step and process.

    Attributes:
        n_classes: of the labels.
        mixup: alpha of mixup; 0: none.
        cutmix: alpha of cutmix; 0: none.
        probability: that a step mixes at all.
        cutmix_probability: that it is cutmix, where both are on.
    """

    n_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    probability: float = 1.0
    cutmix_probability: float = 0.5

    def __post_init__(self) -> None:
        for name, value in (("probability", self.probability), ("cutmix_probability", self.cutmix_probability)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} {value} of mixing is not in [0, 1]")
        if min(self.mixup, self.cutmix) < 0 or not self.mixup + self.cutmix > 0:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix} mix nothing; set one above 0, or leave both")

    def __call__(self, images: Tensor, labels: Tensor, seed: int, step: int, rank: int) -> tuple[Tensor, Tensor]:
        """Mixed images (n, channels, height, width) and soft labels (n, n_classes), for labels (n,).

        Raises:
            ValueError: `n` is odd; images are mixed in pairs.
        """
        from timm.data.mixup import Mixup

        if len(images) % 2:
            raise ValueError(
                f"mixup and cutmix need an even number of images per process; got {len(images)}: change data.batch_size"
            )
        mix = Mixup(
            self.mixup, self.cutmix, None, self.probability, self.cutmix_probability, label_smoothing=0.0,
            num_classes=self.n_classes,
        )  # fmt: skip
        with _numpy_seeded(seed, step, rank):
            return mix(images.clone(), labels)


@contextmanager
def _numpy_seeded(*key: int) -> Iterator[None]:
    """Inside, numpy's global generator, the only one that timm's Mixup draws from, follows from the key."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(np.random.SeedSequence((*key, 1)).generate_state(1))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
