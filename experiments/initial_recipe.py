"""A first recipe for a folder of images: what is in it decides, and every key left alone stands in a comment."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from experiments.settings.devices import DeviceSettings, MeasureSettings
from experiments.settings.engine import EngineSettings
from experiments.settings.recipe import parse_recipe
from experiments.settings.sections import (
    BaselineSettings,
    DataSettings,
    FitSettings,
    ScoreSettings,
    SearchSettings,
)
from experiments.settings.supernet import MobileNetV3Space
from experiments.settings.training import GradualShrinkingSettings
from supernet.training.collapse import Rollback

__all__ = ["Found", "first_recipe", "look_into"]

_LOOKED_AT = 60  # images whose sizes are read
_LARGEST, _SMALLEST = 224, 16  # pixels
_SEEN = 400_000  # training images of a whole training, about: an hour or two on a few cores where images are small
_WIDTHS = (16, 32, 64, 96, 160)  # of stages
_DEVICE = "cpu"


@dataclass(frozen=True)
class Found:
    """What is in a folder, as far as a first recipe depends on it.

    Attributes:
        n_train: training images.
        n_validation: validation images.
        n_classes: classes.
        side: shorter side of an image in the middle, in pixels.
        grey: whether no image has colours.
    """

    n_train: int
    n_validation: int
    n_classes: int
    side: int
    grey: bool


_RULES_OF_THUMB = """\
# Epochs and learning rates are rules of thumb for so many images, not found by trials on yours: they are the first to
# change where the accuracy disappoints. So are the widths and depths of the space above.
"""


def look_into(folder: Path) -> Found:
    """What is in a folder of images.

    Raises:
        ValueError: it is none, or nothing tells what its splits and classes are.
    """
    from experiments.data import create_data
    from experiments.data.timm_data import TimmData

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give one with images, such as one folder per class")
    settings = DataSettings(source="folder", root=str(folder.resolve()), batch_size=1)
    with tempfile.TemporaryDirectory() as notes:
        data = create_data(settings, seed=0, resolution=32, cache_folder=Path(notes))
        assert isinstance(data, TimmData)
        split = data.splits["train"]
        places = np.linspace(0, len(split) - 1, min(_LOOKED_AT, len(split))).astype(int)
        sizes, grey = [], True
        for place in places.tolist():
            try:
                with Image.open(split.name(place)) as image:
                    sizes.append(min(image.size))
                    grey = grey and image.mode in ("1", "L", "LA", "I", "I;16")
            except (OSError, UnidentifiedImageError):  # `supernet data --check` tells which
                continue
        if not sizes:
            raise ValueError(f"not one of {len(places)} images of {folder} can be read; see `supernet data --check`")
        return Found(data.n_images("train"), data.n_images("validation"), data.n_classes, int(np.median(sizes)), grey)


def first_recipe(folder: Path, found: Found, budget: str | None = None) -> str:
    """The text of a recipe: what was chosen for this folder, and every other key with its meaning and default.

    Args:
        budget: the longest latency that is of use, such as ``"5ms"``.

    Raises:
        ValueError: the budget is none.
    """
    resolutions, n_stages = _resolutions(found.side), _n_stages(found.side)
    batch_size = max(2, min(64, found.n_train // 8 // 2 * 2))
    epochs = int(np.clip(round(_SEEN / found.n_train), 6, 40))
    first = max(1, epochs // 5)
    rest, rate = epochs - first, float(f"{0.2 * batch_size / 64:.3g}")
    # By how much the accuracy of few images falls by chance alone: three standard errors, and more is a collapse.
    luck, usual = round(min(0.9, 1.5 / math.sqrt(found.n_validation)), 2), Rollback().margin or 0.0
    chosen: list[tuple[str, type[BaseModel], dict[str, Any]]] = [
        ("[data]", DataSettings, {
            "source": "folder", "root": str(folder.resolve()), "batch_size": batch_size,
            "in_channels": 1 if found.grey else 3, "evaluation_crop": 1.0 if found.side < 64 else 0.875,
        }),
        ("[supernet.space]", MobileNetV3Space, {
            "stages": [_stage(i) for i in range(n_stages)], "kernels": [3, 5], "expands": [2, 3, 4],
            "depths": [1, 2, 3], "resolutions": resolutions, "stem_width": 16, "head_width": 160, "feature_width": 160,
        }),
        (_RULES_OF_THUMB + "[training]", GradualShrinkingSettings, {
            "method": "gradual_shrinking",
            "largest": {"epochs": first, "peak_lr": rate, "warmup_epochs": 1.0 if epochs > 6 else 0.5},
            "schedule": {"epochs": rest, "peak_lr": rate, "warmup_epochs": round(rest / 6, 1)},
        }),
        ("[engine]", EngineSettings, {} if luck < usual else {"rollback": {"margin": luck}}),
        ("[[devices]]", DeviceSettings, {"name": _DEVICE}),
        ("[measure]", MeasureSettings, {"n_architectures": 60}),
        ("[score]", ScoreSettings, {
            "n_architectures": 60, "calibration_images": min(2000, found.n_train // batch_size * batch_size),
        }),
        ("[fit]", FitSettings, {}),
        ("[search]", SearchSettings, {
            "evaluations": 40, **({"constraints": [f"latency@{_DEVICE} <= {budget}"]} if budget else {}),
        }),
        ("[baselines]", BaselineSettings, {}),
    ]  # fmt: skip
    kind = "grey" if found.grey else "colour"
    head = (
        f"# Made by `supernet init` for {found.n_train:,} training {kind} images of {found.n_classes} classes, about "
        f"{found.side} pixels.\n# What stands in a comment is left at its default. All keys: docs/recipe.md.\n"
        f"title = {json.dumps(folder.resolve().name)}\nseed = 0\n"
    )
    text = "\n".join([head, *("\n".join(_section(*one)) + "\n" for one in chosen)])
    parse_recipe(text, folder)  # what we write can be read, and a budget that is none is told
    return text


def _resolutions(side: int) -> list[int]:
    """Three sizes up to that of the images, multiples of four, or of 32 for large ones."""
    step = 32 if side >= 128 else 4
    largest = max(_SMALLEST, min(_LARGEST, side) // step * step)
    return sorted({max(8, int(largest * share) // 4 * 4) for share in (0.7, 0.85, 1.0)})


def _n_stages(side: int) -> int:
    """So many halvings, beside the stem's, that the smallest map still has about four pixels a side."""
    smallest = _resolutions(side)[0]
    return int(np.clip(math.log2(smallest / 4) - 1, 2, len(_WIDTHS)))


