"""Everything that can be known before a training is found out before it."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import timm
import torch
from torch import nn

from experiments.data.image_data import ImageData
from experiments.measuring.devices import create_profiler
from experiments.own_files import own_files
from experiments.run_folder import RunFolder
from experiments.settings.training import NoTrainingSettings
from experiments.task import try_task
from experiments.training.phases import training_phases
from supernet.networks.measured import MeasuredSupernet
from supernet.scoring.calibration import batch_statistics, recalibrate
from supernet.scoring.evaluating import evaluating
from supernet.scoring.images import resize
from supernet.training import AdaptiveSampler

__all__ = ["check_beginning", "check_whole_way", "timm_model"]

_FEWEST = 8  # sub-networks that a predictor learns from
_READY = 5  # batches that every process of the data has in shared memory: those that wait, and the one it makes
_SHARED = Path("/dev/shm")


def check_beginning(run: RunFolder, n_processes: int = 1) -> None:
    """Raises ValueError where networks, data, task and baselines do not go together, or there are not enough images or
    too little memory: now, and not after hours of training.

    Args:
        n_processes: that train together.
    """
    _check_class_weights(run)
    _try_supernet(run)
    _check_models(run)
    _check_images(run, n_processes)
    _check_shared_memory(run, n_processes)


def check_whole_way(run: RunFolder) -> None:
    """Raises ValueError where this machine lacks a device of the recipe, or what its runtime needs, or the space is too
    small to predict anything in it: what training alone does not need."""
    if run.untrained_supernet.space.size < _FEWEST:
        raise ValueError(
            f"the space has {run.untrained_supernet.space.size} sub-networks, and predictors learn from at least "
            f"{_FEWEST}: give more choices"
        )
    for settings in run.recipe.devices:
        try:
            _ = create_profiler(settings).device
        except ValueError as error:
            raise ValueError(
                f"device {settings.name!r}: {error}. Remove it, or train with `supernet train` here and profile where "
                "it is"
            ) from error


def timm_model(run: RunFolder, name: str) -> nn.Module:
    """The timm model `name` for the run's data, with the same first weights whenever it is asked for.

    Raises:
        ValueError: timm has no model of that name, or cannot make it.
    """
    if not timm.is_model(name.split(".")[0]):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:3]
        raise ValueError(f"timm has no model {name!r}" + (f"; there are {', '.join(near)}" if near else ""))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.recipe.seed)
            return timm.create_model(name, num_classes=run.n_outputs, in_chans=run.data.in_channels)
    except Exception as error:  # timm raises whatever comes
        raise ValueError(f"timm cannot make {name!r}: {_line(error)}") from error


def _check_class_weights(run: RunFolder) -> None:
    weights = run.recipe.data.class_weights
    if weights and len(weights) != run.n_outputs:
        raise ValueError(
            f"data.class_weights has {len(weights)} numbers, and there are {run.n_outputs} classes: give one for each, "
            "in the order that `supernet data RECIPE` lists"
        )


def _check_models(run: RunFolder) -> None:
    """Every baseline is made, and runs on an image of the run's size."""
    own_files(run)
    for name in run.recipe.baselines.timm_models:
        model = timm_model(run, name).eval()
        size = run.data.resolution
        try:
            with torch.no_grad():
                outputs = model(torch.zeros(2, run.data.in_channels, size, size))
        except Exception as error:  # whatever its layers say
            fixed = (getattr(model, "pretrained_cfg", None) or {}).get("input_size")
            takes = f" (its own size is {fixed[-1]})" if fixed else ""
            raise ValueError(
                f"baselines.timm_models: {name} does not take images of {size} pixels{takes}: {_line(error)}; remove it"
            ) from error
        if run.recipe.task is None and tuple(outputs.shape) != (2, run.n_outputs):
            raise ValueError(
                f"baselines.timm_models: {name} returns {list(outputs.shape)} for 2 images, not [2, {run.n_outputs}]; "
                "remove it"
            )
        if run.recipe.task is not None:
            try:
                try_task(run, model, name)
            except ValueError as error:
                raise ValueError(
                    f"baselines.timm_models: {error}; timm's models return [n, {run.n_outputs}]: where that is not "
                    "what the task takes, nothing of timm can be compared; remove them"
                ) from error


