"""Recording of a forward pass as an ONNX graph: one torch function in, one ONNX node out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from hardware.onnx.graph import INPUT, Graph

__all__ = ["UnsupportedError", "record"]

Pair = int | tuple[int, int]
# What an emitter returns: the tensor without data that the network goes on with, and the name of its value.
Emitted = tuple[Tensor, str]


class UnsupportedError(Exception):
    """The network does something for which there is no emitter here; torch's own exporter may still know it."""


def record(module: nn.Module, input_shape: Sequence[int]) -> bytes:
    """The network, which must be in eval mode, as an ONNX file of the fixed shape (batch, channels, height, width).

    The forward pass runs once on tensors without data (torch's meta device) while each torch function it calls is
    written down as an ONNX node. BatchNorm is folded into the convolution before it.

    Raises:
        UnsupportedError: the network calls a torch function, or with arguments, that has no emitter here.
    """
    images = torch.empty(tuple(input_shape), device="meta")
    recorder = _Recorder(images)
    with recorder:
        logits = module(images)
    if not isinstance(logits, Tensor):
        raise UnsupportedError(f"an output of type {type(logits).__name__}")
    output = recorder.value(logits)
    recorder.graph.fold_batch_norms()
    return recorder.graph.serialize(input_shape, output, logits.shape)


