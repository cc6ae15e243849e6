"""Sub-networks in 8-bit integers: their files, made with real images, and the accuracy that these keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.onnx_accuracy import onnx_accuracy
from hardware.onnx_export import export_onnx
from hardware.quantization import quantize_onnx
from hardware.store import Score
from supernet.architecture import Architecture
from supernet.images import resize

__all__ = ["compare_precisions", "file_accuracy", "quantized_file"]

Split = Literal["validation", "test"]


def quantized_file(run: RunFolder, scorer: Scorer, arch: Architecture, batch_size: int) -> bytes:
    """The ONNX file of a sub-network in int8, its activations' ranges from training images."""
    shape = (batch_size, run.data.in_channels, arch.resolution, arch.resolution)
    model = export_onnx(scorer.subnet(arch), shape)
    images = run.data.calibration_batches(run.recipe.measure.quantization_images, run.recipe.score.batch_size)
    return quantize_onnx(model, (resize(batch, arch.resolution).numpy() for batch in images))


def file_accuracy(run: RunFolder, model: bytes, resolution: int, split: Split) -> float:
    """Top-1 accuracy of an ONNX file on a split, by running the file."""

    def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[np.integer[Any]]]]:
        for images, labels in run.data.evaluation_batches(split, run.recipe.score.batch_size):
            yield resize(images, resolution).numpy(), labels.numpy()

    return onnx_accuracy(model, batches())


def compare_precisions(run: RunFolder, report: Reporter) -> None:
    """Say what the smallest and the largest sub-network lose on validation where a device computes in int8.

    Nothing where no device does, or as long as the supernet is not trained.
    """
    batch_sizes = {device.batch_size for device in run.recipe.devices if device.precision == "int8"}
    if not batch_sizes or not run.weights.exists():
        return
    scorer, space = Scorer(run), run.supernet.space
    # The batch size changes the shapes in the file and not what it computes.
    archs, batch_size = [space.smallest, space.largest], max(batch_sizes)
    exact = scorer.score(archs, "validation", report)
    digest = f"{scorer.digest}-int8-{run.recipe.measure.quantization_images}"
    with run.store() as store:
        for name, arch in zip(("smallest", "largest"), archs, strict=True):
            if not store.has_score(arch.id, digest, "validation"):
                model = quantized_file(run, scorer, arch, batch_size)
                accuracy = file_accuracy(run, model, arch.resolution, "validation")
                store.add_score(Score(arch.id, digest, "validation", {"accuracy": accuracy}))
            quantized = store.score(arch.id, digest, "validation").metrics["accuracy"]
            report.say(
                f"  int8: the {name} sub-network has {quantized:.1%} on validation, "
                f"{exact[arch.id].metrics['accuracy']:.1%} in fp32"
            )
