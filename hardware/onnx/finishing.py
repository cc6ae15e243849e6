"""A finished ONNX file: with a free batch size, and with words about itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from hardware.onnx.export import ParityError
from hardware.onnx.external import opened, rewritten
from hardware.onnx.graph import INPUT, OUTPUT

__all__ = ["BATCH", "free_batch", "with_metadata"]

BATCH = 7
"""The batch size to export with before it is freed: no usual number of channels or heads, so that it is recognised."""


def free_batch(model: bytes | Path, input_shape: Sequence[int]) -> bytes | Path:
    """The same network for any number of images per call, from one of the fixed shape (`BATCH`, channels, ...).

    A file is changed where it lies.

    Raises:
        ParityError: the file computes something else for another number of images.
    """
    proto = opened(model)
    graph, folder = proto.graph, str(model.parent) if isinstance(model, Path) else ""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    del graph.value_info[:]
    constants = {one.name: one for one in graph.initializer}
    constants |= {
        node.output[0]: node.attribute[0].t
        for node in graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    nodes: list[NodeProto] = []

    def sized(name: str, rest: NDArray[Any]) -> str:
        """The name of a shape: the number of images, then the given numbers."""
        graph.initializer.append(numpy_helper.from_array(rest.astype(np.int64), f"{name}_rest"))
        ends = [numpy_helper.from_array(np.array([end]), f"{name}_{end}") for end in (0, 1)]
        graph.initializer.extend(ends)  # Shape itself takes a part only in newer operator sets
        nodes.append(helper.make_node("Shape", [INPUT], [f"{name}_all"]))
        nodes.append(helper.make_node("Slice", [f"{name}_all", *(end.name for end in ends)], [f"{name}_batch"]))
        nodes.append(helper.make_node("Concat", [f"{name}_batch", f"{name}_rest"], [f"{name}_shape"], axis=0))
        return f"{name}_shape"

    for node in graph.node:
        for place, name in enumerate(node.input):
            constant = constants.get(name)
            if constant is None or 0 in constant.dims or (len(constant.dims) > 1 and constant.dims[0] != BATCH):
                continue
            value = numpy_helper.to_array(constant, folder)
            new = f"{node.output[0]}_{place}"
            if place == 1 and node.op_type in ("Reshape", "Expand") and value.ndim == 1 and value[0] == BATCH:
                node.input[place] = sized(new, value[1:])
            elif value.ndim > 1 and (value == value[:1]).all():  # one for every image, such as a class token
                graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value[:1]), f"{new}_one"))
                shape = sized(new, np.array(value.shape[1:]))
                nodes.append(helper.make_node("Expand", [f"{new}_one", shape], [new]))
                node.input[place] = new
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    read = {name for node in nodes for name in node.input}
    unread = [one for one in graph.initializer if one.name not in read]
    for one in unread:
        graph.initializer.remove(one)
    freed = rewritten(model, proto)
    _check_free(freed, input_shape)
    return freed


def with_metadata(model: bytes | Path, told: Mapping[str, str]) -> bytes | Path:
    """The same with these texts in its metadata, where every runtime finds them; a file is changed where it lies."""
    proto = opened(model)
    onnx.helper.set_model_props(proto, dict(told))
    return rewritten(model, proto)


def _check_free(model: bytes | Path, input_shape: Sequence[int]) -> None:
    import onnxruntime

    images = np.random.default_rng(0).standard_normal((3, *input_shape[1:]), dtype=np.float32)
    try:
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        together = np.asarray(session.run([OUTPUT], {INPUT: images})[0])
        alone = np.concatenate([np.asarray(session.run([OUTPUT], {INPUT: one[None]})[0]) for one in images])
    except Exception as error:  # whatever onnxruntime raises where a shape is fixed inside
        raise ParityError(
            f"the network has the number of images written into it: {str(error).splitlines()[0][:160]}; export it with "
            "the batch size of a device"
        ) from error
    if together.shape != alone.shape or np.abs(together - alone).max() > 1e-3 * np.abs(alone).max():
        raise ParityError("the network computes something else for other batch sizes; export it with that of a device")