class _Recorder(TorchFunctionMode):
    """Writes down every torch function whose arguments depend on the images.

    Functions of weights alone run as they are, and so become constants. What depends on the images has no data, so it
    can never be taken for a constant by mistake.
    """

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        self.graph = Graph()
        # By identity, since tensors compare by value; the tensor is kept so that its id is not given out again.
        self._values: dict[int, tuple[Tensor, str]] = {id(images): (images, INPUT)}

    def value(self, tensor: Tensor | float) -> str:
        """The name of a tensor or number in the graph."""
        if not isinstance(tensor, Tensor):
            return self.graph.weight(np.array(tensor, dtype=np.float32))
        if id(tensor) not in self._values:
            if tensor.is_meta or tensor.dtype != torch.float32:
                raise UnsupportedError(f"a {tensor.dtype} constant on {tensor.device}")
            array = tensor.detach().cpu().contiguous().numpy()
            self._values[id(tensor)] = (tensor, self.graph.weight(array))
        return self._values[id(tensor)][1]

    def node(self, op: str, *inputs: Tensor | float | None, **attributes: Any) -> str:
        """The name of what a new node computes; trailing inputs may be None."""
        return self.graph.node(op, [self.value(x) for x in inputs if x is not None], **attributes)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _METADATA or not any(x.is_meta for x in _tensors((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        if func not in _EMITTERS:
            raise UnsupportedError(f"no emitter for {func}")
        emit, signature = _EMITTERS[func]
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedError(f"{func}: {error}") from error
        output, name = emit(*bound.args, **bound.kwargs)
        self._values[id(output)] = (output, name)
        if func in _IN_PLACE or kwargs.get("inplace"):
            self._values[id(args[0])] = (args[0], name)
        return output


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _meta(tensor: Tensor | None) -> Any:
    return tensor if tensor is None or tensor.is_meta else _empty(tensor.shape)


def _empty(shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, device="meta")  # ten times as fast as empty_like of a tensor that has no data


# -- emitters: the signature is that of the torch function ------------------------------------------------------------

_METADATA = {
    torch._assert,
    Tensor.dim,
    Tensor.size,
    Tensor.numel,
    Tensor.is_contiguous,
    Tensor.is_floating_point,
    *(
        getattr(Tensor, name).__get__
        for name in ("shape", "ndim", "dtype", "device", "layout", "requires_grad", "is_cuda", "is_meta", "itemsize")
    ),
}
_IN_PLACE = {
    Tensor.add_, Tensor.mul_, Tensor.sub_, Tensor.div_, Tensor.relu_, Tensor.sigmoid_, Tensor.__iadd__,
    Tensor.__imul__, Tensor.__isub__, Tensor.__itruediv__, torch.relu_,
}  # fmt: skip
_EMITTERS: dict[Callable[..., Any], tuple[Callable[..., Emitted], inspect.Signature]] = {}
_Emitter = Callable[..., Emitted]


def _emits(*functions: Callable[..., Any]) -> Callable[[_Emitter], _Emitter]:
    def register(emitter: _Emitter) -> _Emitter:
        for function in functions:
            _EMITTERS[function] = emitter, inspect.signature(emitter)
        return emitter

    return register


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UnsupportedError(what)


@_emits(torch.conv2d)
def _conv2d(
    recorder: _Recorder,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Emitted:
    _require(not isinstance(padding, str) and not weight.is_meta, "a convolution with named padding or computed weight")
    output = torch.conv2d(input, _meta(weight), _meta(bias), stride, padding, dilation, groups)
    attributes = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": _pair(stride),
        "pads": _pair(padding) * 2,
        "dilations": _pair(dilation),
        "group": groups,
    }
    return output, recorder.node("Conv", input, weight, bias, **attributes)


@_emits(F.batch_norm)
def _batch_norm(
    recorder: _Recorder,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Emitted:
    _require(not training and running_mean is not None, "BatchNorm with the statistics of the batch")
    assert running_mean is not None
    gain = torch.ones_like(running_mean) if weight is None else weight
    shift = torch.zeros_like(running_mean) if bias is None else bias
    name = recorder.node("BatchNormalization", input, gain, shift, running_mean, running_var, epsilon=eps)
    return _empty(input.shape), name


@_emits(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu)
def _relu(recorder: _Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return _empty(input.shape), recorder.node("Relu", input)


@_emits(torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_, F.sigmoid)
def _sigmoid(recorder: _Recorder, input: Tensor) -> Emitted:
    return _empty(input.shape), recorder.node("Sigmoid", input)


@_emits(torch.tanh, Tensor.tanh, F.tanh)
def _tanh(recorder: _Recorder, input: Tensor) -> Emitted:
    return _empty(input.shape), recorder.node("Tanh", input)


@_emits(F.hardtanh)
def _hardtanh(
    recorder: _Recorder, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Emitted:
    return _empty(input.shape), recorder.node("Clip", input, min_val, max_val)


@_emits(F.relu6)
def _relu6(recorder: _Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return _hardtanh(recorder, input, 0.0, 6.0)


@_emits(F.hardsigmoid)
def _hardsigmoid(recorder: _Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return _empty(input.shape), recorder.node("HardSigmoid", input, alpha=1 / 6, beta=0.5)


@_emits(F.hardswish)
def _hardswish(recorder: _Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    return _empty(input.shape), recorder.node("HardSwish", input)


@_emits(F.silu)
def _silu(recorder: _Recorder, input: Tensor, inplace: bool = False) -> Emitted:
    gate = recorder.node("Sigmoid", input)
    return _empty(input.shape), recorder.graph.node("Mul", [recorder.value(input), gate])


@_emits(F.gelu)
def _gelu(recorder: _Recorder, input: Tensor, approximate: str = "none") -> Emitted:
    return _empty(input.shape), recorder.node("Gelu", input, approximate=approximate)


@_emits(F.dropout)
def _dropout(
    recorder: _Recorder, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Emitted:
    _require(not training, "dropout in training mode")
    return input, recorder.value(input)


@_emits(torch.mean, Tensor.mean)
def _mean(recorder: _Recorder, input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Emitted:
    return _reduced(recorder, "ReduceMean", input, dim, keepdim)


@_emits(torch.amax, Tensor.amax)
def _amax(recorder: _Recorder, input: Tensor, dim: int | Sequence[int], keepdim: bool = False) -> Emitted:
    return _reduced(recorder, "ReduceMax", input, dim, keepdim)


def _reduced(recorder: _Recorder, op: str, input: Tensor, dim: int | Sequence[int], keepdim: bool) -> Emitted:
    axes = sorted(d % input.ndim for d in ((dim,) if isinstance(dim, int) else dim))
    output = _empty([1 if d in axes else n for d, n in enumerate(input.shape) if keepdim or d not in axes])
    if axes != [2, 3] or input.ndim != 4:
        constant = recorder.graph.weight(np.array(axes, dtype=np.int64))
        return output, recorder.graph.node(op, [recorder.value(input), constant], keepdims=int(keepdim))
    # The pooling operators work on ONNX Runtime's blocked layout, the reductions need it undone.
    name = recorder.node({"ReduceMean": "GlobalAveragePool", "ReduceMax": "GlobalMaxPool"}[op], input)
    return output, name if keepdim else recorder.graph.node("Flatten", [name])


@_emits(F.adaptive_avg_pool2d)
def _adaptive_avg_pool2d(recorder: _Recorder, input: Tensor, output_size: Pair) -> Emitted:
    _require(input.ndim == 4 and _pair(output_size) == [1, 1], f"adaptive pooling to {output_size}")
    return _empty((*input.shape[:2], 1, 1)), recorder.node("GlobalAveragePool", input)


@_emits(F.adaptive_max_pool2d)
def _adaptive_max_pool2d(
    recorder: _Recorder, input: Tensor, output_size: Pair, return_indices: bool = False
) -> Emitted:
    plain = input.ndim == 4 and _pair(output_size) == [1, 1] and not return_indices
    _require(plain, f"adaptive maximum pooling to {output_size}")
    return _empty((*input.shape[:2], 1, 1)), recorder.node("GlobalMaxPool", input)


@_emits(F.avg_pool2d)
def _avg_pool2d(
    recorder: _Recorder,
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
    _require(divisor_override is None and not (ceil_mode and padded and count_include_pad), "this average pooling")
    output = F.avg_pool2d(input, kernel_size, stride, padding, ceil_mode, count_include_pad)
    attributes = _pooling(kernel_size, stride, padding, ceil_mode)
    return output, recorder.node(
        "AveragePool", input, count_include_pad=int(padded and count_include_pad), **attributes
    )


@_emits(F.max_pool2d)
def _max_pool2d(
    recorder: _Recorder,
    input: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Emitted:
    _require(not return_indices, "maximum pooling that returns indices")
    output = F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode)
    attributes = _pooling(kernel_size, stride, padding, ceil_mode)
    return output, recorder.node("MaxPool", input, dilations=_pair(dilation), **attributes)


@_emits(F.pad)
def _pad(
    recorder: _Recorder, input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Emitted:
    _require(mode == "constant", f"padding by {mode}")
    output = F.pad(input, list(pad), mode, value)
    sides = np.array(pad, dtype=np.int64).reshape(-1, 2)[::-1]  # torch counts dimensions from the last
    sides = np.vstack([np.zeros((input.ndim - len(sides), 2), dtype=np.int64), sides])
    inputs = [recorder.value(input), recorder.graph.weight(sides.T.reshape(-1)), recorder.value(value or 0.0)]
    return output, recorder.graph.node("Pad", inputs)


@_emits(torch.flatten, Tensor.flatten)
def _flatten(recorder: _Recorder, input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Emitted:
    return _reshaped(recorder, input, torch.flatten(input, start_dim, end_dim))


@_emits(torch.reshape, Tensor.reshape, Tensor.view)
def _reshape(recorder: _Recorder, input: Tensor, *shape: int | Sequence[int]) -> Emitted:
    return _reshaped(recorder, input, input.reshape(*shape))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _reshaped(recorder: _Recorder, input: Tensor, output: Tensor) -> Emitted:
    if output.shape == input.shape:
        return output, recorder.value(input)
    shape = recorder.graph.weight(np.array(output.shape, dtype=np.int64))
    return output, recorder.graph.node("Reshape", [recorder.value(input), shape])


@_emits(F.linear)
def _linear(recorder: _Recorder, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Emitted:
    _require(
        input.ndim == 2 and not weight.is_meta, "a linear layer on more than two dimensions or with computed weight"
    )
    return F.linear(input, _meta(weight), _meta(bias)), recorder.node("Gemm", input, weight, bias, transB=1)


@_emits(torch.cat, torch.concat)
def _cat(recorder: _Recorder, tensors: Sequence[Tensor], dim: int = 0) -> Emitted:
    return torch.cat([_meta(x) for x in tensors], dim), recorder.node("Concat", *tensors, axis=dim)


def _binary(op: str, swapped: bool = False) -> _Emitter:
    def emit(recorder: _Recorder, input: Tensor | float, other: Tensor | float) -> Emitted:
        shapes = [x.shape if isinstance(x, Tensor) else () for x in (input, other)]
        left, right = (other, input) if swapped else (input, other)
        return _empty(torch.broadcast_shapes(*shapes)), recorder.node(op, left, right)

    return emit


_emits(torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__)(_binary("Add"))
_emits(torch.mul, Tensor.mul, Tensor.mul_, Tensor.__mul__, Tensor.__imul__)(_binary("Mul"))
_emits(torch.sub, Tensor.sub, Tensor.sub_, Tensor.__sub__, Tensor.__isub__)(_binary("Sub"))
_emits(torch.div, Tensor.div, Tensor.div_, Tensor.__truediv__, Tensor.__itruediv__)(_binary("Div"))
_emits(Tensor.__radd__)(_binary("Add", swapped=True))
_emits(Tensor.__rmul__)(_binary("Mul", swapped=True))
_emits(Tensor.__rsub__)(_binary("Sub", swapped=True))
_emits(Tensor.__rtruediv__)(_binary("Div", swapped=True))


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
