"""What recording needs of an operator: a table of torch functions and how each is written down as ONNX nodes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["EMITTERS", "Emitted", "UnsupportedError", "emits", "empty", "require", "without_data"]

_F = TypeVar("_F", bound=Callable[..., Any])

Emitted = tuple[Tensor, str]
"""What an emitter returns: the tensor without data that the network goes on with, and the name of its value. One whose
function returns several tensors returns a list of these."""

EMITTERS: dict[Callable[..., Any], tuple[Callable[..., Emitted | list[Emitted]], inspect.Signature]] = {}
"""By torch function; the signature of an emitter is that of the function, after the recorder."""


class UnsupportedError(Exception):
    """The network does something for which there is no emitter here; torch's own exporter may still know it."""


def emits(*functions: Callable[..., Any]) -> Callable[[_F], _F]:
    """Registers how these torch functions are written down."""

    def register(emitter: _F) -> _F:
        for function in functions:
            EMITTERS[function] = emitter, inspect.signature(emitter)
        return emitter

    return register


def require(condition: bool, what: str) -> None:
    """Raises UnsupportedError, which says what, unless the condition holds."""
    if not condition:
        raise UnsupportedError(what)


def empty(shape: Sequence[int]) -> Tensor:
    """A tensor without data."""
    return torch.empty(shape, device="meta")  # ten times as fast as empty_like of a tensor that has no data


def without_data(tensor: Tensor | None) -> Any:
    """The tensor, or one of its shape without data where it is a constant."""
    return tensor if tensor is None or tensor.is_meta else empty(tensor.shape)
