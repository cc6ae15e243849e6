"""Multiply-accumulates and parameters of an ONNX file."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["file_costs"]

# Where the weights of an operator are among its inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
_NUMBERS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT8,
            TensorProto.UINT8}  # fmt: skip


def file_costs(model: ModelProto) -> tuple[int, int]:
    """Multiply-accumulates of one image and stored numbers of a file whose input shape is fixed, by running it once.

    Convolutions and matrix products count, as is usual; of the numbers those of floating point or 8 bits, which are
    weights, biases, and what normalises where an exporter has left it in.

    Raises:
        ValueError: ONNX Runtime cannot run it.
    """
    shapes = _shapes(model)
    n_images = shapes[_input(model).name][0]
    macs = sum(_macs(node, shapes) for node in model.graph.node)
    constants = [attribute.t for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute]
    stored = [one for one in (*model.graph.initializer, *constants) if one.data_type in _NUMBERS]
    return macs // n_images, sum(prod(one.dims) for one in stored)


def _input(model: ModelProto) -> ValueInfoProto:
    weights = {one.name for one in model.graph.initializer}
    return next(one for one in model.graph.input if one.name not in weights)


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    """Of everything that operators which count read or write: files often do not say them."""
    graph, given = model.graph, _input(model)
    shapes = {one.name: list(one.dims) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            shapes[node.output[0]] = list(node.attribute[0].t.dims)
    shapes[given.name] = [dim.dim_value for dim in given.type.tensor_type.shape.dim]
    counting = [node for node in graph.node if node.op_type in (*_CONVOLUTIONS, *_PRODUCTS, "ConvTranspose")]
    asked = dict.fromkeys(name for node in counting for name in (*node.input, *node.output) if name)
    asked = [name for name in asked if name not in shapes]
    probed = ModelProto()
    probed.CopyFrom(model)
    there = {one.name for one in graph.output}
    probed.graph.output.extend(ValueInfoProto(name=name) for name in asked if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        images = np.zeros(shapes[given.name], dtype=np.float32)
        found: list[Any] = list(session.run(asked, {given.name: images})) if asked else []
    except Exception as error:  # onnxruntime's have nothing in common
        raise ValueError(f"its costs cannot be counted: {str(error).splitlines()[0]}") from error
    return shapes | {name: list(value.shape) for name, value in zip(asked, found, strict=True)}


def _macs(node: NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type in _CONVOLUTIONS:
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[_CONVOLUTIONS[node.op_type]]][1:])
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in _PRODUCTS:
        turned = any(one.name == "transA" and one.i for one in node.attribute)
        return prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if turned else -1]
    return 0
