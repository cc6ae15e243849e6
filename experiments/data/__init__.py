"""Image data for training, scoring and testing: the embedded digits, whatever timm opens, and data of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from experiments.data.digits import ComposedDigits
    from experiments.data.own_data import OwnData
    from experiments.data.timm_data import TimmData
    from experiments.settings.sections import DataSettings

__all__ = ["create_data"]


def create_data(
    settings: DataSettings, *, seed: int, resolution: int, cache_folder: Path | None = None
) -> ComposedDigits | TimmData | OwnData:
    """The data of a recipe as images of `resolution` pixels, the largest that a network of the run takes.

    Decoded images, if the recipe asks for them, are kept in `cache_folder`; by default in a temporary file.

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

    from experiments.data.splits import open_splits
    from experiments.data.timm_data import TimmData

    splits = open_splits(
        settings.source,
        settings.root,
        seed=seed,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        limits={"train": settings.train_images, "validation": settings.validation_images, "test": settings.test_images},
        cache_folder=cache_folder,
    )
    data = TimmData(
        splits,
        seed,
        resolution,
        settings.batch_size,
        settings.in_channels,
        settings.workers,
        settings.augmentation,
        settings.evaluation_crop,
        settings.cache,
        cache_folder,
        settings.shuffle_shards,
    )
    _check_steps(data, settings)
    if data.n_classes < 2:
        raise ValueError(f"data: {settings.root or settings.source} has one class only; use one folder per class")
    return data


def _check_steps(data: TimmData | OwnData, settings: DataSettings) -> None:
    if data.steps_per_epoch == 0:
        raise ValueError(
            f"data: {data.n_images('train')} training images are fewer than one batch of {settings.batch_size}; "
            "lower data.batch_size"
        )
