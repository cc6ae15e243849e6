"""Architectures as values: what a sub-network is made of, without any weights."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

__all__ = ["Architecture", "Block", "Number", "Settings"]

Number = int | float


class Settings(Mapping[str, Number]):
    """Named numbers that cannot change, compared by value: ``Settings(stem_width=24)``.

    A setting is read as an item or as an attribute. Names are kept in alphabetical order and whole numbers as integers,
    so settings that are equal, whoever wrote them, are also written alike and have the same hash.

    Raises:
        TypeError: a value is not a number.
        ValueError: it is not finite.
    """

    __slots__ = ("_hash", "_items")
    _items: dict[str, Number]

    def __init__(self, **settings: Number) -> None:
        self._items = {name: _number(name, settings[name]) for name in sorted(settings)}
        self._hash = hash(tuple(self._items.items()))

    def __getitem__(self, name: str) -> Number:
        return self._items[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copy and pickle look for special names before the slots are filled
            raise AttributeError(name)
        try:
            return self._items[name]
        except KeyError:
            raise AttributeError(f"no setting {name!r}; there are {', '.join(self._items) or 'none'}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Settings) and self._items == other._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make_settings, (type(self), dict(self._items))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in self._items.items())})"


class Block(Settings):
    """The settings of one block that exists, for example ``Block(kernel=5, expand=4)``."""

    __slots__ = ()


def _number(name: str, value: Number) -> Number:
    if type(value) is int:  # the usual case, a hundred thousand times a second
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"setting {name} = {value!r} is not a number")
    if not math.isfinite(value):
        raise ValueError(f"setting {name} = {value!r} is not finite")
    return int(value) if value == int(value) else float(value)


def _make_settings(kind: type[Settings], items: dict[str, Number]) -> Settings:
    return kind(**items)


_NO_SETTINGS = Settings()


@dataclass(frozen=True)
class Architecture:
    """One sub-network: an input resolution in pixels and, per stage, the settings of the blocks that exist.

    Depth is the number of blocks and is never stored; a block that is absent has no settings, so two architectures
    are equal exactly if they compute the same thing. ``settings`` holds what belongs to the whole network, such as the
    width of a stem.
    """

    resolution: int
    stages: tuple[tuple[Block, ...], ...]
    settings: Settings = _NO_SETTINGS

    def __post_init__(self) -> None:
        if type(self.resolution) is not int:
            object.__setattr__(self, "resolution", _number("resolution", self.resolution))

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks per stage."""
        return tuple(len(stage) for stage in self.stages)

    @cached_property
    def id(self) -> str:
        """A short hash of the value, the same on every machine: ten hexadecimal digits."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        data: dict[str, Any] = {
            "resolution": self.resolution,
            "stages": [[dict(block) for block in stage] for stage in self.stages],
        }
        if self.settings:
            data["settings"] = dict(self.settings)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: something is missing or is not of the form that `to_dict` writes.
        """
        try:
            stages: Sequence[Sequence[Mapping[str, Number]]] = data["stages"]
            return cls(
                resolution=int(data["resolution"]),
                stages=tuple(tuple(Block(**block) for block in stage) for stage in stages),
                settings=Settings(**data.get("settings", {})),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"not an architecture: {str(data)[:80]!r} ({error})") from error

    def __str__(self) -> str:
        """One line for people: ``r224 [e4k3 e6k5] [e3k7 e3k3]``."""
        stages = (
            " ".join("".join(f"{name[0]}{value:g}" for name, value in block.items()) for block in stage)
            for stage in self.stages
        )
        settings = "".join(f" {name}={value:g}" for name, value in self.settings.items())
        return f"r{self.resolution} " + " ".join(f"[{stage}]" for stage in stages) + settings
