"""What timm's networks say of their own widths and never read themselves: corrected in sub-networks taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from supernet.graph.groups import DependencyGraph
from supernet.graph.modules import width_after

__all__ = ["correct_widths"]


def correct_widths(model: Any, whole: Any, graph: DependencyGraph, kept: Sequence[int]) -> None:
    """Correct the widths that a sub-network tells, in place: `feature_info`, `num_features` and the like.

    Feature extraction and `reset_classifier` rely on them, and no forward pass shows that they have to follow.

    Args:
        model: a sub-network of `whole`, a model of timm's, in which the units `kept` of every group of `graph` stay.
    """
    paths = {path for path, _ in model.named_modules()}
    known = getattr(whole, "feature_info", None)
    if isinstance(known, list):
        model.feature_info = [_corrected(info, graph, kept) for info in known if info["module"] in paths]
    before, after = _head(whole), _head(model)
    for name, joined in (("num_features", 2), ("head_hidden_size", 2), ("embed_dim", 1)):  # poolings that a head reads
        n = getattr(whole, name, 0)
        if before and after and n and before.in_features in (n, joined * n):
            model.__dict__[name] = after.in_features * n // before.in_features


def _corrected(info: dict[str, Any], graph: DependencyGraph, kept: Sequence[int]) -> dict[str, Any]:
    width = width_after(graph, info["module"], info["num_chs"])
    return info if width is None else {**info, "num_chs": width(kept)}


def _head(model: Any) -> nn.Linear | None:
    heads = model.get_classifier() if hasattr(model, "get_classifier") else None
    head = heads[0] if isinstance(heads, tuple) else heads
    return head if isinstance(head, nn.Linear) else None
