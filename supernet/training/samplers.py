"""Samplers: which architectures one training step runs, from the seed and the number of the step.

Every process of a distributed run therefore has the same architectures without talking, and a resumed run goes on with
the ones that an undisturbed run would have had. A sampler says which places a step has; what is put into the random
ones is drawn by a `Draw`, or chosen by an adaptive sampler around it (`supernet.training.adaptive`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.training.draws import Draw, Evenly

__all__ = ["AdaptiveSampler", "Largest", "Probe", "Sampler", "Sandwich", "State", "Uniform"]

State = Mapping[str, Any]
"""What an adaptive sampler has learned: plain numbers and lists, which go into checkpoints."""

Probe = Callable[[Sequence[Architecture]], NDArray[np.float64]]
"""Mean training losses (n_archs,) on the images of the step, without gradient, the same on every process."""


class Sampler(Protocol):
    """Chooses the architectures of a step; it has no state."""

    @property
    def largest_first(self) -> bool:
        """Whether the first architecture of every step is the largest of the space, as an in-place teacher must be."""
        ...

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        """The architectures of step `step` (counted over the whole run), in the order in which they run."""
        ...


@runtime_checkable
class AdaptiveSampler(Protocol):
    """Chooses the architectures of a step by what the losses say; its state is an argument, and starts with a phase."""

    @property
    def largest_first(self) -> bool:
        """See `Sampler`."""
        ...

    def start(self, space: SearchSpace) -> State:
        """The state before the first step of a phase."""
        ...

    def choose(self, space: SearchSpace, seed: int, step: int, state: State, probe: Probe) -> list[Architecture]:
        """The architectures of step `step`, in the order in which they run."""
        ...

    def learn(
        self, space: SearchSpace, state: State, archs: Sequence[Architecture], losses: NDArray[np.float64]
    ) -> State:
        """The state after a step whose `archs` had `losses` (n_archs,), means over all processes."""
        ...


@dataclass(frozen=True)
class Largest:
    """The largest architecture of the space alone: ordinary training, or the warm-up of a supernet."""

    largest_first = True

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        return [space.largest]


@dataclass(frozen=True)
class Uniform:
    """`n` drawn architectures and no others; by default all at one resolution, as in once-for-all training."""

    n: int = 1
    draw: Draw = field(default_factory=lambda: Evenly(one_resolution=True))
    largest_first = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"a step cannot train {self.n} sub-networks; the least is 1")

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        return self.around(space, self.draw(space, self.n, seed, step))

    @property
    def n_random(self) -> int:
        """How many of a step are drawn."""
        return self.n

    def around(self, space: SearchSpace, drawn: Sequence[Architecture]) -> list[Architecture]:
        """A step with these in the random places."""
        return list(drawn)


@dataclass(frozen=True)
class Sandwich:
    """The largest, `n_random` drawn ones and the smallest architecture, each at its own resolution.

    The sandwich rule (Yu & Huang 2019; BigNAS, Yu et al. 2020). The largest comes first, so that it can teach the rest.
    Without the smallest this is the step of supernet fine-tuning (InstaTune, Sarah et al. 2023). Of a space of a single
    architecture that one alone is trained, and once.

    Attributes:
        n_random: drawn ones.
        draw: how they are drawn.
        smallest: whether the smallest is trained.
        descending: drawn ones come from large to small, by how large their choices are on average, so that each can
            be taught by the one before it.
    """

    n_random: int = 2
    draw: Draw = field(default_factory=Evenly)
    smallest: bool = True
    descending: bool = False
    largest_first = True

    def __post_init__(self) -> None:
        if self.n_random < 0:
            raise ValueError(f"a sandwich cannot have {self.n_random} random sub-networks; the least is 0")

    def __call__(self, space: SearchSpace, seed: int, step: int) -> list[Architecture]:
        return self.around(space, self.draw(space, self.n_random, seed, step))

    def around(self, space: SearchSpace, drawn: Sequence[Architecture]) -> list[Architecture]:
        """A step with these in the random places."""
        if space.size == 1:
            return [space.largest]
        if self.descending:
            sizes = (space.encode(drawn) / np.maximum(space.n_choices - 1, 1)).sum(1)
            drawn = [drawn[i] for i in np.argsort(-sizes, kind="stable")]
        return [space.largest, *drawn, *([space.smallest] if self.smallest else [])]
