"""Genes and stages: what can be chosen, and where in a network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Number

__all__ = ["Choices", "Gene", "Genes", "Stage", "check_ascending", "listing"]

Genes = NDArray[np.int64]
Choices = tuple[Number, ...]


@dataclass(frozen=True)
class Gene:
    """One decision: an index into `choices`. `stage` and `block` say where it belongs (None: to the whole network)."""

    name: str
    choices: Choices
    stage: int | None = None
    block: int | None = None

    @property
    def label(self) -> str:
        """A unique readable name, such as ``stage2.block1.kernel`` (positions count from 1)."""
        place = "" if self.stage is None else f"stage{self.stage + 1}."
        return place + ("" if self.block is None else f"block{self.block + 1}.") + self.name


@dataclass(frozen=True)
class Stage:
    """A run of blocks: how many of them exist, and what can be chosen for each.

    `blocks` has one mapping (setting name to choices) for every block position; a block exists while its position is
    below the chosen depth. `shared` choices are made once and hold for every block of the stage.
    """

    depths: tuple[int, ...]
    blocks: tuple[Mapping[str, Choices], ...]
    shared: Mapping[str, Choices] = field(default_factory=dict)

    @classmethod
    def uniform(cls, depths: Sequence[int], **choices: Sequence[Number]) -> Self:
        """A stage whose block positions all have the same choices."""
        ordered = {name: tuple(sorted(values)) for name, values in choices.items()}
        return cls(tuple(sorted(depths)), (ordered,) * max(depths, default=0))

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 0 or max(self.depths) != len(self.blocks):
            raise ValueError(
                f"depths {self.depths} do not fit {len(self.blocks)} blocks: the largest depth must be "
                "the number of block positions and none may be negative"
            )
        if sum(self.depths) == 0:
            raise ValueError("a stage needs at least one depth above 0")
        for name, choices in (
            ("depth", self.depths),
            *self.shared.items(),
            *(item for block in self.blocks for item in block.items()),
        ):
            check_ascending(name, choices)

    @property
    def size(self) -> int:
        """Number of distinct settings of the stage, an exact integer."""
        return sum(self.sizes_per_depth)

    @property
    def sizes_per_depth(self) -> list[int]:
        """The same for each depth alone."""
        shared = math.prod(len(choices) for choices in self.shared.values())
        per_block = [math.prod(len(choices) for choices in block.values()) for block in self.blocks]
        # Without any block there is nothing the shared choices could tell apart.
        return [(shared if depth else 1) * math.prod(per_block[:depth]) for depth in self.depths]


def check_ascending(name: str, choices: Sequence[Number]) -> None:
    """Raises ValueError where choices are missing, repeat, or do not ascend."""
    if not choices or list(choices) != sorted(set(choices)):
        raise ValueError(f"choices of {name} must ascend and not repeat; got {listing(choices) or 'none'}")


def listing(choices: Sequence[Number]) -> str:
    """Choices for people, the middle left out where there are many."""
    if len(choices) > 8:
        return f"{choices[0]:g}, {choices[1]:g}, ..., {choices[-1]:g}"
    return ", ".join(f"{choice:g}" for choice in choices)
