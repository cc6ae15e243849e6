"""Where the recipe of a run lay when it was started: relative paths in it are seen from there."""

from __future__ import annotations

import os
from pathlib import Path

from experiments.data.locating import resolved_root
from experiments.settings.sections import DataSettings
from supernet.files import read_json, write_json

__all__ = ["data_in_place", "in_place", "write_origin"]

_NAME = "origin.json"


def write_origin(recipe_path: Path, run: Path) -> None:
    """Write down where the recipe lies, by itself and as seen from the run."""
    folder = recipe_path.resolve().parent
    origin = {"folder": str(folder), "from_run": os.path.relpath(folder, run.resolve())}
    if not (run / _NAME).exists() or read_json(run / _NAME) != origin:
        write_json(run / _NAME, origin)


def data_in_place(settings: DataSettings, run: Path | None = None, recipe_path: Path | None = None) -> DataSettings:
    """[data] with its root where it is now: a relative one is seen from the folder of the recipe, or wherever that is
    as seen from the run, else from the folder in which one works."""
    if settings.root is None:
        return settings
    folders = [recipe_path.resolve().parent, Path.cwd()] if recipe_path is not None else _folders(run)
    return settings.model_copy(update={"root": resolved_root(settings.root, folders)})


def in_place(path: str, run: Path) -> Path:
    """A file that the recipe of a run names, seen from where its data are: the first place where there is one."""
    places = [folder / path for folder in _folders(run)]
    return next((place for place in places if place.exists()), places[0])


def _folders(run: Path | None) -> list[Path]:
    """From where relative paths of the recipe of a run are seen."""
    if run is None or not (run / _NAME).exists():
        return [Path.cwd()]
    origin = read_json(run / _NAME)
    return [Path(origin["folder"]), run / origin["from_run"], Path.cwd()]
