"""Run a network once and watch: what every operation does to labels, inside which module."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from supernet.graph import mixing, moving, multiplying  # noqa: F401  their rules
from supernet.graph.labels import Forest, Labelled, Labels, compact, placed, vary, vector
from supernet.graph.rules import apply_rule

__all__ = ["Call", "Step", "Tracer", "numbers_in", "performed", "plain_attention", "tensors_in", "watched"]


_KEEP_SHAPE = {
    f"aten::{name}{ending}"
    for name in ("add", "sub", "mul", "div", "relu", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid", "tanh")
    for ending in ("", "_")
}


_BY_VALUE = {"nms", "nonzero", "masked_select", "_unique2", "unique_dim", "_local_scalar_dense"}


@dataclass
class Step:
    """One operation: its name, the module whose forward asked for it, and what it put out."""

    name: str
    module: str
    outputs: list[Labelled] = field(default_factory=list)
    factors: list[Labels] | None = None  # multiply-accumulates per value of `base`, one factor per array
    base: Labelled | None = None  # what is put out, where it is not said
    weights: tuple[str, ...] = ()
    by_value: bool = False  # how much is put out depends on values
    numbers: tuple[float, ...] = ()  # what it multiplies by, and the like
    sources: tuple[int, ...] = ()  # the steps that made what it reads; -1 for the network's inputs


@dataclass
class Call:
    """One run of a module that got one tensor and gave one."""

    module: str
    given: Labelled
    result: Labelled | None = None
    keeps_input: bool = False  # its input was added to something inside


class Tracer(TorchDispatchMode):
    """Labels every tensor of a network while it runs; see `supernet.graph.labels`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.forest = Forest()
        self.steps: list[Step] = []
        self.calls: list[Call] = []
        self.parameters: dict[str, Labelled] = {}
        self.used: set[str] = set()
        self.mixes: list[tuple[Labels, str]] = []
        self.headed: list[Labels] = []
        self.writers: list[Labels] = []
        self._known: Any = WeakTensorKeyDictionary()
        self._names: Any = WeakTensorKeyDictionary()
        self._made: Any = WeakTensorKeyDictionary()
        self.ends: tuple[int, ...] = ()
        self._inside: list[str] = [""]
        self._open: list[Call | None] = []
        self._step = Step("", "")
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            layers = [
                placed(self.forest.fresh(size), axis, tensor.ndim) for axis, size in enumerate(tensor.shape) if size > 1
            ]
            labelled = Labelled(tuple(tensor.shape), layers, computed=False)
            self.parameters[name] = self._known[tensor] = labelled
            self._names[tensor] = name

    # -- for rules ----------------------------------------------------------------------------------------------------

    def labelled(self, tensor: Tensor) -> Labelled:
        """What is known of a tensor; of one that nobody saw made, that it is fixed."""
        found = self._known.get(tensor)
        if found is None:
            found = Labelled(tuple(tensor.shape), computed=False)
        return found

    def note(self, tensor: Tensor, labelled: Labelled) -> None:
        """Remember what an operation has put out."""
        if labelled.origin is None:
            labelled.origin = object()
        self._known[tensor] = labelled
        self._step.outputs.append(labelled)

    def fix(self, labelled: Labelled, reason: str) -> None:
        """All labels of a tensor must stay."""
        for layer in labelled.layers:
            self.forest.fix(layer, reason)

    def fix_axis(self, labelled: Labelled, axis: int, reason: str) -> None:
        """All labels along one axis must stay."""
        self.forest.fix(vector(self.forest, labelled, axis), reason)

    def mixed(self, layer: Labels, what: str) -> None:
        """Something sees all these at once, so that leaving one out changes what it computes of the others."""
        if what:
            self.mixes.append((layer, what))

    def heads(self, layers: Sequence[Labels]) -> None:
        """These stand for attention heads."""
        self.headed += layers

    def wrote(self, layer: Labels) -> None:
        """These were made by the rows of a weight."""
        self.writers.append(layer)

    def multiplied(self, factors: list[Labels], base: Labelled | None = None) -> None:
        """The operation multiplies and adds up that many values per value that it puts out, or per value of `base`."""
        self._step.factors, self._step.base = factors, base

    def added(self, first: Labelled, second: Labelled) -> None:
        """Two tensors were added: modules whose input is one of them keep it."""
        for call in self._open:
            if call is not None and any(one.origin is call.given.origin for one in (first, second)):
                call.keeps_input = True

    # -- running ------------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        weights = [self._names[a] for a in tensors_in(args) if a in self._names]
        self.used.update(weights)
        out = performed(func, args, kwargs)
        if weights and func.is_view and isinstance(out, Tensor):
            self._names[out] = weights[0]  # a weight is often read the other way round
        self._step = Step(func._schema.name, self._inside[-1], weights=tuple(weights), numbers=numbers_in(args))
        self._step.by_value = func._schema.name.split("::")[1] in _BY_VALUE or any(
            t.dtype == torch.bool for t in tensors_in(args[1:2]) if func._schema.name == "aten::index"
        )
        made = (self._made.get(a) for a in tensors_in([args, kwargs]))
        self._step.sources = tuple(sorted({number for number in made if number is not None}))
        apply_rule(self, func, args, kwargs, out)
        for tensor in tensors_in(out):
            self._made[tensor] = len(self.steps)
        self.steps.append(self._step)
        return out

    def begin(self, inputs: Any) -> None:
        """These are what the network gets."""
        for tensor in tensors_in(inputs):
            self._made[tensor] = -1

    def enter(self, name: str, inputs: tuple[Any, ...]) -> None:
        """A module begins to run."""
        self._inside.append(name)
        call = None
        if inputs and isinstance(inputs[0], Tensor):
            given = self.labelled(inputs[0])
            if given.origin is None:
                given.origin = object()
            call = Call(name, Labelled(given.shape, list(given.layers), origin=given.origin))
            self.calls.append(call)
        self._open.append(call)

    def leave(self, output: Any) -> None:
        """The module that began last has run."""
        self._inside.pop()
        call = self._open.pop()
        if isinstance(output, tuple) and output:  # what is passed on beside it, such as the size of an image, stays
            output = output[0]
        if call is not None and isinstance(output, Tensor):
            call.result = self.labelled(output)

    def finish(self, outputs: Any) -> None:
        """What touches the output is fixed, and what is a rectangle stays one."""
        self.ends = tuple(self._made.get(tensor, -1) for tensor in tensors_in(outputs))
        for tensor in tensors_in(outputs):
            self.fix(self.labelled(tensor), "touches the output")
        for name, labelled in self.parameters.items():
            if name not in self.used:
                self.fix(labelled, "is not used")
        joins = -1
        while joins != self.forest.joins:
            joins = self.forest.joins
            for labelled in (*self.parameters.values(), *(o for step in self.steps for o in step.outputs)):
                for layer in labelled.layers:
                    self._rectangle(layer)
        for step in self.steps:
            for labelled in (*step.outputs, *([step.base] if step.base else [])):
                labelled.layers = [x for x in (compact(self.forest, x) for x in labelled.layers) if vary(x)]

    def _rectangle(self, layer: Labels) -> None:
        """Along two axes at once only whole slices can go: along the longest axis, the others stay as they are."""
        layer = compact(self.forest, layer)
        axes = vary(layer)
        if len(axes) > 1:
            longest = max(axes, key=lambda axis: layer.shape[axis])
            for axis in axes - {longest}:
                first = layer.take([0], axis)
                self.forest.join(layer, first)
                layer = first