def _check_images(run: RunFolder, n_processes: int) -> None:
    """There are as many as calibration takes, and every batch is one that BatchNorm can take statistics of."""
    recipe, n_train = run.recipe, run.data.n_images("train")
    wanted = {"score.calibration_images": recipe.score.calibration_images}
    if any(device.precision == "int8" for device in recipe.devices):
        wanted["measure.quantization_images"] = recipe.measure.quantization_images
    for key, n in wanted.items():
        if n > n_train:
            raise ValueError(f"{key} {n} are more than the {n_train} training images; take up to {n_train}")
    supernet, n, size = run.untrained_supernet, recipe.score.calibration_images, recipe.score.batch_size
    arch, last = supernet.space.smallest, (n % size or min(n, size))
    images = torch.rand(last, run.data.in_channels, arch.resolution, arch.resolution)
    try:
        recalibrate(supernet.extract(arch), [images])
    except ValueError as error:
        raise ValueError(
            f"score.calibration_images {n} in batches of {size} leave a last batch of {last}: {_line(error)}; take "
            f"{max(n - last, 2)} images"
        ) from error
    if isinstance(recipe.training, NoTrainingSettings):
        return
    part = recipe.data.batch_size // (n_processes * recipe.engine.accumulation * _check_shares(run, n_processes))
    if part == 1 and not recipe.engine.sync_batch_norm:
        network = supernet.extract(arch)
        try:
            with torch.no_grad(), batch_statistics(network):
                network(images[:1])
        except ValueError as error:
            raise ValueError(
                f"data.batch_size {recipe.data.batch_size} is one image per process and micro-batch: {_line(error)}; "
                "raise it"
            ) from error


def _check_shares(run: RunFolder, n_processes: int) -> int:
    """In how many shares a step's images are at most, where each sub-network has its own; they must be equal."""
    recipe, most = run.recipe, 1
    for phase in training_phases(recipe, run.untrained_supernet):
        if not phase.split_batch or isinstance(phase.sampler, AdaptiveSampler):  # the latter is refused
            continue
        n = len(phase.sampler(phase.space, recipe.seed, 0))
        multiple = n * n_processes * recipe.engine.accumulation
        if recipe.data.batch_size % multiple:
            raise ValueError(
                f"data.batch_size {recipe.data.batch_size} cannot be shared out equally among the {n} sub-networks of "
                f"a step: make it a multiple of {multiple}"
            )
        most = max(most, n)
    return most


def _check_shared_memory(run: RunFolder, n_processes: int) -> None:
    """Batches of the processes that read images pass through shared memory; where that is full, they would hang."""
    data: ImageData = run.data
    if not run.recipe.data.is_from_files or not run.recipe.data.workers or not _SHARED.is_dir():
        return
    local = min(n_processes, max(1, torch.cuda.device_count()))
    images = max(math.ceil(run.recipe.data.batch_size / n_processes) * local, run.recipe.score.batch_size)
    readers = run.recipe.data.workers * (2 if run.recipe.baselines.timm_models else 1)  # baselines train beside it
    needed = readers * _READY * images * data.in_channels * data.resolution**2 * 4
    free = shutil.disk_usage(_SHARED).free
    if needed > free:
        raise ValueError(
            f"data.workers {run.recipe.data.workers} have up to {needed / 1e6:.0f} MB of images in shared memory, and "
            f"{_SHARED} has {free / 1e6:.0f} MB: lower data.workers (0 needs none), data.batch_size or "
            "score.batch_size, or give the container more (docker run --shm-size)"
        )


def _try_supernet(run: RunFolder) -> None:
    """Raises ValueError where a supernet, data or a task of one's own do not go together."""
    supernet, recipe = run.untrained_supernet, run.recipe
    if recipe.task is None and not recipe.data.is_own and not isinstance(supernet, MeasuredSupernet):
        return  # all of it is ours
    arch = supernet.space.smallest
    with evaluating(supernet):
        try_task(run, lambda images: supernet(resize(images, arch.resolution), arch), recipe.supernet.name)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
