"""What the families share about choices: the defaults, and refusing what cannot be built."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

from timm.data.config import resolve_model_data_config
from torch import nn

from supernet.architecture import Number

__all__ = ["check_choices", "default_resolutions", "depth_choices", "own_and_below"]

_N = TypeVar("_N", int, float)


def check_choices(name: str, values: Iterable[Number], allowed: Callable[[Any], bool], possible: str) -> None:
    """Refuse the first of `values` that is not allowed.

    Raises:
        ValueError: names the value and what is possible.
    """
    for value in values:
        if not allowed(value):
            raise ValueError(f"{name} {value:g}: possible are {possible}")


def own_and_below(own: _N, given: Iterable[_N]) -> tuple[_N, ...]:
    """What is given below the model's own value, and that value: the largest network is always the model."""
    return (*sorted({value for value in given if value < own}), own)


def depth_choices(
    given: Sequence[int] | Sequence[Sequence[int]] | None,
    lowest: Sequence[int],
    own: Sequence[int],
    default: Sequence[int],
) -> list[tuple[int, ...]]:
    """Choices of depth per stage.

    Args:
        given: choices for every stage, or one sequence of choices per stage; None for the default. Choices for every
            stage are kept where a stage can have them.
        lowest: fewest blocks a stage can have; own: blocks of the model; default: fewest blocks by default.

    Raises:
        ValueError: a depth that is impossible, or sequences for another number of stages.
    """
    if given is None:
        return [tuple(range(low, n + 1)) for low, n in zip(default, own, strict=True)]
    if all(isinstance(depth, int) for depth in given):
        everywhere = cast(Sequence[int], given)
        low, high = min(lowest), max(own)
        check_choices("depths", everywhere, lambda d: low <= d <= high, f"{low} to {high}")
        return [own_and_below(n, (d for d in everywhere if d >= low)) for low, n in zip(lowest, own, strict=True)]
    per_stage = cast(Sequence[Sequence[int]], given)
    if len(per_stage) != len(own):
        raise ValueError(f"depths for {len(per_stage)} stages; the model has {len(own)} elastic stages")
    for i, (values, low, n) in enumerate(zip(per_stage, lowest, own, strict=True)):
        check_choices(f"depths of stage {i + 1}", values, lambda d, low=low, n=n: low <= d <= n, f"{low} to {n}")
    return [own_and_below(n, values) for values, n in zip(per_stage, own, strict=True)]


def default_resolutions(model: nn.Module) -> tuple[int, ...]:
    """Edge lengths in pixels: four from 4/7 of what the model was made for to that, as published for 128 to 224."""
    size = int(resolve_model_data_config(model)["input_size"][-1])
    return tuple(sorted({max(32, round(size * k / 7 / 32) * 32) for k in (4, 5, 6)} | {size}))
