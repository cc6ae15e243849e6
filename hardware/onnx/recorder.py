"""Recording of a forward pass as an ONNX graph: one torch function in, one ONNX node out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hardware.onnx import image_operators, sequence_operators  # noqa: F401  (they register themselves)
from hardware.onnx.emitting import EMITTERS, UnsupportedError
from hardware.onnx.graph import INPUT, Factors, Graph

__all__ = ["UnsupportedError", "record", "record_with_factors"]


def record(module: nn.Module, input_shape: Sequence[int]) -> ModelProto:
    """The network, which must be in eval mode, as an ONNX model of the fixed shape (batch, channels, height, width).

    The forward pass runs once on tensors without data (torch's meta device) while each torch function it calls is
    written down as an ONNX node. BatchNorm is folded into the convolution before it.

    Raises:
        UnsupportedError: the network calls a torch function, or with arguments, that has no emitter here.
    """
    return record_with_factors(module, input_shape)[0]


def record_with_factors(module: nn.Module, input_shape: Sequence[int]) -> tuple[ModelProto, Factors]:
    """The same file, and of its weights that have a BatchNorm folded into them what they are the products of.

    Raises:
        UnsupportedError: as in `record`.
    """
    images = torch.empty(tuple(input_shape), device="meta")
    recorder = Recorder(images)
    with recorder:
        logits = module(images)
    if not isinstance(logits, Tensor):
        raise UnsupportedError(f"an output of type {type(logits).__name__}")
    output = recorder.value(logits)
    recorder.graph.drop_unread(output)
    recorder.graph.fold_batch_norms()
    return recorder.graph.model(input_shape, output, logits.shape), recorder.graph.factors


class Recorder(TorchFunctionMode):
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
        if func not in EMITTERS:
            raise UnsupportedError(f"no emitter for {func}")
        emit, signature = EMITTERS[func]
        try:
            bound = signature.bind(self, *args, **kwargs)
        except TypeError as error:
            raise UnsupportedError(f"{func}: {error}") from error
        emitted = emit(*bound.args, **bound.kwargs)
        for one in emitted if isinstance(emitted, list) else [emitted]:
            self._values[id(one[0])] = one
        if isinstance(emitted, list):
            return tuple(one for one, _ in emitted)
        output, name = emitted
        if func in _IN_PLACE or kwargs.get("inplace"):
            self._values[id(args[0])] = (args[0], name)
        return output


def _tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


_METADATA = {
    torch._assert,
    Tensor.__len__,
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
