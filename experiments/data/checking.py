"""Which images cannot be read: found by opening all of them, and then remembered."""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.data.decoded import files_stamp
from experiments.data.image_data import Split
from experiments.data.splits import ImageSplit
from supernet.files import read_json, write_json

__all__ = ["opened", "skipping_damaged"]


def opened(split: ImageSplit, mode: str, upright: bool) -> Iterator[tuple[int, tuple[int, int] | str]]:
    """Every readable place of a split with the size (width, height) of its image, or with what is wrong with it."""

    def size(place: int) -> tuple[int, int] | str:
        try:
            return split.pixels(place, mode, upright).size
        except (ValueError, OSError) as error:
            return str(error)

    waiting: deque[tuple[int, Future[tuple[int, int] | str]]] = deque()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2) as pool:
        for place in split.readable.tolist():
            waiting.append((place, pool.submit(size, place)))
            if len(waiting) > 64:  # never all of a large data set in memory
                first, future = waiting.popleft()
                yield first, future.result()
        for place, future in waiting:
            yield place, future.result()


def skipping_damaged(
    splits: Mapping[Split, ImageSplit], mode: str, upright: bool, folder: Path | None
) -> dict[Split, ImageSplit]:
    """The same splits with all that cannot be read `absent`. All images are opened for that, once: what was found is
    kept in `folder` until a file changes."""
    found: dict[Split, ImageSplit] = {}
    for name, split in splits.items():
        text = f"{split.digest} {split.absent.tolist()} {files_stamp(split)} {mode} {upright}"
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        note = None if folder is None else folder / f"opened-{key}.json"
        if note is not None and note.exists():
            damaged = [int(row["place"]) for row in read_json(note)]
        else:
            told = {place: result for place, result in opened(split, mode, upright) if isinstance(result, str)}
            damaged = list(told)
            if note is not None:
                rows = [{"place": place, "reason": reason} for place, reason in told.items()]
                write_json(note, json.loads(json.dumps(rows)))
        found[name] = replace(split, absent=np.union1d(split.absent, np.array(damaged, np.int64)))
    return found
