"""Image data for training, scoring and testing: the embedded digits, whatever timm opens, and data of one's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from experiments.data.digits import ComposedDigits
    from experiments.data.own_data import OwnData
    from experiments.data.timm_data import TimmData
    from experiments.settings.sections import DataSettings
    from experiments.settings.supernet import SupernetSettings

__all__ = ["create_data"]


def create_data(
    settings: DataSettings,
    *,
    seed: int,
    resolution: int,
    cache_folder: Path | None = None,
    supernet: SupernetSettings | None = None,
    begun: Path | None = None,
) -> ComposedDigits | TimmData | OwnData:
    """The data of a recipe as images of `resolution` pixels, the largest that a network of the run takes.

    Args:
        settings: the section [data].
        seed: of the run.
        resolution: in pixels.
        cache_folder: where decoded images, if the recipe asks for them, and notes are kept; by default in a temporary
            file.
        supernet: the section [supernet], whose pretrained weights may expect images in their own way.
        begun: a file that remembers which images a run began with; by default nothing is remembered.

    Raises:
        ValueError: there is nothing to read, or not enough for the splits and one batch.
    """
    sizes = {
        name: size
        for name in ("train_images", "validation_images", "test_images")
        if (size := getattr(settings, name)) is not None
    }
    if settings.source == "digits":
        from experiments.data.digits import ComposedDigits

        return ComposedDigits(seed, resolution, settings.batch_size, **sizes)

    if settings.is_own:
        from experiments.data.own_data import open_own_data

        own = open_own_data(
            settings.source, settings.options, seed=seed, resolution=resolution, batch_size=settings.batch_size
        )
        _check_steps(own, settings)
        return own

    from experiments.data.checking import skipping_damaged
    from experiments.data.preprocessing import preprocessing
    from experiments.data.remembering import as_begun
    from experiments.data.splits import open_splits
    from experiments.data.timm_data import TimmData

    how = preprocessing(settings, supernet)
    found = open_splits(
        settings.source,
        settings.root,
        seed=seed,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        limits={"train": settings.train_images, "validation": settings.validation_images, "test": settings.test_images},
        cache_folder=cache_folder,
        folders=settings.folders,
        labels=settings.labels,
    )
    if begun is not None:
        found = as_begun(found, f"{seed} {settings.digest_of_splits}", begun)
    if settings.on_damaged == "skip":
        mode = "L" if settings.in_channels == 1 else "RGB"
        found = replace(found, splits=skipping_damaged(found.splits, mode, how.upright, cache_folder))
    data = TimmData(
        found,
        seed,
        resolution,
        settings.batch_size,
        settings.in_channels,
        settings.workers,
        settings.augmentation,
        how,
        settings.cache,
        cache_folder,
        settings.shuffle_shards,
        settings.balanced,
    )
    _check_steps(data, settings)
    if data.n_classes < 2:
        raise ValueError(f"data: {settings.root or settings.source} has one class only; use one folder per class")
    try:
        data.check_transforms()
    except Exception as error:  # whatever timm raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"data.augmentation: timm cannot make these transforms: {reason[:200]}") from error
    return data


def _check_steps(data: TimmData | OwnData, settings: DataSettings) -> None:
    if data.steps_per_epoch == 0:
        raise ValueError(
            f"data: {data.n_images('train')} training images are fewer than one batch of {settings.batch_size}; "
            "lower data.batch_size"
        )
