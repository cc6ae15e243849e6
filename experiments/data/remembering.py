"""The images that a run began with: which belong to which split never changes, whatever is removed or added later."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.data.image_data import Split
from experiments.data.image_files import ImageFiles
from experiments.data.splits import FoundImages, ImageSplit
from supernet.files import replacing

__all__ = ["as_begun"]

_MOST_GONE = 0.1  # share of the images; with more of them gone it is not the same data


def as_begun(found: FoundImages, settings: str, path: Path) -> FoundImages:
    """The splits as they were when this was first called for `path`, where they are kept; at first those given.

    Images that are gone since then are `absent` and keep their places, so that a training goes on exactly; images that
    have come are left out, and said.

    Args:
        found: what is there now.
        settings: all that decides on the splits; with others, it begins anew.
        path: a .npz file in the folder of the run.

    Raises:
        ValueError: a tenth of the images and more is gone.
    """
    if not all(isinstance(split.source, ImageFiles) for split in found.splits.values()):
        return found
    kept = _load(path, settings)
    if kept is None:
        arrays: dict[str, np.ndarray] = {"settings": np.array(settings)}
        for name, split in found.splits.items():
            arrays |= {
                f"{name}.names": _keys(split),
                f"{name}.labels": split.labels,
                f"{name}.digest": np.array(split.digest),
            }
        with replacing(path) as temporary:
            np.savez_compressed(temporary, **arrays)  # pyright: ignore[reportArgumentType]
        return found
    return _again(found, kept)


def _again(found: FoundImages, kept: dict[str, np.ndarray]) -> FoundImages:
    rows = {}
    for split in found.splits.values():
        for key, row in zip(_keys(split).tolist(), split.rows.tolist(), strict=True):
            rows[key] = (split.source, row)
    splits: dict[Split, ImageSplit] = {}
    known, n_gone, n_all = set(), 0, 0
    for name, split in found.splits.items():
        names = kept[f"{name}.names"].tolist()
        known.update(names)
        gone = np.array([place for place, key in enumerate(names) if key not in rows], np.int64)
        n_gone, n_all = n_gone + len(gone), n_all + len(names)
        sources = {id(rows[key][0]): rows[key][0] for key in names if key in rows}
        if len(sources) > 1:  # one index per split: what a split holds cannot have come from another
            return found
        places = np.array([rows[key][1] if key in rows else 0 for key in names], np.int64)
        splits[name] = ImageSplit(
            next(iter(sources.values()), split.source),
            places,
            kept[f"{name}.labels"],
            gone,
            str(kept[f"{name}.digest"]),
        )
    if n_gone > _MOST_GONE * n_all:
        raise ValueError(
            f"data: {n_gone} of the {n_all} images that this run began with are not in data.root any more; give the "
            "folder that has them, or begin a new run with --out"
        )
    come = sum(key not in known for key in rows)
    left_out = (*found.left_out, *([f"{come} images that came after the run had begun"] if come else []))
    return replace(found, splits=splits, left_out=left_out)


def _keys(split: ImageSplit) -> NDArray[np.bytes_]:
    """What tells an image of a split from all others: its name and, in tar files, that of the file."""
    source = split.source
    assert isinstance(source, ImageFiles)
    names, files, sizes = source.names[split.rows], source.files[split.rows], source.sizes[split.rows]
    tars = [os.path.basename(path) for path in source.paths.tolist()] if (sizes >= 0).any() else []
    return np.array(
        [
            name if size < 0 else tars[file] + b": " + name
            for name, file, size in zip(names.tolist(), files.tolist(), sizes.tolist(), strict=True)
        ],
        np.bytes_,
    )


def _load(path: Path, settings: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files} if str(file["settings"]) == settings else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
