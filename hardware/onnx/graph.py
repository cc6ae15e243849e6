"""An ONNX graph while it is written: named values, nodes, weights, and the folding of BatchNorm into convolutions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

__all__ = ["EXPORTED_OPSET", "INPUT", "OUTPUT", "Factors", "Graph", "oldest_runtime"]

Factors = dict[str, tuple[NDArray[Any], NDArray[Any]]]
"""Of weights by name: the two arrays that they are the product of."""

INPUT, OUTPUT = "images", "logits"
# A file is written in the oldest operator set that has its operators, so that boards with an old runtime can run it.
_OLDEST_OPSET = 13  # the first in which quantised files have a scale for each channel
_SINCE = {"HardSwish": 14, "LayerNormalization": 17, "ReduceMax": 18, "ReduceMean": 18, "Gelu": 20}  # axes as an input
_CEILING_SINCE = 19  # pooling that rounds up: before, runtimes differ
EXPORTED_OPSET = 18  # the one that torch's own exporter speaks; others it translates into
# The first ONNX Runtime of each operator set (onnxruntime.ai/docs/reference/compatibility.html).
_RUNTIMES = {13: "1.7", 14: "1.8", 15: "1.9", 16: "1.11", 17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18"}


@dataclass
class _Node:
    op: str
    inputs: list[str]
    output: str
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in the order of computation, each with one output; weights by name. Values are called by their names."""

    nodes: list[_Node] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    factors: Factors = field(default_factory=dict)

    def weight(self, array: NDArray[Any]) -> str:
        """The name of a new constant."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = array
        return name

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """The name of what a new node computes."""
        name = f"{op}_{len(self.nodes)}"
        self.nodes.append(_Node(op, list(inputs), name, attributes))
        return name

    def writer(self, name: str) -> _Node | None:
        """The node that computes a value; None for images and constants."""
        return next((node for node in reversed(self.nodes) if node.output == name), None)

    @property
    def opset(self) -> int:
        """The oldest operator set that has what the nodes need."""
        ceiling = [_CEILING_SINCE for node in self.nodes if node.attributes.get("ceil_mode")]
        return max([_OLDEST_OPSET, *ceiling, *(_SINCE.get(node.op, 0) for node in self.nodes)])

    def drop_unread(self, output: str) -> None:
        """Leave out nodes whose values nothing needs."""
        needed, kept = {output}, []
        for node in reversed(self.nodes):
            if node.output in needed:
                needed.update(node.inputs)
                kept.append(node)
        self.nodes = kept[::-1]

    def fold_batch_norms(self) -> None:
        """Work every BatchNormalization that alone reads a convolution with constant weights into that convolution."""
        readers = Counter(name for node in self.nodes for name in node.inputs)
        writer = {node.output: node for node in self.nodes}
        kept = []
        for node in self.nodes:
            conv = writer.get(node.inputs[0]) if node.op == "BatchNormalization" else None
            if conv is None or conv.op != "Conv" or readers[conv.output] > 1:
                kept.append(node)
                continue
            if not self.weights.keys() >= {*node.inputs[1:], *conv.inputs[1:]}:
                kept.append(node)
                continue
            gain, shift, mean, variance = (self.weights[name] for name in node.inputs[1:])
            weight, *bias = (self.weights[name] for name in conv.inputs[1:])
            scale = gain / np.sqrt(variance + np.float32(node.attributes["epsilon"]))
            offset = shift + ((bias[0] if bias else 0) - mean) * scale
            # Constants may be shared, so the folded ones are new; constants that nothing reads are left out later.
            scale = scale[:, None, None, None]
            folded = self.weight(weight * scale)
            self.factors[folded] = weight, scale
            conv.inputs[1:] = [folded, self.weight(offset)]
            conv.output = node.output
            writer[conv.output] = conv
        self.nodes = kept

    def model(self, input_shape: Sequence[int], output: str, output_shape: Sequence[int]) -> ModelProto:
        """The model: `input_shape` and `output_shape` are fixed, batch included."""
        read = {name for node in self.nodes for name in node.inputs} | {output}
        graph = helper.make_graph(
            [helper.make_node(n.op, n.inputs, [n.output], name=n.output, **n.attributes) for n in self.nodes]
            + [helper.make_node("Identity", [output], [OUTPUT], name=OUTPUT)],
            "network",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, output_shape)],
        )
        opset = helper.make_opsetid("", self.opset)
        ir_version = helper.find_min_ir_version_for([opset])
        model = helper.make_model(graph, opset_imports=[opset], ir_version=ir_version, producer_name="supernet-nas")
        for name, array in self.weights.items():
            if name in read:  # added in place: make_graph and make_model would copy every weight twice
                tensor = model.graph.initializer.add(name=name, dims=array.shape)
                tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor.raw_data = array.tobytes()
        return model


def oldest_runtime(model: ModelProto) -> str | None:
    """The first version of ONNX Runtime that runs a file, such as ``"1.8"``; None where nobody has written it down."""
    opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)
    return _RUNTIMES.get(max(opset, min(_RUNTIMES)))
