"""Which class an image is of: the folder that it lies in, or what a CSV file of labels says."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.data.image_data import Split
from experiments.data.locating import is_filler, split_of

__all__ = ["folder_classes", "labels_from_csv"]

_COLUMNS = {
    "file": ("file", "filename", "file_name", "image", "path", "filepath", "image_path", "name"),
    "label": ("label", "class", "target", "category", "class_name", "label_name"),
    "split": ("split", "set", "subset", "fold"),
}


def folder_classes(names: Sequence[str], prefix: str, root: str) -> dict[str, str]:
    """The class of every image below `prefix` that is in a class folder; images beside those folders are left out.

    All of them must lie equally deep. Then the class is the folder that an image lies in; where that is called
    ``images`` or the like in all of them, it is the one above it.

    Raises:
        ValueError: no class folders, folders within class folders, or two class folders of one name.
    """
    where = f"data: {root}" + (f"/{prefix.rstrip('/')}" if prefix else "")
    inside = {name: name[len(prefix) :].split("/")[:-1] for name in names if name.startswith(prefix)}
    classed = {name: parts for name, parts in inside.items() if parts}
    if inside and not classed:
        raise ValueError(
            f"{where} has {len(inside)} images outside of class folders, such as {next(iter(inside))}, so they have no "
            "class; make one folder per class there, or give data.labels, a CSV file of files and labels"
        )
    depths = {len(parts): name for name, parts in reversed(classed.items())}
    if len(depths) > 1:
        low, high = min(depths), max(depths)
        raise ValueError(
            f"{where} has images {low} and {high} folders deep, such as {depths[low]} and {depths[high]}; put those of "
            "a class into one folder, all equally deep"
        )
    tails = {tuple(parts[1:]) for parts in classed.values()}
    if len(tails) == 1 and all(map(is_filler, next(iter(tails)))):
        return {name: parts[0] for name, parts in classed.items()}
    places: dict[str, list[str]] = {}
    for parts in classed.values():
        places.setdefault(parts[-1], parts)
        if places[parts[-1]] != parts:
            raise ValueError(
                f"{where} has two class folders {parts[-1]}, {'/'.join(places[parts[-1]])} and {'/'.join(parts)}: is "
                "that one class or two? Rename one of them, or put their images together; if they are splits, have "
                "the folders of the classes inside of those of the splits"
            )
    return {name: parts[-1] for name, parts in classed.items()}


def labels_from_csv(path: Path, names: Sequence[str]) -> tuple[dict[str, str], dict[str, Split] | None]:
    """The class of every image that a CSV file lists, and its split, if the file has a column for that.

    The first line has the names of the columns: ``file`` (relative to the root), ``label`` and, if wanted, ``split``;
    usual other names of these are known. Commas, semicolons or tabs, with or without a byte order mark.

    Args:
        path: the file.
        names: of the images that are there, relative to the root.

    Raises:
        ValueError: it cannot be read, a column is missing, or it names a file that is not there or is there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"data.labels {path} cannot be read: {error.strerror}") from error
    except ValueError:
        raise ValueError(f"data.labels {path} is not UTF-8; save it as CSV UTF-8") from None
    first = text.partition("\n")[0]
    separator = max((",", ";", "\t"), key=first.count)
    rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(row)]
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    columns = {}
    for what, known in _COLUMNS.items():
        columns[what] = next((head.index(name) for name in known if name in head), None)
        if columns[what] is None and what != "split":
            raise ValueError(
                f"data.labels {path}: no column {what!r} in its first line {first.strip()[:80]!r}; name the columns "
                "file, label and, if wanted, split"
            )
    known_names = _by_any_name(names)
    classes: dict[str, str] = {}
    splits: dict[str, Split] = {}
    for line, row in enumerate(rows[1:], 2):
        cells = {what: row[at].strip() for what, at in columns.items() if at is not None and at < len(row)}
        name = known_names.get(cells.get("file", "").replace("\\", "/").removeprefix("./"))
        if not cells.get("label") or name is None:
            trouble = (
                "has no label" if name is not None else f"names {cells.get('file', '')!r}, and there is no such image"
            )
            raise ValueError(f"data.labels {path}, line {line} {trouble} in data.root; correct or remove the line")
        if classes.get(name, cells["label"]) != cells["label"]:
            raise ValueError(f"data.labels {path}, line {line}: {name} is {classes[name]} and {cells['label']}")
        classes[name] = cells["label"]
        if columns["split"] is not None:
            split = split_of(cells.get("split", ""))
            if split is None or splits.get(name, split) != split:
                raise ValueError(
                    f"data.labels {path}, line {line}: split {cells.get('split', '')!r} must be one of train, "
                    "validation and test, and one only for a file"
                )
            splits[name] = split
    return classes, splits if columns["split"] is not None else None


def _by_any_name(names: Sequence[str]) -> Mapping[str, str]:
    """Images by their path below the root and, where that is theirs alone, by the name of the file with and without
    its ending."""
    known: dict[str, str | None] = {}
    for name in names:
        file = name.rpartition("/")[2]
        for short in {file, file.rpartition(".")[0]}:
            known[short] = None if short in known else name
    unique = {short: name for short, name in known.items() if name is not None}
    return unique | {name: name for name in names}
