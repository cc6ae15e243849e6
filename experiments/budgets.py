"""Budgets as people write them, such as 1.5ms and 300M, read into seconds and counts, and written back."""

from __future__ import annotations

import math
import re

__all__ = ["format_count", "format_seconds", "parse_count", "parse_seconds"]

_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?\s*"
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_COUNTS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12}


def parse_seconds(text: str) -> float:
    """Seconds of a time with its unit (s, ms, us or µs): ``parse_seconds("1.5ms") == 0.0015``.

    Raises:
        ValueError: no number, no known unit, or nothing above 0.
    """
    return _parse(text, _SECONDS, "a time", "a number above 0 and s, ms or us, such as 1.5ms")


def parse_count(text: str) -> int:
    """A count with k, M, G or T, or without: ``parse_count("300M") == 300_000_000``.

    Raises:
        ValueError: no number, another letter, or less than 1.
    """
    accepted = "a number from 1 on, with k, M, G or T if you like, such as 300M"
    count = round(_parse(text, _COUNTS, "a count", accepted))
    if count < 1:
        raise ValueError(f"{text!r} is not a count; write {accepted}")
    return count


def format_seconds(seconds: float) -> str:
    """Three digits and the unit that suits: ``1.50 ms``, ``230 µs``, ``12.0 s``."""
    scale, unit = next(((s, u) for s, u in ((1.0, "s"), (1e-3, "ms")) if abs(seconds) >= 0.9995 * s), (1e-6, "µs"))
    return f"{_three_digits(seconds / scale)} {unit}"


def format_count(count: float) -> str:
    """Three digits and k, M, G or T: ``300M``, ``7.66M``, ``980``."""
    for scale, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(count) >= 0.9995 * scale:
            return f"{_three_digits(count / scale)}{unit}"
    return f"{count:.0f}"


def _parse(text: str, units: dict[str, float], kind: str, accepted: str) -> float:
    match = re.fullmatch(_NUMBER + r"(\D*?)\s*", text, flags=re.IGNORECASE)
    if match is not None and match[3].lower() in units:
        value = float(match[1] + (match[2] or "")) * units[match[3].lower()]
        if value > 0 and math.isfinite(value):
            return value
    raise ValueError(f"{text!r} is not {kind}; write {accepted}")


def _three_digits(value: float) -> str:
    whole = len(f"{abs(value):.0f}") if abs(value) >= 1 else 1
    return f"{value:.{max(0, 3 - whole)}f}"
