"""Rules for normalisation, pooling, softmax and everything else that sees many positions at once."""

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
from supernet.graph.rules import elements, others_of, rule, shapes_of, unknown

if TYPE_CHECKING:
    from supernet.graph.tracing import Tracer


def _mixed(t: Tracer, given: Labelled, axes: set[int], drop: bool, what: str) -> list[Labels]:
    """Layers after something that sees all positions along the axes at once.

    What changes along these axes and along others goes as a whole; what changes along them alone is left with its
    neighbours, so that leaving one out changes what the operation computes, and is not carried on where `drop`.
    """
    layers = []
    for layer in given.layers:
        layer = compact(t.forest, layer)
        if vary(layer) & axes:
            if vary(layer) - axes:
                layer = constant_along(t.forest, layer, vary(layer) & axes)
            else:
                t.mixed(layer, what)
                if drop:
                    continue
        if vary(layer):
            layers.append(layer)
    return layers


@rule("native_layer_norm", "_fused_rms_norm", "layer_norm", "rms_norm")
def _layer_norm(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> Labelled:
    given, n = t.labelled(args[0]), len(args[1])
    axes = set(range(len(given.shape) - n, len(given.shape)))
    result = Labelled(given.shape, _mixed(t, given, axes, False, "layer norm"), computed=True)
    for tensor in args[2:4]:
        if isinstance(tensor, Tensor):
            result = merge(
                t.forest, given.shape, result, t.labelled(tensor), "normalised together with something fixed"
            )
    return result


@rule("native_group_norm", "group_norm")
def _group_norm(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> Labelled:
    given, groups = t.labelled(args[0]), args[6]
    channels = vector(t.forest, given, 1)
    if groups > 1:
        rows = channels.reshape(groups, -1)
        t.forest.join(rows, rows[:, :1])
    else:
        t.mixed(channels, "group norm")
    for tensor in args[1:3]:
        if isinstance(tensor, Tensor):
            t.forest.join(vector(t.forest, t.labelled(tensor), 0), channels, "normalises something fixed")
    return Labelled(given.shape, _channels_and_batch(t, given, channels))


def _channels_and_batch(t: Tracer, given: Labelled, channels: Labels) -> list[Labels]:
    layers = [placed(t.forest.find(channels), 1, len(given.shape)), *others_of(t, given, {0}, 1)]
    return [layer for layer in layers if vary(layer) and layer.any()]


@rule(
    *("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"),
    *("batch_norm", "_batch_norm_no_update", "_batch_norm_with_update"),
)
def _batch_norm(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> Labelled:
    given = t.labelled(args[0])
    channels = vector(t.forest, given, 1)
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor):
            t.forest.join(vector(t.forest, t.labelled(tensor), 0), channels, "normalises something fixed")
    if given.computed:
        layers = _channels_and_batch(t, given, channels)
    else:  # weights that are standardised
        layers = [compact(t.forest, layer) for layer in given.layers]
        for layer in layers:
            if 1 not in vary(layer):
                t.mixed(layer, "weight standardisation")
    return Labelled(given.shape, [layer for layer in layers if vary(layer)], computed=given.computed)


@rule("_softmax", "_log_softmax", "_safe_softmax", "softmax", "cumsum", "logcumsumexp", "cumprod", "sort")
def _softmax(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> Labelled:
    given = t.labelled(args[0])
    axis = args[1] % len(given.shape)
    for layer in given.layers:
        layer = compact(t.forest, layer)
        if vary(layer) == {axis}:
            constant_along(t.forest, layer, {axis})
    layers = _mixed(t, given, {axis}, False, "softmax")
    return Labelled(given.shape, layers, computed=given.computed)


@rule(
    *("mean", "sum", "amax", "amin", "var", "var_mean", "std", "linalg_vector_norm", "logsumexp", "prod", "any", "all"),
    *("max", "min", "argmax", "argmin", "norm", "std_mean", "nansum", "median"),
)
def _reduced(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labelled] | Labelled:
    given = t.labelled(args[0])
    n = len(given.shape)
    names = [argument.name for argument in func._schema.arguments]
    position = names.index("dim") if "dim" in names else -1
    dims = kwargs.get("dim", args[position] if 0 < position < len(args) else None)
    if isinstance(args[1] if len(args) > 1 else None, Tensor):  # the larger of two
        return elements(t, func, args, kwargs, out)
    axes = set(range(n)) if dims is None or dims == [] else {d % n for d in ([dims] if isinstance(dims, int) else dims)}
    name = func._schema.name.split("::")[1]
    layers = _mixed(t, given, axes, True, "" if name == "sum" else name)
    shape: tuple[int, ...] = shapes_of(out)[0]
    if len(shape) != n:
        layers = [layer.squeeze(tuple(axes)) for layer in layers]
    kept = [layer for layer in layers if vary(layer)]
    return [Labelled(shape, kept, computed=given.computed) for _ in range(2)]


@rule(
    *("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d"),
    *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "avg_pool1d"),
    *("_upsample_bicubic2d_aa", "grid_sampler_2d", "roi_align", "_roi_align", "upsample_linear1d", "avg_pool3d"),
    *("_adaptive_avg_pool3d", "max_pool3d_with_indices", "upsample_nearest1d", "max_pool1d", "adaptive_avg_pool2d"),
    *("roi_pool", "ps_roi_align", "grid_sampler", "_upsample_nearest_exact2d", "max_pool2d_with_mask"),
)
def _spatial(t: Tracer, func: Any, args: Any, kwargs: Any, out: Any) -> list[Labelled]:
    given = t.labelled(args[0])
    shape: tuple[int, ...] = shapes_of(out)[0]
    if len(given.shape) != len(shape) or len(shape) < 3 or shape[1:2] != given.shape[1:2]:
        return unknown(t, func, args, kwargs, out)
    layers = _channels_and_batch(t, given, vector(t.forest, given, 1))
    if shape[:1] != given.shape[:1]:
        layers = [layer for layer in layers if 0 not in vary(layer)]
    return [Labelled(shape, layers, computed=given.computed) for _ in range(2)]


@rule("im2col")
def _im2col(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    given = t.labelled(args[0])
    channels = vector(t.forest, given, 1)
    row = np.repeat(channels, out.shape[1] // len(channels))
    return Labelled(tuple(out.shape), [placed(row, 1, 3), *(x[..., 0] for x in others_of(t, given, {0}, 1))])


@rule("col2im")
def _col2im(t: Tracer, func: Any, args: Any, kwargs: Any, out: Tensor) -> Labelled:
    given = t.labelled(args[0])
    rows = vector(t.forest, given, 1).reshape(out.shape[1], -1)
    t.forest.join(rows, rows[:, :1])
    layers = [placed(t.forest.find(rows[:, 0]), 1, 4), *(x[..., None] for x in others_of(t, given, {0}, 1))]
    return Labelled(tuple(out.shape), [layer for layer in layers if vary(layer)])
