"""What the axes of the parameters of a vision transformer hold: slicing, sorting and checking follow one table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from supernet.networks.slicing import with_parameters
from supernet.networks.sorting import permute

__all__ = ["EMBEDDING", "HEADS", "NEURONS", "columns_of", "is_known", "narrow", "narrow_tensor", "permute_axes"]

_T = TypeVar("_T", bound=nn.Module)

EMBEDDING = "embedding"
HEADS = "heads"
"""Channels of the heads, one head after the other."""
NEURONS = "neurons"
_QKV = "queries, keys and values"  # three times the channels of the heads: of all queries, of all keys, of all values

_AFFINE = ("weight", "bias")
_AXES: dict[str, tuple[str | None, ...]] = {
    **dict.fromkeys(("cls_token", "reg_token", "dist_token", "pos_embed"), (None, None, EMBEDDING)),
    "patch_embed.proj.weight": (EMBEDDING, None, None, None),
    "patch_embed.proj.bias": (EMBEDDING,),
    **{f"{norm}.{n}": (EMBEDDING,) for norm in ("patch_embed.norm", "norm_pre", "norm", "fc_norm") for n in _AFFINE},
    **{f"{head}.weight": (None, EMBEDDING) for head in ("head", "head_dist")},
    **{f"{head}.bias": (None,) for head in ("head", "head_dist")},
    **{f"blocks.{norm}.{n}": (EMBEDDING,) for norm in ("norm1", "norm2") for n in _AFFINE},
    "blocks.attn.qkv.weight": (_QKV, EMBEDDING),
    "blocks.attn.qkv.bias": (_QKV,),
    **{f"blocks.attn.{norm}.{n}": (None,) for norm in ("q_norm", "k_norm") for n in _AFFINE},  # within each head
    **{f"blocks.attn.norm.{n}": (HEADS,) for n in _AFFINE},
    "blocks.attn.proj.weight": (EMBEDDING, HEADS),
    "blocks.attn.proj.bias": (EMBEDDING,),
    **{f"blocks.{scale}.gamma": (EMBEDDING,) for scale in ("ls1", "ls2")},
    "blocks.mlp.fc1.weight": (NEURONS, EMBEDDING),
    "blocks.mlp.fc1.bias": (NEURONS,),
    **{f"blocks.mlp.norm.{n}": (NEURONS,) for n in _AFFINE},
    "blocks.mlp.fc2.weight": (EMBEDDING, NEURONS),
    "blocks.mlp.fc2.bias": (EMBEDDING,),
}


def is_known(name: str) -> bool:
    """Whether a parameter of this name is in the table."""
    return _without_number(name) in _AXES


def columns_of(module: nn.Module, kind: str, prefix: str = "") -> Tensor:
    """Everything that belongs to each unit of a kind (n_values, n_units), the parameters of `module` one below another.

    Its ``grad`` is made of theirs, where all have one. `prefix` is the name of the module in the whole model.
    """
    rows, gradients = [], []
    for parameter, axes in _named_axes(module, prefix):
        for axis, held in enumerate(axes):
            if _kind(held) != kind:
                continue
            for tensor, found in ((parameter, rows), (parameter.grad, gradients)):
                if tensor is not None:
                    whole, inner = _sections(tensor, axis, held)
                    found.append(whole.movedim(inner, -1).reshape(-1, whole.shape[inner]))
    columns = torch.cat(rows)
    if len(gradients) == len(rows):
        columns.grad = torch.cat(gradients)
    return columns


def permute_axes(module: nn.Module, kind: str, order: Tensor, prefix: str = "") -> None:
    """Put the units of a kind in another order, everywhere in `module`, in place."""
    for parameter, axes in _named_axes(module, prefix):
        for axis, held in enumerate(axes):
            if _kind(held) == kind:
                for tensor in (parameter, parameter.grad):
                    if tensor is not None:
                        whole, inner = _sections(tensor, axis, held)
                        permute(whole, order, inner)


def narrow(module: _T, name: str, widths: Mapping[str, int], copy: bool) -> _T:
    """The module called `name` and everything below it with the first `widths` units of each kind."""
    tensors = {
        key: None if tensor is None else narrow_tensor(tensor, f"{name}.{key}", widths)
        for key, tensor in module._parameters.items()
    }
    bare: Any = with_parameters(module, copy, tensors)
    weight: Any = tensors.get("weight")
    if isinstance(module, nn.Linear):
        bare.out_features, bare.in_features = weight.shape
    elif isinstance(module, nn.Conv2d):
        bare.out_channels = len(weight)
    elif hasattr(module, "normalized_shape"):
        bare.normalized_shape = (len(weight),)
    for key, child in module.named_children():
        bare._modules[key] = narrow(child, f"{name}.{key}", widths, copy)
    return bare


def narrow_tensor(tensor: Tensor, name: str, widths: Mapping[str, int]) -> Tensor:
    """The first `widths` units of each kind of the parameter called `name`; a view where one is possible."""
    for axis, held in enumerate(_AXES[_without_number(name)]):
        if held is None:
            continue
        whole, inner = _sections(tensor, axis, held)
        if whole.shape[inner] != widths[_kind(held)]:
            part = whole.narrow(inner, 0, widths[_kind(held)])
            tensor = part.flatten(axis, inner) if inner != axis else part
    return tensor


def _kind(held: str | None) -> str:
    return HEADS if held == _QKV else held or ""


def _sections(tensor: Tensor, axis: int, held: str | None) -> tuple[Tensor, int]:
    """The tensor and its axis, with queries, keys and values told apart where they lie on one axis."""
    return (tensor.unflatten(axis, (3, -1)), axis + 1) if held == _QKV else (tensor, axis)


def _named_axes(module: nn.Module, prefix: str) -> Iterator[tuple[Tensor, tuple[str | None, ...]]]:
    for name, parameter in module.named_parameters():
        yield parameter, _AXES[_without_number(f"{prefix}.{name}" if prefix else name)]


def _without_number(name: str) -> str:
    """The name of a parameter without the number of its block."""
    first, *rest = name.split(".")
    return ".".join([first, *rest[1:]]) if first == "blocks" and rest[0].isdigit() else name
