"""Budgets as people write them, such as 1.5ms, 300M and 5MB, read into seconds, counts and bytes, and written back."""

from __future__ import annotations

import math
import re

__all__ = [
    "format_bytes", "format_count", "format_joules", "format_seconds",
    "parse_bytes", "parse_count", "parse_joules", "parse_seconds", "read_share", "signed_share",
]  # fmt: skip

_NUMBER = r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?\s*"
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_BYTES = {"b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9}
_JOULES = {"j": 1.0, "mj": 1e-3, "uj": 1e-6, "µj": 1e-6, "μj": 1e-6}
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


def parse_bytes(text: str) -> float:
    """Bytes of a size with its unit (B, kB, MB or GB): ``parse_bytes("5MB") == 5e6``.

    Raises:
        ValueError: no number, no known unit, or nothing above 0.
    """
    return _parse(text, _BYTES, "a size", "a number above 0 and B, kB, MB or GB, such as 5MB")


def parse_joules(text: str) -> float:
    """Joules of an energy with its unit (J, mJ or uJ): ``parse_joules("3mJ") == 0.003``.

    Raises:
        ValueError: no number, no known unit, or nothing above 0.
    """
    return _parse(text, _JOULES, "an energy", "a number above 0 and J, mJ or uJ, such as 3mJ")


def format_bytes(count: float) -> str:
    """Three digits and the unit that suits: ``13.6 MB``, ``980 B``."""
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= 0.9995 * s), (1.0, "B"))
    return f"{_three_digits(count / scale)} {unit}"


def format_joules(joules: float) -> str:
    """Three digits and the unit that suits: ``3.20 mJ``, ``410 µJ``."""
    scale, unit = next(((s, u) for s, u in ((1.0, "J"), (1e-3, "mJ")) if joules >= 0.9995 * s), (1e-6, "µJ"))
    return f"{_three_digits(joules / scale)} {unit}"


def read_share(text: str) -> float:
    """A share that a person has written: ``95%`` or ``0.95``.

    Raises:
        ValueError: it is none.
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"{text!r} is not a share; write 95% or 0.95")
    return share


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


def signed_share(share: float) -> str:
    """As a percentage with its sign, such as ``+3%``; nothing at all is ``+0%`` from either side."""
    return f"{round(share, 2) + 0.0:+.0%}"


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
