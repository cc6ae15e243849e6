"""Quantities: what sub-networks are searched, limited and shown by. One table; everything else follows from it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from experiments.budgets import (
    format_bytes,
    format_count,
    format_joules,
    format_seconds,
    parse_bytes,
    parse_count,
    parse_joules,
    parse_seconds,
)
from search.front import Axis
from supernet.plugins import nearest
from supernet.space import Genes

__all__ = [
    "KINDS", "Kind", "Limit", "Quantity", "kinds_with", "latency", "limit", "quality", "quantity",
]  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of quantity: what it is counted in, how people write and read it, and where it comes from."""

    name: str
    words: str  # for people
    unit: str
    maximize: bool
    parse: Callable[[str], float]
    format: Callable[[float], str]
    source: Literal["score", "session", "counted"]  # scored on examples, measured on a device, or computed from genes
    extra: str = ""  # of a measurement, where it is neither the latency nor counted
    learned: Literal["value", "relative"] | None = None  # what a predictor's errors count in; None: none is needed
    count: Callable[[Any, Genes], Any] | None = None  # from the supernet and genes (n_archs, n_genes), if it is counted
    superlative: str = "smallest"  # what the best one is called
    quantile: float | None = None  # of the measured calls, for what is said of the slow ones
    of_median: bool = False  # what is told is the median call as a share of that quantile

    @property
    def of_device(self) -> bool:
        """Whether it differs from device to device for certain, so that a device must be named."""
        return self.name == "latency" or self.quantile is not None

    @property
    def is_time(self) -> bool:
        """Whether it is how long a call takes."""
        return self.name == "latency" or (self.quantile is not None and not self.of_median)

    def exactly(self, value: float) -> str:
        """For people who look at one network: with one digit more where that means something."""
        return f"{value:.2%}" if self.format is _format_share else self.format(value)


def _parse_share(text: str) -> float:
    """A share, as a percentage or a number up to 1."""
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a share; write a percentage, such as 92.5%, or a number up to 1")
    return value


def _format_share(value: float) -> str:
    return f"{value:.1%}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("accuracy", "accuracy", "", True, _parse_share, _format_share, "score", learned="value",
             superlative="most accurate"),
        Kind("latency", "latency", "s", False, parse_seconds, format_seconds, "session", learned="relative",
             superlative="fastest"),
        *(
            Kind(f"latency.p{percent}", f"latency, {percent} % of the calls", "s", False, parse_seconds,
                 format_seconds, "session", learned="relative", superlative="fastest", quantile=percent / 100)
            for percent in (90, 95, 99)
        ),
        Kind("stability", "stability, the median call by the one that 95 % are faster than", "", True, _parse_share,
             _format_share, "session", learned="value", superlative="steadiest", quantile=0.95, of_median=True),
        Kind("macs", "MACs", "", False, parse_count, format_count, "counted",
             count=lambda supernet, genes: supernet.macs(genes), superlative="lightest"),
        Kind("parameters", "parameters", "", False, parse_count, format_count, "counted",
             count=lambda supernet, genes: supernet.n_parameters(genes)),
        Kind("size", "file size", "B", False, parse_bytes, format_bytes, "session", "file_bytes", "relative"),
        Kind("memory", "peak memory", "B", False, parse_bytes, format_bytes, "session", "peak_memory_bytes",
             "relative"),
        Kind("energy", "energy of one call", "J", False, parse_joules, format_joules, "session", "energy_joules",
             "relative", superlative="most economical"),
    )
}  # fmt: skip
"""By name. A new kind is one entry: search, constraints, query, comparison and report follow."""