def _stage(number: int) -> dict[str, Any]:
    return {"width": _WIDTHS[number], "stride": 2, "se": number > 0, "act": "relu" if number == 0 else "hard_swish"}


def _section(title: str, model: type[BaseModel], chosen: Mapping[str, Any]) -> Iterator[str]:
    """A section: chosen keys first, then the others as comments."""
    yield f"\n{title}"
    fields = model.model_fields
    for name in (*chosen, *(name for name in fields if name not in chosen)):
        description = " ".join((fields[name].description or "").split())
        if name in chosen:
            yield from wrap(description, 116, initial_indent="# ", subsequent_indent="# ")
            yield f"{name} = {_toml(chosen[name])}"
            continue
        default = fields[name].get_default(call_default_factory=True)
        if isinstance(default, BaseModel):
            shown = f"{name} = {_toml(default.model_dump())}"
        elif default is None or default is PydanticUndefined:
            shown = f"{name} = ..."
        else:
            shown = f"{name} = {_toml(default)}"
        yield from wrap(f"{shown}   # {description}", 116, initial_indent="# ", subsequent_indent="#   # ")


def _toml(value: Any) -> str:
    """A value as TOML writes it; texts, numbers, truths and lists as JSON does."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_toml(one)}' for key, one in value.items() if one is not None)} }}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
