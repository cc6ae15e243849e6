"""What a pruning is to leave, as people write it: "macs <= 60%", "latency@cpu-b1 <= 0.05ms"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast, get_args

from experiments.budgets import format_count, format_seconds, parse_count, parse_seconds, read_share
from supernet.pruning.spec import Measure

__all__ = ["Target", "read_target"]


@dataclass(frozen=True)
class Target:
    """A limit of what is left: a share of the whole network's, or with `absolute` a value of its own."""

    of: Measure
    value: float
    absolute: bool = False
    device: str | None = None

    def __str__(self) -> str:
        name = self.of if self.device is None else f"{self.of}@{self.device}"
        if not self.absolute:
            return f"{name} <= {self.value:.0%}"
        return f"{name} <= {(format_seconds if self.of == 'latency' else format_count)(self.value)}"


def read_target(text: str) -> Target:
    """A limit that a person has written: of macs, parameters, units or the latency of a device of the recipe.

    Raises:
        ValueError: it is none.
    """
    match = re.fullmatch(r"\s*([a-z]+)(?:@([^\s<=≤]+))?\s*(?:<=|≤|<)\s*(\S.*?)\s*", text)
    if match is None or match[1] not in get_args(Measure) or (match[1] == "latency") != (match[2] is not None):
        raise ValueError(
            f"{text!r} is no target; write such as 'macs <= 60%', 'parameters <= 300k', 'units <= 50%', "
            "'latency@cpu-b1 <= 0.05ms' or 'latency@cpu-b1 <= 60%'"
        )
    of, device, value = cast(Measure, match[1]), match[2], match[3]
    if value.endswith("%"):
        return Target(of, read_share(value.removesuffix("%").strip() + "%"), device=device)
    if of == "units":
        raise ValueError(f"{text!r}: units are counted as a share; write such as 'units <= 50%'")
    return Target(of, parse_seconds(value) if of == "latency" else float(parse_count(value)), True, device)
