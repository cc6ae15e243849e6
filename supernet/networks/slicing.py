"""Narrower copies of single layers: the first channels of a convolution, a normalisation or a linear layer.

A narrowed layer is an instance of the class it came from. With ``copy=False`` its tensors are views of the supernet's,
so that gradients and running statistics flow back into the slices; with ``copy=True`` they are its own. Whatever is
assembled from narrowed layers therefore computes the same either way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeVar, overload

import torch
from torch import Tensor, nn

__all__ = ["bare_copy", "clone", "narrow_conv", "narrow_linear", "narrow_norm", "shell", "with_parameters"]

_M = TypeVar("_M", bound=nn.Module)
_HOOKS = tuple(name for name, value in nn.Module().__dict__.items() if isinstance(value, OrderedDict))


def shell(module: _M, copy: bool) -> _M:
    """The module and everything below it once more, at full width."""
    bare = bare_copy(module, copy)
    _set_parameters(bare, module._parameters, copy)
    _set_buffers(bare, module._buffers, copy)
    children = module._modules.items()
    bare.__dict__["_modules"] = {name: None if child is None else shell(child, copy) for name, child in children}
    return bare


def narrow_conv(
    conv: nn.Conv2d,
    copy: bool,
    out_channels: int | None = None,
    in_channels: int | None = None,
    weight: Tensor | None = None,
) -> nn.Conv2d:
    """The first `out_channels` filters over the first `in_channels` inputs (None: all).

    A grouped convolution is narrowed by whole groups, hence by `out_channels` alone: the first groups over the inputs
    they had. `weight` (full channels, any kernel size) replaces the convolution's own, for elastic kernels; the padding
    follows its size.
    """
    bare = bare_copy(conv, copy)
    full = conv.weight if weight is None else weight
    n_out = out_channels or conv.out_channels
    groups = conv.groups * n_out // conv.out_channels if conv.groups > 1 else 1
    n_in = conv.in_channels * groups // conv.groups if conv.groups > 1 else in_channels or conv.in_channels
    sliced = _first(_first(full, n_out), n_in // groups, dim=1)
    _set_parameters(bare, {"weight": sliced, "bias": _first(conv.bias, n_out)}, copy)
    bare.__dict__.update(out_channels=n_out, in_channels=n_in, groups=groups)
    if full.shape[2:] != conv.weight.shape[2:]:
        height, width = int(full.shape[2]), int(full.shape[3])
        bare.kernel_size = (height, width)
        if isinstance(conv.padding, tuple) and any(conv.padding):
            bare.padding = (height // 2 * conv.dilation[0], width // 2 * conv.dilation[1])
            bare._reversed_padding_repeated_twice = [p for p in reversed(bare.padding) for _ in range(2)]
    return bare


def narrow_norm(norm: _M, copy: bool, n: int) -> _M:
    """The first `n` channels of a normalisation (with its activation, where it is one of timm's)."""
    bare = bare_copy(norm, copy)
    _set_parameters(bare, {name: _first(t, n) for name, t in norm._parameters.items()}, copy)
    # Running statistics are updated in place through the slice while training; the counter of batches is a scalar.
    _set_buffers(bare, {name: _first(t, n) for name, t in norm._buffers.items()}, copy)
    children = {name: None if child is None else shell(child, copy) for name, child in norm._modules.items()}
    bare.__dict__.update(_modules=children, num_features=n)
    return bare


def narrow_linear(
    linear: nn.Linear, copy: bool, out_features: int | None = None, in_features: int | None = None
) -> nn.Linear:
    """The first `out_features` rows and `in_features` columns (None: all)."""
    bare = bare_copy(linear, copy)
    n_out, n_in = out_features or linear.out_features, in_features or linear.in_features
    weight = _first(_first(linear.weight, n_out), n_in, dim=1)
    _set_parameters(bare, {"weight": weight, "bias": _first(linear.bias, n_out)}, copy)
    bare.out_features, bare.in_features = n_out, n_in
    return bare


def with_parameters(module: _M, copy: bool, parameters: Mapping[str, Tensor | None]) -> _M:
    """The module once more with these parameters in place of its own; its children stay the same objects."""
    bare = bare_copy(module, copy)
    _set_parameters(bare, parameters, copy)
    _set_buffers(bare, module._buffers, copy)
    return bare


@overload
def _first(tensor: Tensor, n: int, dim: int = 0) -> Tensor: ...
@overload
def _first(tensor: Tensor | None, n: int, dim: int = 0) -> Tensor | None: ...
def _first(tensor: Tensor | None, n: int, dim: int = 0) -> Tensor | None:
    """The first `n` along `dim`. A whole tensor stays as it is: every slice costs a zero-filled gradient later."""
    return tensor if tensor is None or tensor.ndim == 0 or tensor.shape[dim] == n else tensor.narrow(dim, 0, n)


def bare_copy(module: _M, copy: bool = True) -> _M:
    """A module of the same class and attributes, whose tensors and children can be set on their own.

    With ``copy=False`` it shares the hooks: such a module lives for one call.
    """
    bare = object.__new__(type(module))
    # Everything here goes straight into dictionaries: `Module.__setattr__` looks every value over, which for the some
    # 200 modules of a network would cost as much as a small step of training.
    attributes = bare.__dict__
    attributes.update(module.__dict__)
    if copy:
        for name in _HOOKS:
            attributes[name] = attributes[name].copy()
    attributes["_modules"] = dict(module._modules)
    return bare


def _set_parameters(module: nn.Module, tensors: Mapping[str, Tensor | None], copy: bool) -> None:
    # Straight into the dictionary: a view of a parameter is not a parameter, and assigning it would be refused.
    own = {n: t if t is None or not copy else nn.Parameter(clone(t)) for n, t in tensors.items()}
    module.__dict__["_parameters"] = own


def _set_buffers(module: nn.Module, tensors: Mapping[str, Tensor | None], copy: bool) -> None:
    module.__dict__["_buffers"] = {n: t if t is None or not copy else clone(t) for n, t in tensors.items()}


def clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone(memory_format=torch.contiguous_format)
