"""Export of any network to ONNX: in milliseconds for the usual convolutional operators, else by torch's exporter."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, helper
from torch import nn

from hardware.onnx.external import LARGEST, packed, written
from hardware.onnx.graph import EXPORTED_OPSET, INPUT, OUTPUT, Factors
from hardware.onnx.recorder import UnsupportedError, record_with_factors
from supernet.scoring.evaluating import evaluating

__all__ = ["ParityError", "export_onnx", "export_onnx_of_any_size", "export_with_factors", "onnx_parity"]


class ParityError(ValueError):
    """An ONNX file does not compute what the torch module computes."""


def export_onnx(module: nn.Module, input_shape: Sequence[int]) -> bytes:
    """The network in eval mode as an ONNX file with input ``images`` and output ``logits``.

    The shape (batch, channels, height, width) is fixed in the file. A network made of the usual operators of
    convolutional classifiers takes milliseconds (see `record`); any other goes through `torch.onnx.export`, which
    takes seconds. The module keeps its train/eval flags.

    Raises:
        ValueError: the network calls an operator that ONNX has no word for.
        TooLargeError: its weights do not fit into one file.
    """
    return export_with_factors(module, input_shape)[0]


def export_with_factors(module: nn.Module, input_shape: Sequence[int]) -> tuple[bytes, Factors]:
    """The same, and what weights are the products of, as far as it is known.

    Raises:
        ValueError: as in `export_onnx`.
    """
    model, factors = _exported(module, input_shape)
    return packed(model), factors


def export_onnx_of_any_size(
    module: nn.Module, input_shape: Sequence[int], path: Path, at_most: int = LARGEST
) -> bytes | Path:
    """As `export_onnx`; where the weights have more than `at_most` bytes as the file `path`, with the weights beside it
    in ``NAME.data``. ONNX Runtime and OpenVINO load the file from wherever both lie.

    Raises:
        ValueError: the network calls an operator that ONNX has no word for.
        OSError: the files cannot be written.
    """
    return written(_exported(module, input_shape)[0], path, at_most)


def onnx_parity(model: bytes | Path, module: nn.Module, input_shape: Sequence[int], tolerance: float = 1e-4) -> float:
    """The largest difference between the logits of ONNX Runtime and of torch on random images, relative to the
    largest logit.

    Raises:
        ParityError: the difference is above `tolerance`, or the shapes differ.
    """
    import onnxruntime

    images = torch.randn(*input_shape, generator=torch.Generator().manual_seed(0))
    weight = next(module.parameters(), images)
    with evaluating(module), torch.inference_mode():
        expected = module(images.to(weight.device)).cpu().numpy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])  # bytes or a path
    logits = np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0])
    if logits.shape != expected.shape:
        raise ParityError(f"the ONNX file returns logits of shape {logits.shape}, the torch module {expected.shape}")
    difference = float(np.abs(logits - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
    if not difference <= tolerance:
        raise ParityError(
            f"logits of the ONNX file differ from torch by {difference:.1e} of the largest, the limit is "
            f"{tolerance:g}; do not deploy this file"
        )
    return difference


def _exported(module: nn.Module, input_shape: Sequence[int]) -> tuple[ModelProto, Factors]:
    with evaluating(module), torch.no_grad():
        try:
            return record_with_factors(module, input_shape)
        except UnsupportedError:
            return _exported_by_torch(module, input_shape), {}


def _exported_by_torch(module: nn.Module, input_shape: Sequence[int]) -> ModelProto:
    weight = next(module.parameters(), torch.empty(0))
    images = torch.zeros(tuple(input_shape), device=weight.device)
    try:
        with _silence():
            program = torch.onnx.export(
                module,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=EXPORTED_OPSET,
            )
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the exporter's own text is a page of advice; the first cause is the reason
            cause = cause.__cause__
        raise ValueError(f"{type(module).__name__} cannot be written as ONNX: {str(cause).splitlines()[0]}") from error
    assert program is not None  # dynamo=True without a path always returns the program
    model = program.model_proto
    model.ir_version = helper.find_min_ir_version_for(model.opset_import)
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's progress lines, advice and deprecation warnings; errors are still raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
