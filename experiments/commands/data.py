"""What `supernet data RECIPE` prints."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from experiments.data import create_data
from experiments.data.checking import opened
from experiments.data.timm_data import TimmData
from experiments.origin import data_in_place
from experiments.progress import Reporter
from experiments.settings.recipe import load_recipe

__all__ = ["print_data"]

_SHOWN = 20  # images that cannot be read, of each split


def print_data(recipe_path: Path, check: bool) -> bool:
    """Print what is in the data of a recipe; with `check`, open every image. Returns whether all can be read."""
    recipe = load_recipe(recipe_path)
    settings = data_in_place(recipe.data, recipe_path=recipe_path)
    with tempfile.TemporaryDirectory() as notes:
        data = create_data(
            settings, seed=recipe.seed, resolution=32, cache_folder=Path(notes), supernet=recipe.supernet
        )
        for line in data.description():
            print(line)
        how = data.preprocessing
        if how is not None and recipe.data.is_from_files:
            print(
                f"images: mean {_numbers(how.mean)}, standard deviation {_numbers(how.std)}, "
                f"resized {how.interpolation}, centre crop {how.crop:g}"
                + ("" if how.upright else ", EXIF orientation ignored")
            )
        if not check or not isinstance(data, TimmData):
            return True
        return _checked(data)


def _checked(data: TimmData) -> bool:
    n_damaged, report = 0, Reporter()
    mode = "L" if data.in_channels == 1 else "RGB"
    for name, split in data.splits.items():
        sizes: Counter[tuple[int, int]] = Counter()
        damaged: list[str] = []
        with report.bar(f"opening {name}", len(split)) as advance:
            for done, (_, result) in enumerate(opened(split, mode, data.preprocessing.upright), 1):
                if isinstance(result, str):
                    damaged.append(result)
                else:
                    sizes[result] += 1
                advance(done, "")
        few = ", ".join(f"{n} of {width}×{height}" for (width, height), n in sizes.most_common(4))
        more = f" and {len(sizes) - 4} other sizes" if len(sizes) > 4 else ""
        print(f"{name}: {sum(sizes.values())} images can be read: {few}{more}")
        for line in damaged[:_SHOWN]:
            print(f"  {line}")
        if damaged:
            print(f"{name}: {len(damaged)} images cannot be read; remove them, or set data.on_damaged = 'skip'")
        n_damaged += len(damaged)
    return n_damaged == 0


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
