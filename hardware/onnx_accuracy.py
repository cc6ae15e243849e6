"""How right an ONNX file is on images: what a quantised file has lost can only be seen by running it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

__all__ = ["fixed_batches", "onnx_accuracy"]

Images = NDArray[np.float32]


def fixed_batches(images: Iterable[Images], size: int) -> Iterator[tuple[Images, int]]:
    """Batches of exactly `size` images, and how many of each are new.

    Images come in batches (n, channels, height, width) of any n. The last batch is filled up with its first image,
    since a file with a fixed batch takes no other; those at its end are not new.
    """
    waiting: list[Images] = []
    n_waiting = 0
    for batch in images:
        waiting.append(batch)
        n_waiting += len(batch)
        if n_waiting < size:
            continue
        joined = np.concatenate(waiting)
        whole = n_waiting - n_waiting % size
        for first in range(0, whole, size):
            yield joined[first : first + size], size
        waiting, n_waiting = [joined[whole:]], n_waiting - whole
    if n_waiting:
        joined = np.concatenate(waiting)
        yield np.concatenate([joined, np.repeat(joined[:1], size - n_waiting, axis=0)]), n_waiting


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
