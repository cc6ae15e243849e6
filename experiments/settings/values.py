"""What the sections of a recipe are made of: kinds of values that refuse what cannot be, each in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from inspect import signature
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

__all__ = [
    "Address",
    "Below1",
    "Count",
    "Depths",
    "Expands",
    "Kernels",
    "NotNegative",
    "Part",
    "Portion",
    "Rate",
    "Resolutions",
    "Section",
    "Share",
    "default",
    "is_address",
]


def is_address(text: str) -> bool:
    """Whether it has the form ``package.module:function``."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", text) is not None


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError(f"{text!r} is not of the form 'package.module:function'")
    return text


def _odd(value: int) -> int:
    if value < 3 or value % 2 == 0:
        raise ValueError(f"{value} is not an odd number from 3 on; take 3, 5 or 7")
    return value


def _multiple_of_four(value: int) -> int:
    if value < 8 or value % 4:
        raise ValueError(f"{value} is not a multiple of 4 from 8 on; the nearest is {max(8, 4 * round(value / 4))}")
    return value


def _above_zero(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"{value!r} is not a number above 0, such as 3 or 4.5")
    return value


def _ascending(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"{list(values)} must ascend and not repeat; write {sorted(set(values))}")
    return values


Address = Annotated[str, AfterValidator(_address)]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Part = Annotated[float, Field(gt=0, lt=1)]
Portion = Annotated[float, Field(gt=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
Kernels = Annotated[tuple[Annotated[int, AfterValidator(_odd)], ...], Field(min_length=1), AfterValidator(_ascending)]
Expand = Annotated[int | float, BeforeValidator(_above_zero)]  # an integer stays one: identifiers depend on it
Expands = Annotated[tuple[Expand, ...], Field(min_length=1), AfterValidator(_ascending)]
Depths = Annotated[tuple[Count, ...], Field(min_length=1), AfterValidator(_ascending)]
Resolutions = Annotated[
    tuple[Annotated[int, AfterValidator(_multiple_of_four)], ...], Field(min_length=1), AfterValidator(_ascending)
]


class Section(BaseModel):
    """Unchangeable, and without keys or kinds of value that were not asked for."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def default(part: Callable[..., Any], name: str) -> Any:
    """The default that a part of ours has for a parameter: it is written there and nowhere else."""
    return signature(part).parameters[name].default
