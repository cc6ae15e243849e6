"""What a program is made of: layers whose arguments may be chosen, and parts that hold other parts.

The builders are those of languages for search spaces (PyGlove, Peng et al. 2020; DeepArchitect, Negrinho et al. 2019):
a program says once what the network computes and what is open in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from supernet.architecture import Number
from supernet.space.stage import Choices, check_ascending

__all__ = [
    "Choice", "Layer", "OneOf", "OptionalPart", "Part", "Repeat", "Residual", "Sequential",
    "choice", "layer", "one_of", "optional", "repeat", "residual", "sequential",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class OneOf:
    """A number that is chosen. The same object in several places is one choice for all of them."""

    choices: Choices
    name: str | None


class Part:
    """Of a program."""

    def parts(self) -> Iterator[Part]:
        """Those directly inside."""
        yield from ()


@dataclass(frozen=True, eq=False)
class Layer(Part):
    """A module that torch or its author wrote, made from arguments."""

    make: Callable[..., nn.Module]
    arguments: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Sequential(Part):
    """One after the other."""

    inner: tuple[Part, ...]

    def parts(self) -> Iterator[Part]:
        yield from self.inner


@dataclass(frozen=True, eq=False)
class Repeat(Part):
    """As many blocks as are chosen, the first ones of all."""

    blocks: tuple[Part, ...]
    times: tuple[int, ...]

    def parts(self) -> Iterator[Part]:
        yield from self.blocks


@dataclass(frozen=True, eq=False)
class OptionalPart(Part):
    """There or not."""

    inner: Part
    name: str

    def parts(self) -> Iterator[Part]:
        yield self.inner


@dataclass(frozen=True, eq=False)
class Residual(Part):
    """Its input and what it makes of it, added."""

    inner: Part

    def parts(self) -> Iterator[Part]:
        yield self.inner


@dataclass(frozen=True, eq=False)
class Choice(Part):
    """One of several."""

    name: str
    options: Mapping[str, Part]

    def parts(self) -> Iterator[Part]:
        yield from self.options.values()


def one_of(*choices: Number, name: str | None = None) -> OneOf:
    """A number to be chosen, as an argument of a `layer`.

    The setting is called as the argument is, or `name`. Given to several layers it is one choice for all of them: of a
    block, of a stage or of the whole network, wherever they are.

    Raises:
        ValueError: none, or one twice.
    """
    ordered = tuple(sorted(choices))
    check_ascending(name or "one_of", ordered)
    return OneOf(ordered, name)


def layer(make: Callable[..., nn.Module], **arguments: Any) -> Layer:
    """A layer: ``make(**arguments)`` is an `nn.Module`, and any argument may be `one_of` several numbers.

    Weights are shared: the layer is made once, with the largest of every choice, and a smaller one has the first values
    of every tensor; of the kernel of a convolution those in the middle.
    """
    return Layer(make, arguments)


def sequential(*parts: Part) -> Sequential:
    """Parts, one after the other."""
    return Sequential(parts)


def repeat(make: Callable[[int], Part], times: tuple[int, ...]) -> Repeat:
    """A stage: between ``min(times)`` and ``max(times)`` blocks, ``make(position)`` for each, counted from 0.

    What `one_of` is made inside `make` is chosen for every block, what was made outside once for all.

    Raises:
        ValueError: no number of times, or one that is not positive.
    """
    if not times or min(times) < 0 or max(times) < 1:
        raise ValueError(f"times {times} must be numbers of blocks from 0, the largest at least 1, such as (1, 2, 3)")
    return Repeat(tuple(make(position) for position in range(max(times))), tuple(sorted(set(times))))


def optional(part: Part, name: str = "present") -> OptionalPart:
    """A part that may be left out: then its input goes on as it is. What is chosen inside exists only where it is."""
    return OptionalPart(part, name)


def residual(part: Part) -> Residual:
    """A part whose input is added to its output, which has the same shape.

    Raises:
        ValueError: around an optional part, which would add its input to itself.
    """
    if isinstance(part, OptionalPart):
        raise ValueError("residual(optional(part)) would double its input; write optional(residual(part))")
    return Residual(part)


def choice(name: str = "operator", **options: Part) -> Choice:
    """One of several parts, each with weights and choices of its own, which exist only where it is taken.

    The value of the setting is the place among the options, from 0: give them from the cheapest to the dearest, since
    the largest architecture of the space, which teaches the others, has the last of all.

    Raises:
        ValueError: fewer than two options.
    """
    if len(options) < 2:
        raise ValueError(f"a choice of {len(options)} options is none; give at least 2")
    return Choice(name, options)
