"""Genes and stages: what can be chosen, and where in a network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Number

__all__ = ["Choices", "Condition", "Gene", "Genes", "Stage", "check_ascending", "listing"]

Genes = NDArray[np.int64]
Choices = tuple[Number, ...]
Condition = tuple[str, Choices]
"""Another setting of the same block, and its values with which a setting exists."""


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
    below the chosen depth. `shared` choices are made once and hold for every block of the stage. A setting that is in
    `when` exists only where another one of its block, which comes before it, exists and has one of some values: what a
    block does not have, its architecture does not mention.
    """

    depths: tuple[int, ...]
    blocks: tuple[Mapping[str, Choices], ...]
    shared: Mapping[str, Choices] = field(default_factory=dict)
    when: Mapping[str, Condition] = field(default_factory=dict)

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
        for name, (other, values) in self.when.items():
            for block in (block for block in self.blocks if name in block):
                if other not in list(block)[: list(block).index(name)] or not set(values) & set(block[other]):
                    raise ValueError(
                        f"{name} exists when {other} is {listing(values)}, which no setting before it can be"
                    )

    def exists(self, name: str, values: Mapping[str, Number]) -> bool:
        """Whether a block has a setting, given the values of those before it that it has."""
        condition = self.when.get(name)
        return condition is None or values.get(condition[0]) in condition[1]

    def narrowed(self, keep: Callable[[str, Choices], Choices]) -> Stage:
        """The stage with what `keep` leaves of every choice, given its name: the depths, then `shared`, then blocks."""

        def keep_all(settings: Mapping[str, Choices]) -> dict[str, Choices]:
            return {name: keep(name, choices) for name, choices in settings.items()}

        depths, shared = tuple(int(depth) for depth in keep("depth", self.depths)), keep_all(self.shared)
        blocks = [keep_all(block) for block in self.blocks][: max(depths)]
        for name, (other, values) in self.when.items():
            for block in blocks:  # what can exist no more
                if name in block and not set(values) & set(block.get(other, ())):
                    del block[name]
        there = {name for block in blocks for name in block}
        left = {one: {v for block in blocks for v in block.get(one, ())} for one, _ in self.when.values()}
        when = {
            name: (other, tuple(value for value in values if value in left[other]))
            for name, (other, values) in self.when.items()
            if name in there
        }
        return Stage(depths, tuple(blocks), shared, when)

    @property
    def size(self) -> int:
        """Number of distinct settings of the stage, an exact integer."""
        return sum(self.sizes_per_depth)

    @property
    def sizes_per_depth(self) -> list[int]:
        """The same for each depth alone."""
        shared = math.prod(len(choices) for choices in self.shared.values())
        per_block = [
            math.prod(self.ways(block, name) for name in block if name not in self.when) for block in self.blocks
        ]
        # Without any block there is nothing the shared choices could tell apart.
        return [(shared if depth else 1) * math.prod(per_block[:depth]) for depth in self.depths]

    def ways(self, block: Mapping[str, Choices], name: str) -> int:
        """How many settings of a block there are of a choice and those that depend on it."""
        return sum(self.ways_of_choices(block, name))

    def ways_of_choices(self, block: Mapping[str, Choices], name: str) -> list[int]:
        """The same for each of its values alone."""
        depending = [(other, self.when[other][1]) for other in block if self.when.get(other, ("",))[0] == name]
        return [
            math.prod(self.ways(block, other) for other, values in depending if value in values)
            for value in block[name]
        ]


def check_ascending(name: str, choices: Sequence[Number]) -> None:
    """Raises ValueError where choices are missing, repeat, or do not ascend."""
    if not choices or list(choices) != sorted(set(choices)):
        raise ValueError(f"choices of {name} must ascend and not repeat; got {listing(choices) or 'none'}")


def listing(choices: Sequence[Number]) -> str:
    """Choices for people, the middle left out where there are many."""
    if len(choices) > 8:
        return f"{choices[0]:g}, {choices[1]:g}, ..., {choices[-1]:g}"
    return ", ".join(f"{choice:g}" for choice in choices)
