"""Dropout before the classifier and stochastic depth, for timm models that have been built without."""

from __future__ import annotations

from typing import Any

from timm.layers.drop import DropPath
from torch import nn

__all__ = ["set_dropout"]

_PATHS = ("drop_path", "drop_path1", "drop_path2")


def set_dropout(model: nn.Module, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> None:
    """Set both rates of a timm model, in place; they are in force in train mode alone, and have no weights.

    Args:
        model: one of timm's, as `elastic` takes it.
        drop_rate: of the features before the classifier.
        drop_path_rate: probability that an image skips the last block, by its shortcut; it grows linearly from 0 at the
            first block (stochastic depth, Huang et al. 2016).

    Raises:
        ValueError: a rate outside [0, 1), or a model that has no place for it.
    """
    for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
        if not 0 <= rate < 1:
            raise ValueError(f"{name} {rate} is not in [0, 1)")
    head: Any = getattr(model, "head_drop", None)
    if isinstance(head, nn.Dropout):
        head.p = drop_rate
    elif hasattr(model, "drop_rate"):
        model.__dict__["drop_rate"] = drop_rate
    elif drop_rate:
        raise ValueError(f"a {type(model).__name__} has no dropout before its classifier; use drop_rate 0")
    blocks = [block for block in model.modules() if any(hasattr(block, path) for path in _PATHS)]
    if drop_path_rate and not blocks:
        raise ValueError(f"a {type(model).__name__} has no blocks that can be skipped; use drop_path_rate 0")
    for i, block in enumerate(blocks):
        rate = drop_path_rate * i / max(1, len(blocks) - 1)
        for path in _PATHS:
            if hasattr(block, path) and (rate or getattr(block, path) is not None):  # timm's ResNets have None for none
                setattr(block, path, DropPath(rate) if rate else nn.Identity())
