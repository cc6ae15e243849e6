"""Rules for convolutions, matrix products and embeddings: they end the labels that they read and begin others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from supernet.graph.labels import (
    Labelled,
    Labels,
    compact,
    constant_along,
    merge,
    placed,
    vary,
    vector,
)
from supernet.graph.rules import others_of, rule, unknown

if TYPE_CHECKING:
    from supernet.graph.tracing import Tracer


@rule("convolution", "_convolution")
def _convolution(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    given, filters = t.labelled(x), t.labelled(weight)
    for axis in range(2, weight.ndim):
        t.fix_axis(filters, axis, "the size of a kernel")
    rows, columns = vector(t.forest, filters, 0), vector(t.forest, filters, 1)
    channels = vector(t.forest, given, 1)
    writes, reads = (columns, rows) if transposed else (rows, columns)
    inner: Labels = np.zeros(weight[0, 0].numel(), dtype=np.int64)  # positions of the kernel
    if groups == 1:
        t.forest.join(channels, reads, "reads an input of fixed width")
        factors = [channels, inner]
    else:
        if transposed:  # its axes are (inputs, outputs of a group)
            t.forest.fix(writes, "outputs inside the groups of a transposed convolution")
            writes = t.forest.fresh(out.shape[1])
            t.forest.join(channels, rows, "reads an input of fixed width")
        elif len(reads) > 1:
            t.forest.fix(reads, "inputs inside the groups of a convolution")
        factors = [np.zeros(x.shape[1] // groups, dtype=np.int64), inner]
        ins, outs = channels.reshape(groups, -1), writes.reshape(groups, -1)
        t.forest.join(ins, ins[:, :1])
        t.forest.join(outs, ins[:, :1], "a group of a convolution with inputs of fixed width")
    if groups == 1 or len(columns) > 1 or transposed:
        t.wrote(writes)
    if bias is not None:
        t.forest.join(vector(t.forest, t.labelled(bias), 0), writes, "")
    layers = [placed(t.forest.find(writes), 1, out.ndim)]
    layers += others_of(t, given, {0}, 1)
    if transposed:  # every value that comes in is multiplied with a kernel
        t.multiplied([writes if groups == 1 else np.zeros(weight.shape[1], dtype=np.int64), inner], given)
    else:
        t.multiplied(factors)
    return Labelled(tuple(out.shape), [layer for layer in layers if vary(layer)])


@rule("addmm", "mm", "bmm", "baddbmm", "mv", "dot", "linear")
def _matrices(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled | list[Labelled]:
    name = func._schema.name
    if name in ("aten::mv", "aten::dot", "aten::linear"):
        return unknown(t, func, args, kwargs, out)
    bias = args[0] if name in ("aten::addmm", "aten::baddbmm") else None
    a, b = args[-2:]
    lift = a.ndim == 2
    left, right = (_batched(t.labelled(m)) if lift else t.labelled(m) for m in (a, b))
    left_layers, left_inner = _sides(t, left, 2, 1)
    right_layers, right_inner = _sides(t, right, 1, 2)
    inner_size = left.shape[2]
    none = np.zeros(inner_size, dtype=np.int64)
    one, two = none if left_inner is None else left_inner, none if right_inner is None else right_inner
    t.forest.join(one, two, "reads an input of fixed width")
    shape = (left.shape[0], left.shape[1], right.shape[2])
    batches = [[x for x in layers if 0 in vary(x)] for layers in (left_layers, right_layers)]
    layers = [x for x in (*left_layers, *right_layers) if 0 not in vary(x)]
    if any(batches) and shape[0] > 1:
        first, second = (
            Labelled((shape[0], 1, 1), found, free=not found and matrix.stride(0) == 0)
            for found, matrix in zip(batches, (a, b), strict=True)
        )
        both = merge(t.forest, (shape[0], 1, 1), first, second, "multiplied with matrices of a fixed number")
        t.heads([*both.layers])
        layers += both.layers
    if not lift and right_inner is None and left_inner is None:
        pass
    if any(not t.labelled(m).computed for m in (a, b)):
        for layer in layers:
            t.wrote(layer)
    t.multiplied([t.forest.find(one)])
    result = Labelled(shape, [x for x in (compact(t.forest, x) for x in layers) if vary(x)])
    if lift:
        result = Labelled(shape[1:], [x[0] for x in result.layers])
    if bias is not None:
        result = merge(t.forest, tuple(out.shape), result, t.labelled(bias), "a bias of fixed size")
    return result


def _batched(matrix: Labelled) -> Labelled:
    return Labelled((1, *matrix.shape), [layer[None] for layer in matrix.layers], matrix.free, matrix.computed)


def _sides(t: Tracer, matrix: Labelled, inner: int, outer: int) -> tuple[list[Labels], Labels | None]:
    """The layers of a batch of matrices that the product keeps, and the labels along the axis that is summed over."""
    kept, row = [], None
    for layer in matrix.layers:
        layer = compact(t.forest, layer)
        if 0 in vary(layer) and len(vary(layer)) > 1:  # heads in the batch: a head goes as a whole
            layer = constant_along(t.forest, layer, vary(layer) - {0})
        elif inner in vary(layer) and len(vary(layer)) > 1:
            layer = constant_along(t.forest, layer, {inner})
        if inner in vary(layer):
            flat = layer.reshape(-1)
            if row is not None:
                t.forest.join(row, flat)
            row = flat
        elif vary(layer):
            kept.append(layer)
    return kept, row