def kinds_with(metric: Mapping[str, Any] | None) -> dict[str, Kind]:
    """The kinds for a task of one's own, whose metric takes the place of accuracy; `KINDS` for None.

    Args:
        metric: its "name", its "unit" and whether "larger_is_better", as recipes, ``front.json`` and others say it.
    """
    if metric is None:
        return KINDS
    name, unit = metric["name"], metric["unit"]
    words = name.replace("_", " ")

    def parse(text: str) -> float:
        try:
            value = float(text.strip().removesuffix(unit))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not a value of {name}; write a number{f' in {unit}' if unit else ''}")
        return value

    def written(value: float) -> str:
        return f"{value:.4g} {unit}".rstrip()

    own = Kind(
        name, words, unit, metric["larger_is_better"], parse, written, "score", learned="value", superlative="best"
    )
    return {name: own, **{kind.name: kind for kind in KINDS.values() if kind.source != "score"}}


@dataclass(frozen=True)
class Quantity:
    """A kind of quantity, on a device where that matters: ``latency@phone``, ``macs``, ``accuracy@int8-board``."""

    kind: Kind
    device: str | None = None

    @property
    def name(self) -> str:
        return self.kind.name if self.device is None else f"{self.kind.name}@{self.device}"

    @property
    def axis(self) -> Axis:
        """For fronts."""
        return Axis(self.name, self.kind.unit, self.kind.maximize)

    def format(self, value: float) -> str:
        """For people, with its unit."""
        return self.kind.format(value)

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Limit:
    """What a quantity may not exceed, or fall short of."""

    quantity: Quantity
    value: float
    upper: bool

    def holds(self, value: float) -> bool:
        """Whether a value keeps to it."""
        return value <= self.value if self.upper else value >= self.value

    def __str__(self) -> str:
        return f"{self.quantity} {'<=' if self.upper else '>='} {self.quantity.format(self.value)}"


def quality(kinds: Mapping[str, Kind], device: str | None = None) -> Quantity:
    """What networks are good at: accuracy or a metric of one's own; or that of the file which a device runs."""
    return Quantity(next(kind for kind in kinds.values() if kind.source == "score"), device)


def latency(device: str) -> Quantity:
    """Latency on a device."""
    return Quantity(KINDS["latency"], device)


def quantity(text: str, devices: Sequence[str] | Mapping[str, object], kinds: Mapping[str, Kind] = KINDS) -> Quantity:
    """The quantity that a person has written: ``"latency@phone"``.

    Args:
        devices: names that there are. Where there is only one, it need not be written.
        kinds: those that there are; of a run, ``recipe.kinds``.

    Raises:
        ValueError: no such quantity or device; the message names the nearest.
    """
    name, at, device = text.strip().partition("@")
    kind = kinds.get(name)
    if kind is None:
        raise ValueError(f"{text!r} is no quantity{nearest(name, kinds)}")
    known = list(devices)
    if not at:
        if kind.of_device and len(known) != 1:
            raise ValueError(f"{name} of which device? Write {' or '.join(f'{name}@{one}' for one in known)}")
        return Quantity(kind, known[0] if kind.source == "session" and len(known) == 1 else None)
    if kind.source == "counted":
        raise ValueError(f"{name} is the same on every device; write {name!r}, not {text!r}")
    if device not in known:
        there = [f"{name}@{one}" for one in known]
        raise ValueError(f"{text!r}: there is no device {device!r}{nearest(f'{name}@{device}', there)}")
    return Quantity(kind, device)


def limit(text: str, devices: Sequence[str] | Mapping[str, object], kinds: Mapping[str, Kind] = KINDS) -> Limit:
    """The limit that a person has written: ``"latency@phone <= 12ms"``, ``"accuracy >= 90%"``.

    Raises:
        ValueError: no limit, no such quantity, or a value that cannot be read.
    """
    match = re.fullmatch(r"\s*([^<>=\s]+)\s*(<=|>=|≤|≥|<|>)\s*(\S.*?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no limit; write such as 'latency@phone <= 12ms' or 'size <= 5MB'")
    found = quantity(match[1], devices, kinds)
    return Limit(found, float(found.kind.parse(match[3])), match[2] in ("<=", "≤", "<"))
