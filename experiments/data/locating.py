"""Which folders and files hold which split."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from experiments.data.image_data import Split

__all__ = ["HELD_OUT", "SPLIT_NAMES", "find_folders", "find_shards"]

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid"),
    "test": ("test", "testing"),
}
HELD_OUT: tuple[Split, ...] = ("validation", "test")


def find_folders(root: str | None) -> dict[Split, Path]:
    """The folder or .tar file of each split that is there, "train" first.

    Raises:
        ValueError: there is nothing to read, no training split, or a folder in two splits.
    """
    base = _existing(root, "the folder or .tar file of the images, one folder per class")
    if base.is_file() and base.suffix.lower() != ".tar":
        raise ValueError(f"data.root {root} is neither a folder nor a .tar file; unpack it, or pack it as .tar")
    found: dict[Split, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        candidates = [base / name for name in names] + [base / f"{name}.tar" for name in names]
        if there := [path for path in candidates if path.is_dir() or path.is_file()]:
            found[split] = there[:1]
    found = found or {"train": [base]}
    _check(found, root)
    return {split: paths[0] for split, paths in found.items()}


def find_shards(root: str | None) -> dict[Split, list[Path]]:
    """The shards of each split that is there, "train" first, in order of their names.

    `root` is a folder with a folder of shards per split, or with shards whose names have the word train, val or test;
    or a pattern with {0000..0009} and {train,val}. Shards of no split are all for training.

    Raises:
        ValueError: there is nothing to read, no training split, or a shard in two splits.
    """
    if root is not None and "{" in root:
        shards = [Path(path) for path in _expanded(root)]
        if missing := [path for path in shards if not path.is_file()]:
            raise ValueError(f"data.root {root} names {missing[0]}, which does not exist; give the numbers that exist")
        found = _by_name(shards)
    else:
        base = _existing(root, "the folder of the shards, or a pattern such as shards/train-{0000..0009}.tar")
        found = {}
        for split, names in SPLIT_NAMES.items():
            if there := sorted(path for name in names for path in (base / name).glob("*.tar")):
                found[split] = there
        if not found:
            found = _by_name(sorted(base.glob("*.tar")) if base.is_dir() else [base])
    if not found:
        raise ValueError(f"data.root {root} has no .tar file; WebDataset shards are uncompressed .tar files")
    _check(found, root)
    return found


def _existing(root: str | None, what: str) -> Path:
    if not root:
        raise ValueError(f"data.root is missing: {what}")
    if not Path(root).exists():
        raise ValueError(f"data.root {root} does not exist; give {what}")
    return Path(root)


def _by_name(shards: Sequence[Path]) -> dict[Split, list[Path]]:
    words = {path: set(re.findall("[a-z]+", path.stem.lower())) for path in shards}
    found: dict[Split, list[Path]] = {}
    for split, names in SPLIT_NAMES.items():
        if there := [path for path in shards if words[path] & set(names)]:
            found[split] = there
    if shards and not found:
        return {"train": list(shards)}
    named = {path for paths in found.values() for path in paths}
    if unnamed := [path for path in shards if path not in named]:
        raise ValueError(f"data: {unnamed[0]} has no word train, val or test in its name, others have; rename it")
    return found


def _check(found: Mapping[Split, Sequence[Path]], root: str | None) -> None:
    """Raises ValueError where there is no training split, or splits share what they read."""
    if "train" not in found:
        raise ValueError(f"data.root {root} has {', '.join(found)} but no train; name the training folder 'train'")
    real = {split: [path.resolve() for path in paths] for split, paths in found.items()}
    for one, other in itertools.combinations(real, 2):
        if shared := set(real[one]) & {parent for path in real[other] for parent in (path, *path.parents)}:
            raise ValueError(f"data: {min(shared)} is in {one} and in {other}; an image may be in one split only")
        if shared := set(real[other]) & {parent for path in real[one] for parent in path.parents}:
            raise ValueError(f"data: {min(shared)} is in {other} and holds {one}; an image may be in one split only")


def _expanded(pattern: str) -> Iterator[str]:
    """What a shell makes of braces: {000..011} counts with leading zeros, {a,b} lists."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None:
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", brace[1])
    if numbers:
        first, last = numbers.groups()
        parts = [f"{n:0{len(first)}}" for n in range(int(first), int(last) + 1)]
    else:
        parts = brace[1].split(",")
    for part in parts:
        yield from _expanded(pattern[: brace.start()] + part + pattern[brace.end() :])
