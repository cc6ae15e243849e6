"""Operators of convolutional networks as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hardware.onnx.emitting import Emitted, emits, empty, require, without_data

if TYPE_CHECKING:
    from hardware.onnx.recorder import Recorder

Pair = int | tuple[int, int]
Emitter = Callable[..., Emitted]


@emits(torch.conv2d)
def _conv2d(
    recorder: Recorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Emitted:
    require(not isinstance(padding, str) and not weight.is_meta, "a convolution with named padding or computed weight")
    output = torch.conv2d(input, without_data(weight), without_data(bias), stride, padding, dilation, groups)
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": _pair(stride),
        "pads": _pair(padding) * 2,
        "dilations": _pair(dilation),
        "group": groups,
    }
    return output, recorder.node("Conv", input, weight, bias, **attributes)


@emits(F.batch_norm)
def _batch_norm(
    recorder: Recorder,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Emitted:
    require(not training and running_mean is not None, "BatchNorm with the statistics of the batch")
    assert running_mean is not None
    gain = torch.ones_like(running_mean) if weight is None else weight
    shift = torch.zeros_like(running_mean) if bias is None else bias
    name = recorder.node("BatchNormalization", input, gain, shift, running_mean, running_var, epsilon=eps)
    return empty(input.shape), name


@emits(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu)
def _relu(recorder: Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return empty(input.shape), recorder.node("Relu", input)


@emits(torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid)
def _sigmoid(recorder: Recorder, input: Tensor) -> Emitted:
    return empty(input.shape), recorder.node("Sigmoid", input)


@emits(torch.tanh, Tensor.tanh, F.tanh)
def _tanh(recorder: Recorder, input: Tensor) -> Emitted:
    return empty(input.shape), recorder.node("Tanh", input)


@emits(F.hardtanh)
def _hardtanh(
    recorder: Recorder, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Emitted:
    return empty(input.shape), recorder.node("Clip", input, min_val, max_val)


@emits(F.relu6)
def _relu6(recorder: Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return _hardtanh(recorder, input, 0.0, 6.0)


@emits(F.hardsigmoid)
def _hardsigmoid(recorder: Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return empty(input.shape), recorder.node("HardSigmoid", input, alpha=1 / 6, beta=0.5)


@emits(F.hardswish)
def _hardswish(recorder: Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return empty(input.shape), recorder.node("HardSwish", input)


@emits(F.silu)
def _silu(recorder: Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    gate = recorder.node("Sigmoid", input)
    return empty(input.shape), recorder.graph.node("Mul", [recorder.value(input), gate])


@emits(F.gelu)
def _gelu(recorder: Recorder, input: Tensor, approximate: str = "none") -> Emitted:
    return empty(input.shape), recorder.node("Gelu", input, approximate=approximate)


@emits(F.dropout)
def _dropout(
    recorder: Recorder, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Emitted:
    require(not training, "dropout in training mode")
    return input, recorder.value(input)


@emits(torch.mean, Tensor.mean)
def _mean(recorder: Recorder, input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Emitted:
    return _reduced(recorder, "ReduceMean", input, dim, keepdim)


@emits(torch.amax, Tensor.amax)
def _amax(recorder: Recorder, input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Emitted:
    return _reduced(recorder, "ReduceMax", input, dim, keepdim)


def _reduced(recorder: Recorder, op: str, input: Tensor, dim: int | Sequence[int], keepdim: bool) -> Emitted:
    axes = sorted(d % input.ndim for d in ((dim,) if isinstance(dim, int) else dim))
    output = empty([1 if d in axes else n for d, n in enumerate(input.shape) if keepdim or d not in axes])
    if axes != [2, 3] or input.ndim != 4:
        constant = recorder.graph.weight(np.array(axes, dtype=np.int64))
        return output, recorder.graph.node(op, [recorder.value(input), constant], keepdims=int(keepdim))
    # The pooling operators work on ONNX Runtime's blocked layout, the reductions need it undone.
    name = recorder.node({"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}[op], input)
    return output, name if keepdim else recorder.graph.node("Flatten", [name])


@emits(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(recorder: Recorder, input: Tensor, output_size: Pair) -> Emitted:
    require(input.ndim == 4 and _pair(output_size) == [1, 1], f"adaptive pooling to {output_size}")
    return empty((*input.shape[:2], 1, 1)), recorder.node("GlobalAveragePool", input)


@emits(F.adaptive_max_pool2d)
def _adaptive_max_pool2d(recorder: Recorder, input: Tensor, output_size: Pair, return_indices: bool = False) -> Emitted:
    plain = input.ndim == 4 and _pair(output_size) == [1, 1] and not return_indices
    require(plain, f"adaptive maximum pooling to {output_size}")
    return empty((*input.shape[:2], 1, 1)), recorder.node("GlobalMaxPool", input)


@emits(F.avg_pool2d)
def _avg_pool2d(
    recorder: Recorder,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Emitted:
    padded = _pair(padding) != [0, 0]
    # What the last window counts where ceil_mode lets it stick out differs between the two definitions.
    require(divisor_override is None and not (ceil_mode and padded and count_include_pad), "this average pooling")
    output = F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad)
    attributes = _pooling(kernel_size, stride, padding, ceil_mode)
    return output, recorder.node(
        "AveragePool", input, count_include_pad=int(padded and count_include_pad), **attributes
    )


@emits(F.max_pool2d)
def _max_pool2d(
    recorder: Recorder,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Emitted:
    require(not return_indices, "maximum pooling that returns indices")
    output = F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    attributes = _pooling(kernel_size, stride, padding, ceil_mode)
    return output, recorder.node("MaxPool", input, dilations=_pair(dilation), **attributes)


@emits(F.pad)
def _pad(
    recorder: Recorder, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Emitted:
    require(mode == "constant", f"padding by {mode}")
    output = F.pad(input, list(pad), mode, value)
    sides = np.array(pad, dtype=np.int64).reshape(-1, 2)[::-1]  # torch counts dimensions from the last
    sides = np.vstack([np.zeros((input.ndim - len(sides), 2), dtype=np.int64), sides])
    inputs = [recorder.value(input), recorder.graph.weight(sides.T.reshape(-1)), recorder.value(value or 0.0)]
    return output, recorder.graph.node("Pad", inputs)


@emits(torch.flatten, Tensor.flatten)
def _flatten(recorder: Recorder, input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Emitted:
    return _reshaped(recorder, input, torch.flatten(input, start_dim, end_dim))


@emits(torch.reshape, Tensor.reshape, Tensor.view)
def _reshape(recorder: Recorder, input: Tensor, *shape: int | Sequence[int]) -> Emitted:
    return _reshaped(recorder, input, input.reshape(*shape))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _reshaped(recorder: Recorder, input: Tensor, output: Tensor) -> Emitted:
    if output.shape == input.shape:
        return output, recorder.value(input)
    shape = recorder.graph.weight(np.array(output.shape, dtype=np.int64))
    return output, recorder.graph.node("Reshape", [recorder.value(input), shape])


@emits(torch.cat, torch.concat)
def _cat(recorder: Recorder, tensors: Sequence[Tensor], dim: int = 0) -> Emitted:
    return torch.cat([without_data(x) for x in tensors], dim), recorder.node("Concat", *tensors, axis=dim)


def _binary(op: str, swapped: bool = False) -> Emitter:
    def emit(recorder: Recorder, input: Tensor | float, other: Tensor | float) -> Emitted:
        shapes = [x.shape if isinstance(x, Tensor) else () for x in (input, other)]
        left, right = (other, input) if swapped else (input, other)
        return empty(torch.broadcast_shapes(*shapes)), recorder.node(op, left, right)

    return emit


emits(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__)(_binary("Add"))
emits(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__)(_binary("Mul"))
emits(torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__)(_binary("Sub"))
emits(torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__)(_binary("Div"))
emits(Tensor.__radd__)(_binary("Add", swapped=True))
emits(Tensor.__rmul__)(_binary("Mul", swapped=True))
emits(Tensor.__rsub__)(_binary("Sub", swapped=True))
emits(Tensor.__rtruediv__)(_binary("Div", swapped=True))


def _pair(value: Any) -> list[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return list(values) * (2 // len(values))


def _pooling(kernel_size: Pair, stride: Pair | None, padding: Pair, ceil_mode: bool) -> dict[str, Any]:
    return {
        "kernel_shape": _pair(kernel_size),
        "strides": _pair(stride or kernel_size),
        "pads": _pair(padding) * 2,
        "ceil_mode": int(ceil_mode),
    }
