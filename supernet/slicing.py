"""Narrower copies of single layers: the first channels of a convolution, a normalisation or a linear layer.

A narrowed layer is an instance of the class it came from. With ``copy=False`` its tensors are views of the supernet's,
so that gradients and running statistics flow back into the slices; with ``copy=True`` they are its own. Whatever is
assembled from narrowed layers therefore computes the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["bare_copy", "narrow_conv", "narrow_linear", "narrow_norm", "shell"]

_M = TypeVar("_M", bound=nn.Module)


def shell(module: _M, copy: bool) -> _M:
    """The module and everything below it once more, at full width."""
    bare = bare_copy(module)
    _set_parameters(bare, module._parameters, copy)
    _set_buffers(bare, module._buffers, copy)
    bare._modules = {name: None if child is None else shell(child, copy) for name, child in module._modules.items()}
    return bare


def narrow_conv(
    conv: nn.Conv2d,
    copy: bool,
    out_channels: int | None = None,
    in_channels: int | None = None,
    weight: Tensor | None = None,
) -> nn.Conv2d:
    """The first `out_channels` filters over the first `in_channels` inputs (None: all).

    A depth-wise convolution is narrowed by `out_channels` alone. `weight` (full channels, any kernel size) replaces the
    convolution's own, for elastic kernels; the padding follows its size.
    """
    bare = bare_copy(conv)
    full = conv.weight if weight is None else weight
    depthwise = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    n_out = out_channels or conv.out_channels
    n_in = n_out if depthwise else in_channels or conv.in_channels
    per_group = 1 if depthwise else n_in // conv.groups
    sliced = full if (n_out, per_group) == tuple(full.shape[:2]) else full[:n_out, :per_group]
    _set_parameters(bare, {"weight": sliced, "bias": _first(conv.bias, n_out)}, copy)
    bare.out_channels, bare.in_channels = n_out, n_in
    bare.groups = n_out if depthwise else conv.groups
    if full.shape[2:] != conv.weight.shape[2:]:
        height, width = int(full.shape[2]), int(full.shape[3])
        bare.kernel_size = (height, width)
        if isinstance(conv.padding, tuple) and any(conv.padding):
            bare.padding = (height // 2 * conv.dilation[0], width // 2 * conv.dilation[1])
            bare._reversed_padding_repeated_twice = [p for p in reversed(bare.padding) for _ in range(2)]
    return bare


def narrow_norm(norm: _M, copy: bool, n: int) -> _M:
    """The first `n` channels of a normalisation (with its activation, where it is one of timm's)."""
    bare = bare_copy(norm)
    _set_parameters(bare, {name: _first(t, n) for name, t in norm._parameters.items()}, copy)
    # Running statistics are updated in place through the slice while training; the counter of batches is a scalar.
    _set_buffers(bare, {name: _first(t, n) for name, t in norm._buffers.items()}, copy)
    bare._modules = {name: None if child is None else shell(child, copy) for name, child in norm._modules.items()}
    bare.num_features = n  # type: ignore[assignment]
    return bare


def narrow_linear(
    linear: nn.Linear, copy: bool, out_features: int | None = None, in_features: int | None = None
) -> nn.Linear:
    """The first `out_features` rows and `in_features` columns (None: all)."""
    bare = bare_copy(linear)
    n_out, n_in = out_features or linear.out_features, in_features or linear.in_features
    whole = (n_out, n_in) == (linear.out_features, linear.in_features)
    weight = linear.weight if whole else linear.weight[:n_out, :n_in]
    _set_parameters(bare, {"weight": weight, "bias": _first(linear.bias, n_out)}, copy)
    bare.out_features, bare.in_features = n_out, n_in
    return bare


def _first(tensor: Tensor | None, n: int) -> Tensor | None:
    return tensor if tensor is None or tensor.ndim == 0 or len(tensor) == n else tensor[:n]


def bare_copy(module: _M) -> _M:
    """A module of the same class and attributes whose tensors, children and hooks can be set on their own."""
    bare = object.__new__(type(module))
    attributes = module.__dict__.copy()
    for name, value in attributes.items():
        if isinstance(value, OrderedDict):  # the hooks
            attributes[name] = value.copy()
    bare.__dict__ = attributes
    bare._modules = dict(module._modules)
    return bare


def _set_parameters(module: nn.Module, tensors: Mapping[str, Tensor | None], copy: bool) -> None:
    # Straight into the dictionary: a view of a parameter is not a parameter, and assigning it would be refused.
    own = {n: t if t is None or not copy else nn.Parameter(_clone(t)) for n, t in tensors.items()}
    module._parameters = own  # type: ignore[assignment]


def _set_buffers(module: nn.Module, tensors: Mapping[str, Tensor | None], copy: bool) -> None:
    module._buffers = {n: t if t is None or not copy else _clone(t) for n, t in tensors.items()}


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
