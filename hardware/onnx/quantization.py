"""ONNX files in 8-bit integers: static quantisation with ONNX Runtime's own tools."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from hardware.onnx.batches import fixed_batches
from hardware.onnx.external import opened, packed

__all__ = ["is_quantized", "quantize_onnx"]

_QUANTIZED = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def quantize_onnx(model: bytes | Path, images: Iterable[NDArray[np.float32]]) -> bytes:
    """The file with weights and activations in 8 bits, which any ONNX Runtime runs.

    Static quantisation in the QDQ format: weights signed and with a scale for each output channel, activations unsigned
    with one scale for each tensor, from the smallest and largest value that it has on `images` (Jacob et al. 2018).
    Unsigned activations with signed weights are what x86 has instructions for; on CPUs without VNNI their sums may
    saturate, which the accuracy of the quantised file shows.

    Args:
        model: takes images (batch, channels, height, width) of a fixed batch.
        images: for calibration, in batches of any size; random ones give a file that is as fast, but of no accuracy.

    Raises:
        ValueError: there are no images, or the file cannot be quantised.
        TooLargeError: what comes out does not fit into one file.
    """
    graph = opened(model).graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    batches = [batch for batch, _ in fixed_batches(images, batch)]
    if not batches:
        raise ValueError("quantising needs calibration images; got none")
    with tempfile.TemporaryDirectory() as folder, _silence():
        source, target = Path(folder) / "model.onnx", Path(folder) / "quantized.onnx"
        if isinstance(model, bytes):
            source.write_bytes(model)
        else:
            source = model
        quantize_static(
            source,
            target,
            _Reader(graph.input[0].name, batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            use_external_data_format=source == model,
        )
        return packed(onnx.load(target))


def is_quantized(model: bytes | Path) -> bool:
    """Whether a file computes in integers anywhere."""
    return any(node.op_type in _QUANTIZED for node in opened(model).graph.node)


class _Reader(CalibrationDataReader):
    """The images as ONNX Runtime's tools ask for them."""

    def __init__(self, name: str, batches: Iterable[NDArray[np.float32]]) -> None:
        self._feeds = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        return next(self._feeds, None)


@contextmanager
def _silence() -> Iterator[None]:
    """Without the advice to pre-process: BatchNorms are folded and shapes are fixed in the files of this project."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
