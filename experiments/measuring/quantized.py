"""Sub-networks in 8-bit integers: their files, made with real images, and what these score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from experiments.progress import Reporter
from experiments.quantities import quality
from experiments.run_folder import RunFolder
from experiments.scoring.onnx_score import onnx_score
from experiments.scoring.scorer import Scorer
from hardware.onnx.export import export_onnx_of_any_size
from hardware.onnx.quantization import quantize_onnx
from hardware.store.store import Score
from supernet.architecture import Architecture
from supernet.scoring.images import resize

__all__ = ["compare_precisions", "file_score", "int8_scores", "quantized_file", "quantized_model"]

Split = Literal["validation", "test"]


def quantized_file(run: RunFolder, scorer: Scorer, arch: Architecture, batch_size: int) -> bytes:
    """The ONNX file of a sub-network in int8, its activations' ranges from training images."""
    return quantized_model(run, scorer.subnet(arch), arch.resolution, batch_size)


def quantized_model(run: RunFolder, model: nn.Module, resolution: int, batch_size: int) -> bytes:
    """The same of any network on images of the run, in eval mode."""
    shape = (batch_size, run.data.in_channels, resolution, resolution)
    images = run.data.calibration_batches(run.recipe.measure.quantization_images, run.recipe.score.batch_size)
    with TemporaryDirectory() as folder:
        file = export_onnx_of_any_size(model, shape, Path(folder) / "model.onnx")
        return quantize_onnx(file, (resize(batch, resolution).numpy() for batch in images))


def file_score(run: RunFolder, model: bytes | Path, resolution: int, split: Split) -> float:
    """Accuracy of an ONNX file on a split, or the metric of the task, by running the file.

    Raises:
        ValueError: the metric is not finite.
    """

    def batches() -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        for images, targets in run.data.evaluation_batches(split, run.recipe.score.batch_size):
            yield resize(images, resolution).numpy(), targets.numpy()

    metric = run.task.metric
    return metric.checked(onnx_score(model, batches(), metric), f"a file on {split}")


def int8_scores(
    run: RunFolder,
    scorer: Scorer,
    archs: Sequence[Architecture],
    batch_size: int,
    report: Reporter,
    split: Split = "validation",
) -> dict[str, float]:
    """Accuracy or metric on a split, by id, of the int8 files of sub-networks, each made and run once and then stored.

    The batch size changes the shapes in a file and not what it computes.
    """
    digest, name = f"{scorer.digest}-int8-{run.recipe.measure.quantization_images}", run.task.metric.name
    with run.store() as store:
        missing = [arch for arch in dict.fromkeys(archs) if not store.has_score(arch.id, digest, split)]
        with report.bar("scoring int8 files", len(missing)) as advance:
            for done, arch in enumerate(missing, start=1):
                model = quantized_file(run, scorer, arch, batch_size)
                value = file_score(run, model, arch.resolution, split)
                store.add_score(Score(arch.id, digest, split, {name: value}))
                advance(done, quality(run.recipe.kinds).format(value))
        if missing:
            report.say(f"  {len(missing)} int8 files scored on {split}")
        return {arch.id: store.score(arch.id, digest, split).metrics[name] for arch in archs}


def compare_precisions(run: RunFolder, report: Reporter) -> None:
    """Say what the smallest and the largest sub-network lose on validation where a device computes in int8.

    Nothing where no device does, or as long as the supernet is not trained.
    """
    batch_sizes = {device.batch_size for device in run.recipe.devices if device.precision == "int8"}
    if not batch_sizes or not run.weights.exists():
        return
    scorer, space = Scorer(run), run.untrained_supernet.space
    archs = [space.smallest, space.largest]
    exact = scorer.score(archs, "validation", report)
    quantized, shown = int8_scores(run, scorer, archs, max(batch_sizes), report), quality(run.recipe.kinds)
    for name, arch in zip(("smallest", "largest"), archs, strict=True):
        report.say(
            f"  int8: the {name} sub-network has {shown.format(quantized[arch.id])} on validation, "
            f"{shown.format(exact[arch.id].metrics[shown.name])} in fp32"
        )
