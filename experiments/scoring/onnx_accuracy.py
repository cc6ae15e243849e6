"""How right an ONNX file is on images: what a quantised file has lost can only be seen by running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hardware.onnx.batches import fixed_batches

__all__ = ["onnx_accuracy"]

Images = NDArray[np.float32]


def onnx_accuracy(
    model: bytes | Path, batches: Iterable[tuple[Images, NDArray[np.integer[Any]]]], threads: int = 1
) -> float:
    """Top-1 accuracy in [0, 1] of a classifier on the CPU.

    Args:
        model: takes images (batch, channels, height, width) of a fixed batch and returns logits (batch, n_classes).
        batches: images of the height and width of the file in batches of any size, and labels (n,).
        threads: of ONNX Runtime.

    Raises:
        ValueError: the file cannot be run on these images, or there are none.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0]
    labels: list[NDArray[np.integer[Any]]] = []

    def images() -> Iterator[Images]:
        for batch, answers in batches:
            if list(batch.shape[1:]) != list(declared.shape[1:]):
                raise ValueError(f"the file takes images {declared.shape[1:]}, given were {list(batch.shape[1:])}")
            labels.append(answers)
            yield np.ascontiguousarray(batch, dtype=np.float32)

    answers = [
        np.asarray(session.run(None, {declared.name: batch})[0])[:n].argmax(1)
        for batch, n in fixed_batches(images(), declared.shape[0])
    ]
    if not answers:
        raise ValueError("accuracy needs at least one batch of images; got none")
    return float(np.mean(np.concatenate(answers) == np.concatenate(labels)))
