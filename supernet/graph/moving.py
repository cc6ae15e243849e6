"""Rules for operations that move values about, join tensors, or make new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from supernet.graph.labels import (
    FIXED,
    Labelled,
    Labels,
    compact,
    constant_along,
    merge,
    placed,
    spread,
    vary,
    vector,
)
from supernet.graph.rules import others_of, rule

if TYPE_CHECKING:
    from supernet.graph.tracing import Tracer


@rule(
    *(
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "permute",
        "transpose",
        "t",
        "expand",
        "squeeze",
        "unsqueeze",
    ),
    *("slice", "select", "split", "split_with_sizes", "chunk", "unbind", "roll", "flip", "rot90", "repeat"),
    *("alias", "detach", "pixel_unshuffle", "channel_shuffle", "unfold", "view_as", "as_strided"),
    *("repeat_interleave", "diagonal", "movedim", "lift_fresh", "native_channel_shuffle", "contiguous", "split_copy"),
)
def _moved(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labelled] | Labelled:
    """The operation itself is done on labels."""
    tensor = next(a for a in args if isinstance(a, Tensor))
    given = t.labelled(tensor)
    outputs = [out] if isinstance(out, Tensor) else list(out)
    results = [Labelled(tuple(o.shape), [], given.free, given.computed, given.origin) for o in outputs]
    if len(results) > 1 or not func.is_view:
        for result in results:
            result.origin = None
    for layer in given.layers:
        whole = spread(compact(t.forest, layer), given.shape)
        if func._schema.name in ("aten::view", "aten::_unsafe_view", "aten::_reshape_alias"):
            moved: Any = whole.reshape(tuple(out.shape))
        else:
            moved = func(*(whole if a is tensor else a for a in args), **kwargs)
        for result, piece in zip(results, [moved] if isinstance(moved, Tensor) else moved, strict=True):
            small = compact(t.forest, piece)
            if vary(small):
                result.layers.append(small)
            elif small.size and small.flat[0] != FIXED:
                _single(t, small)
    if func._schema.name == "aten::expand" and not given.free:
        results[0].layers += _copies(t, given.shape, out)
    return results


def _copies(t: Tracer, shape: tuple[int, ...], out: Tensor) -> list[Labels]:
    """Copies along an axis, such as one mask for all heads, belong to whatever they meet there."""
    before = (1,) * (out.ndim - len(shape)) + shape
    grown = [axis for axis, size in enumerate(out.shape) if before[axis] != size]
    return [placed(t.forest.fresh(out.shape[axis]), axis, out.ndim) for axis in grown]


def _single(t: Tracer, layer: Labels) -> None:
    """One unit has become a whole tensor, such as the gate that one position of an axis is: it cannot go."""
    t.forest.fix(layer, "picked out as a tensor of its own")


@rule("pixel_shuffle")
def _pixel_shuffle(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    """The channels that become one channel of the larger image go together."""
    given = t.labelled(args[0])
    rows = vector(t.forest, given, 1).reshape(out.shape[1], -1)
    t.forest.join(rows, rows[:, :1])
    return Labelled(tuple(out.shape), [placed(t.forest.find(rows[:, 0]), 1, out.ndim), *others_of(t, given, {0}, 1)])


@rule("clone", "_to_copy", "native_dropout", "dropout", "alias_copy", "feature_dropout", "alpha_dropout")
def _copied(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> Labelled:
    given = t.labelled(args[0])
    return Labelled(given.shape, given.layers, given.free, given.computed, given.origin)


@rule(
    *("zeros", "ones", "full", "empty", "empty_like", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"),
    *("new_full", "new_empty", "empty_strided", "new_empty_strided", "scalar_tensor"),
)
def _made(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    return Labelled(tuple(out.shape), free=True, computed=False)


@rule("fill", "zero")
def _filled(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    """One value everywhere, as in a bias without keys; its positions belong to what they did."""
    layers = t.labelled(args[0]).layers
    return Labelled(tuple(out.shape), layers, free=not layers, computed=False)


@rule("arange", "linspace", "eye", "randn", "rand", "bernoulli", "tril_indices", "randint", "normal", "uniform")
def _constant(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    return Labelled(tuple(out.shape), computed=False)


@rule("copy")
def _copy(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    target, source = t.labelled(args[0]), t.labelled(args[1])
    if target.free:
        if args[0]._is_view():
            t.fix(source, "written into a part of another tensor")
        return Labelled(target.shape, list(source.layers) if source.shape == target.shape else [])
    return merge(t.forest, target.shape, target, source, "written into something of fixed size")


@rule("cat", "stack", "concat")
def _joined(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    given = [t.labelled(tensor) for tensor in args[0]]
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.ndim
    stacked = func._schema.name == "aten::stack"
    if stacked:
        given = [
            Labelled((*g.shape[:axis], 1, *g.shape[axis:]), [np.expand_dims(x, axis) for x in g.layers], g.free)
            for g in given
        ]
    given = [g for g in given if len(g.shape) == out.ndim]  # torch lets empty ones pass
    layers: list[Labels] = []
    # Pieces side by side must agree in all other axes.
    across = Labelled((*given[0].shape[:axis], 1, *given[0].shape[axis + 1 :]), free=True)
    beside: list[Labels] = []
    for piece in given:
        inner = [compact(t.forest, layer) for layer in piece.layers]
        mine = [layer for layer in inner if axis not in vary(layer)]
        shape = across.shape
        across = merge(t.forest, shape, across, Labelled(shape, mine, piece.free), "beside something of fixed size")
        for layer in inner:
            if axis in vary(layer) and vary(layer) != {axis}:
                constant_along(t.forest, layer, vary(layer) - {axis})
        beside.append(vector(t.forest, piece, axis) if piece.shape[axis] > 1 else np.zeros(piece.shape[axis], int))
    layers += [layer for layer in (compact(t.forest, layer) for layer in across.layers) if vary(layer)]
    row = t.forest.find(np.concatenate(beside))
    if row.any():
        layers.append(compact(t.forest, placed(row, axis, out.ndim)))
    return Labelled(tuple(out.shape), [layer for layer in layers if vary(layer)])


@rule("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "pad", "reflection_pad1d", "replication_pad1d")
def _padded(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    given = t.labelled(args[0])
    layers = []
    for layer in given.layers:
        layer = compact(t.forest, layer)
        grown = {axis for axis in range(out.ndim) if out.shape[axis] != given.shape[axis]}
        if vary(layer) & grown:
            pads = [(0, 0)] * out.ndim
            for i in range(len(args[1]) // 2):
                if out.ndim - 1 - i in vary(layer):
                    pads[out.ndim - 1 - i] = (max(0, args[1][2 * i]), max(0, args[1][2 * i + 1]))
            if any(pad < 0 for pad in args[1]):
                t.forest.fix(layer, "cropped by a negative padding")
            layer = compact(t.forest, np.pad(layer, pads))
        if vary(layer):
            layers.append(layer)
    return Labelled(tuple(out.shape), layers, given.free, given.computed)


@rule("index", "index_select", "gather", "take_along_dim", "_unsafe_index")
def _indexed(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    given = t.labelled(args[0])
    if func._schema.name in ("aten::index", "aten::_unsafe_index"):
        indices = list(args[1])
        axes = {axis for axis, index in enumerate(indices) if index is not None}
        if any(index is not None and index.dtype == torch.bool for index in indices):
            axes |= set(range(sum(index.ndim for index in indices if index is not None)))
    else:
        axes, indices = {args[1] % len(given.shape)}, None
    layers = []
    for layer in given.layers:
        layer = compact(t.forest, layer)
        if vary(layer) & axes:
            if not vary(layer) - axes:
                t.forest.fix(layer, "picked from by numbers that are fixed")
                continue
            layer = constant_along(t.forest, layer, vary(layer) & axes)
        if not vary(layer):
            continue
        whole = spread(layer, given.shape)
        if indices is None:
            moved = whole.narrow(next(iter(axes)), 0, 1).expand(*out.shape) if whole.ndim == out.ndim else None
        elif any(index is not None and index.dtype == torch.bool for index in indices):
            rows = whole.reshape(-1, *given.shape[len(axes) :])[:1]
            moved = rows.expand(out.shape) if rows.ndim == out.ndim else None
        else:
            # All numbers pick the same labels: the first ones, at as many places as there are numbers.
            zeros = [None if i is None else torch.zeros((1,) * i.ndim, dtype=torch.long) for i in indices]
            moved = func(torch.from_numpy(layer), zeros)
        if moved is None:
            t.forest.fix(layer, "picked from in a way that is not understood")
        else:
            layers.append(compact(t.forest, moved))
    return Labelled(tuple(out.shape), [layer for layer in layers if vary(layer)], computed=given.computed)


@rule("embedding")
def _embedding(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    table = t.labelled(args[0])
    width = vector(t.forest, table, 1)
    t.fix_axis(table, 0, "the rows of an embedding are picked by number")
    t.wrote(width)
    return Labelled(tuple(out.shape), [placed(width, out.ndim - 1, out.ndim)])
