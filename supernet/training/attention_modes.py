"""Contexts in which attention is subsampled, or its queries, keys and values are kept; see `attention.py`.

They work on every call of `F.scaled_dot_product_attention`, whatever network makes it, as `SynchronisedBatchNorm` does
on `F.batch_norm`: sub-networks are put together for one call, so there is no module that could be told beforehand.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from supernet.training.attention import Attended, Pathways

__all__ = ["RecordedAttention", "SubsampledAttention", "shuffled", "subsampled"]


class SubsampledAttention(TorchFunctionMode):
    """Inside, what learns attends within random groups of tokens, drawn from torch's random numbers.

    Attributes:
        n_calls: calls of attention so far that were subsampled.
    """

    def __init__(self, pathways: Pathways) -> None:
        super().__init__()
        self.pathways = pathways
        self.n_calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
        query, key = args[:2] if len(args) > 1 else (kwargs["query"], kwargs["key"])
        if mask is not None or causal or query.shape[-2] != key.shape[-2]:
            return func(*args, **kwargs)
        self.n_calls += 1
        names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        query, key, value = (given.pop(name) for name in names[:3])
        return subsampled(query, key, value, self.pathways, **given)


class RecordedAttention(TorchFunctionMode):
    """Inside, the queries, keys and values of the last attention are kept.

    Attributes:
        last: None before any attention.
    """

    def __init__(self) -> None:
        super().__init__()
        self.last: Attended | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
            self.last = given["query"], given["key"], given["value"]
        return func(*args, **kwargs)


def subsampled(query: Tensor, key: Tensor, value: Tensor, pathways: Pathways, **options: Any) -> Tensor:
    """Attention of queries, keys and values (..., tokens, channels) within random groups; see `Pathways`.

    `options` are those of `F.scaled_dot_product_attention`.
    """
    n, prefix = query.shape[-2], min(pathways.prefix, query.shape[-2])
    keys = prefix + shuffled(n - prefix, pathways.window)
    # With one order for both, a token would always see itself, and so its own value too often to be right on average.
    queries = torch.arange(prefix, n) if pathways.window is None else keys
    groups = [
        (mine.to(query.device), theirs.to(query.device))
        for mine, theirs in zip(*(order.tensor_split(pathways.groups) for order in (queries, keys)), strict=True)
        if len(mine)
    ]
    whole = torch.arange(prefix, device=query.device)
    parts = [F.scaled_dot_product_attention(query[..., :prefix, :], key, value, **options)] if prefix else []
    for mine, theirs in groups:
        seen = torch.cat([whole, theirs])
        parts.append(
            F.scaled_dot_product_attention(
                query.index_select(-2, mine), key.index_select(-2, seen), value.index_select(-2, seen), **options
            )
        )
    back = torch.argsort(torch.cat([whole, *(mine for mine, _ in groups)]))
    return torch.cat(parts, dim=-2).index_select(-2, back)


def shuffled(n: int, window: int | None = None) -> Tensor:
    """A random order (n,) of 0 to n - 1, from torch's random numbers of the CPU.

    With a `window` numbers move within windows of that length only, the first of which has a random one.
    """
    if window is None:
        return torch.randperm(n)
    places = (torch.arange(n) + int(torch.randint(window, ()))) // window
    return torch.argsort(places + torch.rand(n, dtype=torch.float64))
