"""How images become what a network takes: as its pretrained weights expect it, unless a recipe says otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path

from experiments.data.image_data import Preprocessing

if TYPE_CHECKING:
    from experiments.settings.sections import DataSettings
    from experiments.settings.supernet import SupernetSettings

__all__ = ["preprocessing"]


def preprocessing(data: DataSettings, supernet: SupernetSettings | None) -> Preprocessing:
    """Of images from files: what [data] says, else what the weights that the supernet begins with were trained with
    (a pretrained timm model, or another run), else what is usual for ImageNet; one channel takes the mean of three.

    Raises:
        ValueError: mean or std are not as many as the channels.
    """
    usual = _of_weights(supernet) if supernet is not None else None
    mean, std, interpolation = usual or (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, "bicubic")
    if data.in_channels != len(mean):
        mean, std = ((round(sum(values) / len(values), 3),) * data.in_channels for values in (mean, std))
    return Preprocessing(
        mean if data.mean is None else data.mean,
        std if data.std is None else data.std,
        interpolation if data.interpolation is None else data.interpolation,
        data.evaluation_crop,
        data.exif,
    )


def _of_weights(supernet: SupernetSettings) -> tuple[tuple[float, ...], tuple[float, ...], str] | None:
    """Mean, standard deviation and interpolation that the first weights were trained with; None where nobody says."""
    if supernet.timm is not None and supernet.timm.pretrained:
        config = _timm_config(supernet.timm.model)
        if config is None:
            return None
        how = str(config.get("interpolation") or "bicubic")
        return tuple(config["mean"]), tuple(config["std"]), how if how in ("bicubic", "bilinear") else "bicubic"
    if supernet.weights is None or not (recipe := Path(supernet.weights) / "recipe.toml").is_file():
        return None
    from experiments.settings.recipe import load_recipe

    other = load_recipe(recipe)
    if not other.data.is_from_files:
        return None
    found = preprocessing(other.data, other.supernet)
    return found.mean, found.std, found.interpolation


def _timm_config(model: str) -> dict[str, Any] | None:
    """timm's own configuration of pretrained weights, by the name that `timm.create_model` takes."""
    source, _, name = model.rpartition(":")
    if not source:
        config = timm.get_pretrained_cfg(model, allow_unregistered=True)
        return None if config is None else config.to_dict()
    try:
        if source == "local-dir":
            return load_model_config_from_path(name)[0]  # pyright: ignore[reportReturnType]
        return load_model_config_from_hf(name)[0]
    except Exception:  # there is no such model or no network: making the model says so with its reason
        return None
