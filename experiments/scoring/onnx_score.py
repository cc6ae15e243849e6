"""What an ONNX file scores: the file itself is run, so that quantisation is in the number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from hardware.onnx.batches import fixed_batches
from supernet.task import ACCURACY, Metric

__all__ = ["onnx_score"]

Images = NDArray[np.float32]


def onnx_score(
    model: bytes | Path,
    batches: Iterable[tuple[Images, NDArray[Any]]],
    metric: Metric = ACCURACY,
    threads: int = 1,
) -> float:
    """The metric of a file on the CPU; by default the top-1 accuracy in [0, 1] of a classifier.

    Args:
        model: takes images (batch, channels, height, width) of a fixed batch and returns outputs (batch, ...), such as
            logits (batch, n_classes).
        batches: images of the height and width of the file in batches of any size, and labels (n,) or targets (n, ...).
        metric: what is computed of outputs and targets.
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
    waiting: list[NDArray[Any]] = []  # targets of images that the file has not seen yet

    def images() -> Iterator[Images]:
        for batch, of_batch in batches:
            if list(batch.shape[1:]) != list(declared.shape[1:]):
                raise ValueError(f"the file takes images {declared.shape[1:]}, given were {list(batch.shape[1:])}")
            waiting.append(of_batch)
            yield np.ascontiguousarray(batch, dtype=np.float32)

    rows = []
    for batch, n in fixed_batches(images(), declared.shape[0]):
        outputs = np.asarray(session.run(None, {declared.name: batch})[0])[:n]
        targets = np.concatenate(waiting)
        waiting[:] = [targets[n:]]
        rows.append(metric.rows(torch.from_numpy(outputs), torch.from_numpy(targets[:n])))
    if not rows:
        raise ValueError("a score needs at least one batch of images; got none")
    return float(metric.summary(torch.cat(rows)))
