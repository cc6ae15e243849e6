"""Operators of transformers and of whatever else works on sequences of tokens, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hardware.onnx.emitting import Emitted, emits, empty, require, without_data

if TYPE_CHECKING:
    from hardware.onnx.recorder import Recorder

_TO_THE_END = np.iinfo(np.int64).max


@emits(F.linear)
def _linear(recorder: Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Emitted:
    require(not weight.is_meta, "a linear layer with computed weight")
    output = empty((*input.shape[:-1], weight.shape[0]))
    if input.ndim == 2:
        return output, recorder.node("Gemm", input, weight, bias, transB=1)
    product = recorder.node("MatMul", input, weight.detach().T.contiguous())
    return output, product if bias is None else recorder.graph.node("Add", [product, recorder.value(bias)])


@emits(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
def _matmul(recorder: Recorder, input: Tensor, other: Tensor) -> Emitted:
    return torch.matmul(without_data(input), without_data(other)), recorder.node("MatMul", input, other)


@emits(torch.softmax, Tensor.softmax, F.softmax)
def _softmax(
    recorder: Recorder, input: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Emitted:
    require(dtype in (None, torch.float32), "a softmax of another type")
    return empty(input.shape), recorder.node("Softmax", input, axis=dim)


@emits(F.layer_norm)
def _layer_norm(
    recorder: Recorder,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Emitted:
    gain = torch.ones(tuple(normalized_shape)) if weight is None else weight
    axis = -len(normalized_shape)
    return empty(input.shape), recorder.node("LayerNormalization", input, gain, bias, axis=axis, epsilon=eps)


@emits(F.scaled_dot_product_attention)
def _attention(
    recorder: Recorder,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Emitted:
    require(not (is_causal or enable_gqa or dropout_p), "causal or grouped attention, or attention with dropout")
    require(attn_mask is None or attn_mask.dtype == torch.float32, "a mask of attention that is not added")
    graph = recorder.graph
    axes = [*range(key.ndim - 2), key.ndim - 1, key.ndim - 2]
    factor = recorder.value(query.shape[-1] ** -0.5 if scale is None else scale)
    scaled = graph.node("Mul", [recorder.value(query), factor])
    scores = graph.node("MatMul", [scaled, recorder.node("Transpose", key, perm=axes)])
    if attn_mask is not None:
        scores = graph.node("Add", [scores, recorder.value(attn_mask)])
    weights = graph.node("Softmax", [scores], axis=-1)
    return empty((*query.shape[:-1], value.shape[-1])), graph.node("MatMul", [weights, recorder.value(value)])


@emits(torch.transpose, Tensor.transpose)
def _transpose(recorder: Recorder, input: Tensor, dim0: int, dim1: int) -> Emitted:
    axes = list(range(input.ndim))
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return _permuted(recorder, input, axes)


@emits(torch.permute, Tensor.permute)
def _permute(recorder: Recorder, input: Tensor, *dims: int | Sequence[int]) -> Emitted:
    given = dims[0] if isinstance(dims[0], Sequence) else dims
    return _permuted(recorder, input, [int(d) % input.ndim for d in given])  # type: ignore[arg-type]


def _permuted(recorder: Recorder, input: Tensor, axes: list[int]) -> Emitted:
    return empty([input.shape[axis] for axis in axes]), recorder.node("Transpose", input, perm=axes)


@emits(Tensor.contiguous)
def _contiguous(recorder: Recorder, input: Tensor, memory_format: Any = None) -> Emitted:
    return input, recorder.value(input)


@emits(torch.unsqueeze, Tensor.unsqueeze)
def _unsqueeze(recorder: Recorder, input: Tensor, dim: int) -> Emitted:
    axes = recorder.graph.weight(np.array([dim], dtype=np.int64))
    return torch.unsqueeze(input, dim), recorder.graph.node("Unsqueeze", [recorder.value(input), axes])


@emits(torch.squeeze, Tensor.squeeze)
def _squeeze(recorder: Recorder, input: Tensor, dim: int) -> Emitted:
    if input.shape[dim] != 1:
        return input, recorder.value(input)
    axes = recorder.graph.weight(np.array([dim], dtype=np.int64))
    return torch.squeeze(input, dim), recorder.graph.node("Squeeze", [recorder.value(input), axes])


@emits(torch.unbind, Tensor.unbind)
def _unbind(recorder: Recorder, input: Tensor, dim: int = 0) -> list[Emitted]:
    dim = dim % input.ndim
    shape = [n for axis, n in enumerate(input.shape) if axis != dim]
    name = recorder.value(input)
    node = recorder.graph.writer(name)
    if node is None or node.op != "Transpose":
        return [(empty(shape), _picked(recorder, name, i, dim)) for i in range(input.shape[dim])]
    # Queries, keys and values are parted before they are transposed: that moves everything once instead of twice.
    axes = node.attributes["perm"]
    gone, kept = axes[dim], [axis for i, axis in enumerate(axes) if i != dim]
    perm = [axis - (axis > gone) for axis in kept]
    parts = [_picked(recorder, node.inputs[0], i, gone) for i in range(input.shape[dim])]
    return [(empty(shape), recorder.graph.node("Transpose", [part], perm=perm)) for part in parts]


@emits(torch.chunk, Tensor.chunk)
def _chunk(recorder: Recorder, input: Tensor, chunks: int, dim: int = 0) -> list[Emitted]:
    return _parts(recorder, input, torch.chunk(input, chunks, dim), dim)


@emits(torch.split, Tensor.split)
def _split(recorder: Recorder, input: Tensor, split_size: int | Sequence[int], dim: int = 0) -> list[Emitted]:
    return _parts(recorder, input, torch.split(input, split_size, dim), dim)  # type: ignore[arg-type]


def _parts(recorder: Recorder, input: Tensor, parts: Sequence[Tensor], dim: int) -> list[Emitted]:
    """Neighbours along a dimension."""
    emitted, start = [], 0
    for part in parts:
        stop = start + part.shape[dim]
        emitted.append((part, _sliced(recorder, recorder.value(input), start, stop, dim)))
        start = stop
    return emitted


@emits(Tensor.__getitem__)
def _getitem(recorder: Recorder, input: Tensor, index: Any) -> Emitted:
    given = index if isinstance(index, tuple) else (index,)
    require(all(isinstance(one, int | slice) or one is Ellipsis for one in given), f"an index {index}")
    if Ellipsis in given:
        at = given.index(Ellipsis)
        given = (*given[:at], *(slice(None),) * (input.ndim - len(given) + 1), *given[at + 1 :])
    name, axis = recorder.value(input), 0
    for one in given:
        if isinstance(one, int):
            name = _picked(recorder, name, one, axis)
            continue
        require(one.step in (None, 1), "an index with steps")
        if one != slice(None):
            stop = _TO_THE_END if one.stop is None else one.stop
            name = _sliced(recorder, name, one.start or 0, stop, axis)
        axis += 1
    return input[index], name


@emits(Tensor.expand)
def _expand(recorder: Recorder, input: Tensor, *sizes: int | Sequence[int]) -> Emitted:
    output = input.expand(*sizes)  # type: ignore[arg-type]
    shape = recorder.graph.weight(np.array(output.shape, dtype=np.int64))
    return output, recorder.graph.node("Expand", [recorder.value(input), shape])


def _picked(recorder: Recorder, name: str, place: int, axis: int) -> str:
    """One place along a dimension, which is gone then."""
    return recorder.graph.node("Gather", [name, recorder.graph.weight(np.array(place, dtype=np.int64))], axis=axis)


def _sliced(recorder: Recorder, name: str, start: int, stop: int, axis: int) -> str:
    bounds = [recorder.graph.weight(np.array([value], dtype=np.int64)) for value in (start, stop, axis)]
    return recorder.graph.node("Slice", [name, *bounds])
