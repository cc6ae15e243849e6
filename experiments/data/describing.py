"""What a person wants to know of a data set before anything is trained on it."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
from PIL import Image

from experiments.data.image_data import Split
from experiments.data.image_files import ImageFiles
from experiments.data.listing import extension
from experiments.data.splits import FoundImages, ImageSplit

__all__ = ["describe"]

_SHOWN = 12  # classes
_SIZED = 32  # images of a split whose size is looked up


def describe(found: FoundImages) -> list[str]:
    """Per split images, classes and formats; how splits came about; what was left out and cannot be read."""
    lines = []
    for name, split in found.splits.items():
        come = f", taken out of {found.carved[name]}" if name in found.carved else ""
        absent = f", {len(split.absent)} of them cannot be read and are skipped" if len(split.absent) else ""
        formats = _formats(split)
        lines.append(f"{name}: {len(split)} images{absent}{formats}{come}")
    lines += _classes(found)
    lines += [f"left out: {line}" for line in found.left_out]
    for name, split in found.splits.items():
        shown = [split.name(place) for place in split.absent[:3].tolist()]
        if shown:
            more = f" and {len(split.absent) - 3} more" if len(split.absent) > 3 else ""
            lines.append(f"skipped in {name}: {', '.join(shown)}{more}")
    return lines


def _formats(split: ImageSplit) -> str:
    if not isinstance(split.source, ImageFiles):
        return ""
    names = split.source.names[split.rows[split.readable]].tolist()
    endings = Counter(extension(name.decode(errors="replace")) for name in names)
    listed = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(4))
    sizes = [
        size for place in split.readable[:: max(1, len(names) // _SIZED)].tolist() if (size := _size(split, place))
    ]
    if not sizes:
        return f" ({listed})"
    few, many = min(sizes, key=_area), max(sizes, key=_area)
    sized = "×".join(map(str, few)) + ("" if few == many else f" to {'×'.join(map(str, many))}")
    return f" ({listed}; {sized} pixels in {len(sizes)} of them)"


def _size(split: ImageSplit, place: int) -> tuple[int, int] | None:
    """Width and height as the head of the file says; None where it has none."""
    assert isinstance(split.source, ImageFiles)
    try:
        with Image.open(io.BytesIO(split.source.content(int(split.rows[place])))) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _classes(found: FoundImages) -> list[str]:
    n_classes = max(int(split.labels.max()) + 1 for split in found.splits.values())
    counts: dict[Split, np.ndarray] = {
        name: np.bincount(split.labels[split.readable], minlength=n_classes) for name, split in found.splits.items()
    }
    train = counts["train"]
    names = found.classes or tuple(map(str, range(n_classes)))
    listed = [
        f"{names[label]} {'+'.join(str(of_split[label]) for of_split in counts.values())}"
        for label in np.argsort(-train, kind="stable")[:_SHOWN].tolist()
    ]
    more = f", and {n_classes - _SHOWN} more" if n_classes > _SHOWN else ""
    lines = [f"{n_classes} classes, images in {' + '.join(counts)}: {', '.join(listed)}{more}"]
    for split, of_split, words in (
        ("train", train, "are never trained"),
        ("test", counts["test"], "are not tested"),
    ):
        lacking = [names[label] for label in np.flatnonzero(of_split == 0).tolist()]
        if lacking:
            shown = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
            lines.append(f"classes without an image in {split}, which {words}: {shown}")
    if train.min() and train.max() >= 10 * train.min():
        lines.append(
            f"the largest class has {train.max() / train.min():.0f} times the training images of the smallest; "
            "data.balanced = true shows every class equally often"
        )
    return lines
