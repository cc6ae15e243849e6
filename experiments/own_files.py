"""ONNX files of one's own, with which the front is compared: read, checked, and scored by running them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from experiments.measuring.measure import Networks
from experiments.measuring.quantized import file_score
from experiments.origin import in_place
from experiments.run_folder import RunFolder
from hardware.onnx.file_costs import file_costs
from hardware.profiling import Workload
from hardware.store.store import Score

__all__ = ["OwnFile", "file_networks", "own_files", "score_file"]


@dataclass(frozen=True)
class OwnFile:
    """A file as it is measured and scored.

    Attributes:
        key: by which its measurements are known: its name, and a hash of what is in it.
        name: for people.
        content: the file, its weights in it.
        resolution: of the images that it takes, in pixels.
        macs: multiply-accumulates of one image.
        parameters: numbers that are stored in it.
    """

    key: str
    name: str
    content: bytes
    resolution: int
    macs: int
    parameters: int

    @property
    def network(self) -> tuple[str, int]:
        """By which measurements are found."""
        return self.key, self.resolution


def own_files(run: RunFolder) -> list[OwnFile]:
    """The files of ``baselines.onnx``, each tried on a batch of empty images.

    Raises:
        ValueError: a file that is not there or cannot be read, takes something else than the images of the run, does
            not run, or returns something else than one number per class.
    """
    found = [_read(run, given) for given in run.recipe.baselines.onnx]
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"baselines.onnx: two files are called {twice[0]}; the report tells them apart by name")
    return found


def file_networks(run: RunFolder, files: list[OwnFile]) -> Networks:
    """Files to measure, as they are."""
    of = {one.network: one for one in files}
    channels = run.data.in_channels
    return Networks(tuple(of), lambda name: Workload(name[0], of[name].content, name[1], channels))


def score_file(run: RunFolder, one: OwnFile) -> Mapping[str, float]:
    """What a file scores on both splits with the run's own images, by running it in ONNX Runtime, and what it costs.

    Run once and then stored.
    """
    digest, name = json.dumps([run.recipe.digest, "onnx", *filter(None, [run.task.digest])]), run.task.metric.name
    found: dict[str, float] = {"macs": one.macs, "parameters": one.parameters}
    content = _with_batch(ModelProto.FromString(one.content), run.recipe.score.batch_size, one.resolution)
    with run.store() as store:
        for split in ("validation", "test"):
            if not store.has_score(one.key, digest, split):
                value = file_score(run, content.SerializeToString(), one.resolution, split)
                store.add_score(Score(one.key, digest, split, {name: value}))
            found[split] = store.score(one.key, digest, split).metrics[name]
    return found


def _read(run: RunFolder, given: str) -> OwnFile:
    path = in_place(given, run.path)
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"baselines.onnx: {given} cannot be read: {reason}") from error
    try:
        resolution = _resolution(model, run.data.in_channels, run.data.resolution)
        _try(_with_batch(model, 2, resolution), run.data.in_channels, resolution, run)
        macs, parameters = file_costs(_with_batch(model, 1, resolution))
    except ValueError as error:
        raise ValueError(f"baselines.onnx: {given}: {error}") from error
    content = model.SerializeToString()
    digest = hashlib.sha256(content).hexdigest()[:10]
    return OwnFile(f"onnx:{Path(given).stem}:{digest}", Path(given).stem, content, resolution, macs, parameters)


def _resolution(model: ModelProto, channels: int, free: int) -> int:
    """Of the images that a file takes; `free` where it takes any."""
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != TensorProto.FLOAT:
        raise ValueError(f"takes {len(inputs)} inputs or other numbers than float32; one batch of images is needed")
    sizes = [dim.dim_value for dim in inputs[0].type.tensor_type.shape.dim]  # 0 where it is free
    if len(sizes) != 4 or sizes[1] not in (0, channels) or sizes[2] != sizes[3]:
        said = ", ".join(str(size) if size else "any" for size in sizes)
        raise ValueError(f"takes [{said}]; images of this run are [n, {channels}, size, size]")
    return sizes[2] or free


def _with_batch(model: ModelProto, n: int, resolution: int) -> ModelProto:
    """A copy that takes `n` images at a time, or as many as the file has fixed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weights = {one.name for one in copy.graph.initializer}
    (given,) = (one for one in copy.graph.input if one.name not in weights)
    dims = given.type.tensor_type.shape.dim
    for dim, size in zip((dims[0], dims[2], dims[3]), (dims[0].dim_value or n, resolution, resolution), strict=True):
        dim.dim_value = size
    return copy


def _try(model: ModelProto, channels: int, resolution: int, run: RunFolder) -> None:
    weights = {one.name for one in model.graph.initializer}
    (given,) = (one for one in model.graph.input if one.name not in weights)
    n = given.type.tensor_type.shape.dim[0].dim_value
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        images = np.zeros((n, channels, resolution, resolution), dtype=np.float32)
        outputs = np.asarray(session.run(None, {given.name: images})[0])
    except Exception as error:  # onnxruntime's have nothing in common
        raise ValueError(f"does not run on {n} images of {resolution} pixels: {str(error).splitlines()[0]}") from error
    if run.recipe.task is None and outputs.shape != (n, run.n_outputs):
        raise ValueError(f"returns {list(outputs.shape)} for {n} images, not [{n}, {run.n_outputs}]")
