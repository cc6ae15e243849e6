"""Samplers: which architectures one training step runs, from the seed and the number of the step alone.

Every process of a distributed run therefore has the same architectures without talking, and a resumed run goes on with
the ones that an undisturbed run would have had.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from supernet.architecture import Architecture
from supernet.space import SearchSpace

__all__ = ["Largest", "Sampler", "Sandwich", "Uniform"]


class Sampler(Protocol):
    """Chooses the architectures of a step; it has no state."""

    @property
    def largest_first(self) -> bool:
        """Whether the first architecture of every step is the largest of the space, as an in-place teacher must be."""
        ...

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        """The architectures of step `step` (counted over the whole run), in the order in which they run."""
        ...


@dataclass(frozen=True)
class Largest:
    """The largest architecture of the space alone: ordinary training, or the warm-up of a supernet."""

    largest_first = True

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        return [space.largest]


@dataclass(frozen=True)
class Uniform:
    """`n` architectures whose genes are drawn uniformly and independently, all at one resolution drawn for the step.

    This is how once-for-all networks were trained (Cai et al. 2020). With ``one_resolution=False`` every architecture
    keeps the resolution that was drawn for it.
    """

    n: int = 1
    one_resolution: bool = True
    largest_first = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"a step cannot train {self.n} sub-networks; the least is 1")

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        archs = space.sample(self.n, np.random.default_rng((seed, step)))
        return [replace(arch, resolution=archs[0].resolution) for arch in archs] if self.one_resolution else archs


@dataclass(frozen=True)
class Sandwich:
    """The largest, `n_random` uniformly drawn and the smallest architecture, each at its own resolution.

    The sandwich rule (Yu & Huang 2019; BigNAS, Yu et al. 2020). The largest comes first, so that it can teach the rest.
    """

    n_random: int = 2
    largest_first = True

    def __post_init__(self) -> None:
        if self.n_random < 0:
            raise ValueError(f"a sandwich cannot have {self.n_random} random sub-networks; the least is 0")

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        between = space.sample(self.n_random, np.random.default_rng((seed, step)))
        return [space.largest, *between, space.smallest]
