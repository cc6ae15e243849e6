"""Which folders and files hold which split: found by their names, or refused, and never guessed."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from experiments.data.image_data import SPLITS, Split
from experiments.data.listing import is_hidden

__all__ = [
    "HELD_OUT",
    "SPLIT_NAMES",
    "existing_root",
    "find_shards",
    "find_splits",
    "is_filler",
    "resolved_root",
    "split_of",
]

SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train", "training", "trn"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "tst"),
}
HELD_OUT: tuple[Split, ...] = ("validation", "test")

_FILLERS = "images?|imgs?|pictures?|photos?|data|datasets?|sets?|splits?|folders?|files?"


def _pattern(names: Sequence[str]) -> re.Pattern[str]:
    return re.compile(f"(?:{_FILLERS})*(?:{'|'.join(names)})(?:{_FILLERS})*")


def is_filler(name: str) -> bool:
    """Whether a folder of this name says nothing of what is in it, as ``images`` or ``data``."""
    return re.fullmatch(f"(?:{_FILLERS})+", re.sub("[^a-z]", "", name.lower())) is not None


def split_of(name: str) -> Split | None:
    """The split that a folder of this name holds, as ``Train``, ``training-set`` or ``images_val2017`` do."""
    letters = re.sub("[^a-z]", "", name.lower())
    return next((split for split, names in SPLIT_NAMES.items() if _pattern(names).fullmatch(letters)), None)


def find_splits(names: Sequence[str], root: str, folders: Mapping[Split, str] | None = None) -> dict[Split, str]:
    """The folder of each split that is there, "train" first, as what the names of its images begin with.

    A folder that has one folder and nothing else is looked into. Where nothing is named like a split, everything is
    for training, and the prefix is that of the folder of the classes.

    Args:
        names: of all images, relative to the root, with "/".
        root: for messages.
        folders: which folder is which split, relative to the root ("." is the root), instead of looking for them.

    Raises:
        ValueError: no training split, two folders for one split, images beside the splits, or folders of which nobody
            can tell whether they are splits or classes.
    """
    if folders:
        return _given(names, root, folders)
    prefix = ""
    while True:
        inside = [name[len(prefix) :] for name in names if name.startswith(prefix)]
        children = Counter(name.partition("/")[0] for name in inside if "/" in name)
        named = _named(children)
        if named:
            break
        only = next(iter(children), "")
        if len(children) != 1 or any(name.count("/") == 1 for name in inside):
            return {"train": prefix}
        prefix += f"{only}/"
    where = f"data.root {root}" + (f", folder {prefix.rstrip('/')}" if prefix else "")
    if others := [name for name in children if name not in named]:
        shown = ", ".join(sorted(others)[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        counted = sum(children[name] for name in others)
        raise ValueError(
            f"{where} has {', '.join(sorted(named))} and beside that {shown} with {counted} images, of which nobody "
            "can tell whether they are splits or classes: move what does not belong there away, or say which folders "
            f"count: data.folders = {{ train = {min(named)!r} }} for splits, {{ train = '.' }} if all are classes"
        )
    found: dict[Split, str] = {}
    for split in SPLITS:
        there = sorted(name for name, of in named.items() if of == split)
        if len(there) > 1:
            raise ValueError(
                f"{where} has {' and '.join(there)} for {split}; keep one of them, or name one: "
                f"data.folders = {{ {split} = {there[0]!r}, ... }}"
            )
        if there:
            found[split] = f"{prefix}{there[0]}/"
    if "train" not in found:
        raise ValueError(f"{where} has {', '.join(found)} but no train; name the training folder 'train'")
    return found


def _named(children: Iterable[str]) -> dict[str, Split]:
    """The split of every folder that is named like one: ``train``, or ``birds-train`` beside ``birds-test``."""
    named: dict[str, Split] = {}
    for child in children:
        if (split := split_of(child)) is not None:
            named[child] = split
    if named:
        return named
    words: dict[str, Split] = {one: split for split, all_words in SPLIT_NAMES.items() for one in all_words}
    families: dict[str, dict[str, Split]] = {}
    for child in children:
        parts = re.findall("[a-z]+|[0-9]+", re.sub("([a-z])([A-Z])", r"\1 \2", child).lower())
        if len(of := [part for part in parts if part in words]) == 1:
            rest = " ".join(part for part in parts if part not in words)
            families.setdefault(rest, {})[child] = words[of[0]]
    return next((family for family in families.values() if len(set(family.values())) > 1), {})


def _given(names: Sequence[str], root: str, folders: Mapping[Split, str]) -> dict[Split, str]:
    if "train" not in folders:
        raise ValueError("data.folders names no train; say which folder is for training")
    found: dict[Split, str] = {}
    for split in SPLITS:
        given = folders.get(split)
        if given is None:
            continue
        folder = given.replace("\\", "/").strip("/").removeprefix("./")
        found[split] = "" if folder in ("", ".") else f"{folder}/"
        if not any(name.startswith(found[split]) for name in names):
            raise ValueError(f"data.folders.{split}: there is no image in {given} of data.root {root}")
    for one, other in itertools.permutations(found, 2):
        if found[other].startswith(found[one]):
            raise ValueError(
                f"data.folders: {folders[other]!r} ({other}) lies in {folders[one]!r} ({one}); an image may be in one "
                "split only"
            )
    return found


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
        base = existing_root(root, "the folder of the shards, or a pattern such as shards/train-{0000..0009}.tar")
        found = _in_folders(base)
    if not found:
        raise ValueError(f"data.root {root} has no .tar file; WebDataset shards are uncompressed .tar files")
    if "train" not in found:
        raise ValueError(f"data.root {root} has {', '.join(found)} but no train; name the training folder 'train'")
    real = {split: {path.resolve() for path in paths} for split, paths in found.items()}
    for one, other in itertools.combinations(real, 2):
        if shared := real[one] & real[other]:
            raise ValueError(f"data: {min(shared)} is in {one} and in {other}; an image may be in one split only")
    return found


def _in_folders(base: Path) -> dict[Split, list[Path]]:
    """Shards in folders that are named after splits, or in one folder, which may be the only one of another."""
    if base.is_file():
        return _by_name([base])
    folders = sorted(path for path in base.iterdir() if path.is_dir() and not is_hidden(path.name))
    holding = {path: shards for path in folders if (shards := _tars(path))}
    here = _tars(base)
    if not holding:
        return _in_folders(folders[0]) if not here and len(folders) == 1 else _by_name(here)
    found: dict[Split, list[Path]] = {}
    for path, shards in holding.items():
        split = split_of(path.name)
        if split is None and len(holding) == 1 and not here:
            return _by_name(shards)
        if split is None or split in found or here:
            what = f"{path.name}, which is named like no split" if split is None else f"{path.name} as well"
            what = f"shards beside the folder {path.name}" if here and split is not None else what
            raise ValueError(f"data.root {base} has {what}; have one folder each for train, val and test there")
        found[split] = shards
    return {split: found[split] for split in SPLITS if split in found}


def _tars(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() == ".tar" and not is_hidden(path.name))


def resolved_root(root: str, folders: Sequence[Path]) -> str:
    """A root that is not absolute, seen from the first of these folders in which it is there; else from the first.

    A pattern of shards is there where the folder of its first brace is.
    """
    if Path(root).is_absolute():
        return root
    fixed = Path(root.partition("{")[0] + "x").parent if "{" in root else Path(root)
    return str(next((folder for folder in folders if (folder / fixed).exists()), folders[0]) / root)


def existing_root(root: str | None, what: str) -> Path:
    """The root as a path.

    Raises:
        ValueError: it is not given or not there; `what` says what to give.
    """
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