def performed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation puts out; without data, what only keeps a shape is not left to torch's slower ways."""
    first = args[0] if args else None
    if isinstance(first, Tensor) and first.is_meta and first.is_floating_point():
        name = func._schema.name
        others = [a for a in args[1:] if isinstance(a, Tensor)]
        if name == "aten::native_batch_norm" and not args[5]:
            if {len(t) for t in others} <= {first.shape[1]}:
                return torch.empty_like(first), first.new_empty(0), first.new_empty(0)
        elif name == "aten::native_layer_norm":
            if all(list(t.shape) == list(args[1]) for t in others) and list(first.shape[-len(args[1]) :]) == args[1]:
                return torch.empty_like(first), first.new_empty(0), first.new_empty(0)
        elif name == "aten::addmm":
            a, b = others
            if a.shape[1] == b.shape[0] and first.shape in ((b.shape[1],), (len(a), b.shape[1])):
                return first.new_empty(len(a), b.shape[1])
        elif name in ("aten::mm", "aten::bmm"):
            if first.shape[-1] == others[0].shape[-2] and first.shape[:-2] == others[0].shape[:-2]:
                return first.new_empty(*first.shape[:-1], others[0].shape[-1])
        elif name in ("aten::_softmax", "aten::_safe_softmax") and not kwargs:
            return torch.empty_like(first)
        elif (
            name in _KEEP_SHAPE
            and not kwargs
            and all(o.dtype == first.dtype and (o.shape == first.shape or o.ndim == 0) for o in others)
        ):
            return first if name.endswith("_") else torch.empty_like(first)
    return func(*args, **kwargs)


def numbers_in(args: tuple[Any, ...]) -> tuple[float, ...]:
    """The fractions among the arguments of an operation, such as the scale of attention."""
    return tuple(value for value in args if type(value) is float)


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples, dictionaries and objects with fields."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in value.values() for t in tensors_in(v)]
    if isinstance(value, list | tuple):
        return [t for v in value for t in tensors_in(v)]
    return []


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Attention as matrix products, and no fused encoder layers: operations that can be watched."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextlib.contextmanager
def watched(model: nn.Module, enter: Any, leave: Any) -> Iterator[None]:
    """Tell which module of `model` is running: ``enter(name, inputs)`` and ``leave(output)``."""
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda _m, inputs, name=name: enter(name, inputs)))
        handles.append(module.register_forward_hook(lambda _m, _i, output: leave(output)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
