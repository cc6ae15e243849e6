"""What the operations of torch do to labels: a rule for every kind of operation, found by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from supernet.graph.labels import Labelled, Labels, aligned, compact, merge, only_along, vary

if TYPE_CHECKING:
    from supernet.graph.tracing import Tracer

__all__ = ["Rule", "apply_rule", "elements", "others_of", "rule", "shapes_of", "tensors_among", "unknown"]

Rule = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any], Any], "Labelled | list[Labelled] | None"]
RULES: dict[str, Rule] = {}

_ELEMENTS = ("hardswish", "prelu", "_prelu_kernel", "rrelu_with_noise", "masked_fill", "where", "gelu", "mish", "glu_")


def apply_rule(t: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Note the labels of what an operation has put out."""
    name = func._schema.name.split("::")[1]
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    if rule is None:
        of_elements = torch.Tag.pointwise in func.tags or name.rstrip("_") in _ELEMENTS
        rule = elements if of_elements else RULES["view"] if func.is_view else unknown
    found = rule(t, func, args, kwargs, out)
    if found is None:
        found = []
    for tensor, labelled in zip(tensors_among(out), [found] if isinstance(found, Labelled) else found, strict=False):
        t.note(tensor, labelled)


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by their names; that of an operation in place is that of the other."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


def tensors_among(value: Any) -> list[Tensor]:
    """The tensors in the arguments or the outputs of an operation."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for one in value for tensor in tensors_among(one)] if isinstance(value, list | tuple) else []


def unknown(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labelled]:
    """An operation without a rule: nothing that it sees can change."""
    name = func._schema.name.split("::")[1]
    for tensor in tensors_among((*args, *kwargs.values())):
        t.fix(t.labelled(tensor), f"used by {name}, which is not understood")
    return [Labelled(tuple(o.shape)) for o in tensors_among(out)]


def elements(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    """An operation on elements: what stands at one position of tensors becomes one."""
    tensors = [t.labelled(tensor) for tensor in tensors_among((*args, *kwargs.values()))]
    shape = tuple(out.shape)
    if not tensors:
        return Labelled(shape, free=True, computed=False)
    name = func._schema.name.split("::")[1]
    total = tensors[0]
    if len(tensors) == 1:
        layers = [compact(t.forest, aligned(layer, len(shape))) for layer in total.layers]
        keeps = name.rstrip("_") in ("clone", "_to_copy", "mul", "div", "dropout", "native_dropout")
        origin = total.origin if keeps else None
        return Labelled(shape, layers, total.free and name != "arange", total.computed, origin)
    origin = None
    if name.rstrip("_") in ("add", "sub"):
        t.added(tensors[0], tensors[1])
    elif name.rstrip("_") == "mul":  # a shortcut that is scaled by parameters is one still
        of_inputs = [one for one in tensors if one.computed]
        origin = of_inputs[0].origin if len(of_inputs) == 1 else None
    for other in tensors[1:]:
        total = merge(t.forest, shape, total, other, "added to or multiplied by something of fixed size")
    total.origin = origin
    return total


def shapes_of(out: Any) -> list[tuple[int, ...]]:
    """The shapes of what an operation has put out."""
    return [tuple(o.shape) for o in tensors_among(out)]


def others_of(t: Tracer, given: Labelled, allowed: set[int], done: int) -> list[Labels]:
    """Layers along axes that an operation leaves alone; what changes along others is fixed."""
    layers = []
    for layer in given.layers:
        layer = compact(t.forest, layer)
        if done in vary(layer) or not vary(layer):
            continue
        if only_along(layer, allowed):
            layers.append(layer)
        else:
            t.forest.fix(layer, "along positions that a layer mixes")
    return layers
