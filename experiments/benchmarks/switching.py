"""python experiments/benchmarks/switching.py FOLDER [--build ofa_mobilenetv3_w1.0]

What do levels cost and give that are switched while they run (`supernet export RUN --levels 4 --out FOLDER`)? The
memory of one process with the largest level alone, with all levels, and with all of them lean; what a switch adds to a
call; how much longer lean calls take; and how many requests are answered in time, and right, when these come now
slowly, now faster than the largest level can answer them, by every level alone and by the dispatcher.

`--build` first writes FOLDER with four levels of a supernet of that size with random weights: for memory and times it
does not matter what they say. Times are medians of interleaved calls.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from supernet.files import read_json, write_json

_SCRIPT = Path(__file__).parents[1] / "run_levels.py"
_MEMORY = """
import sys, importlib.util
spec = importlib.util.spec_from_file_location("levels", sys.argv[1] + "/levels.py")
levels = importlib.util.module_from_spec(spec)
spec.loader.exec_module(levels)
def used():
    rows = dict(line.split()[:2] for line in open("/proc/self/smaps_rollup").readlines()[1:])
    return int(rows["Pss:"]) * 1024
before = used()
kept = levels.Levels(sys.argv[1], lean=sys.argv[2] == "lean")
print(used() - before)
"""


def build(name: str, folder: Path) -> None:
    """Four nested levels of a supernet with random weights, as `supernet export --levels` writes those of a run."""
    from hardware.onnx.export import export_with_factors
    from hardware.onnx.sharing import SharedWeights
    from supernet import create_supernet
    from supernet.space.nested import NestedFamily

    supernet, shared, rows = create_supernet(name, 1000, 3, seed=0), SharedWeights("weights.bin"), []
    folder.mkdir(parents=True)
    for arch in reversed(NestedFamily.between(supernet.space, 4).levels):
        shape = (1, 3, arch.resolution, arch.resolution)
        model, factors = export_with_factors(supernet.extract(arch).eval(), shape)
        (folder / f"{arch.id}.onnx").write_bytes(shared.add(model, factors))
        rows.append({"id": arch.id, "file": f"{arch.id}.onnx", "latency": {"seconds": 1.0}})
    shared.write(folder)
    told = {"levels": rows[::-1], "input": {"side": max(supernet.space.resolutions), "channels": 3}}
    write_json(folder / "levels.json", {**told, "device": {"threads": 1, "batch_size": 1}})
    shutil.copyfile(_SCRIPT, folder / "levels.py")


def dispatcher(folder: Path) -> Any:
    """The module of the folder."""
    spec = importlib.util.spec_from_file_location("levels", folder / "levels.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def memory(folder: Path, largest_alone: bool, way: str) -> float:
    """Bytes that loading levels, and a few calls of each, add to a process; what is mapped twice counts once."""
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        if largest_alone:
            told = read_json(folder / "levels.json")
            write_json(Path(copy) / "levels.json", {**told, "levels": told["levels"][-1:]})
        command = [sys.executable, "-c", _MEMORY, copy, way]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def times(levels: Any, images: Any, n: int) -> tuple[list[float], float]:
    """Median seconds of a call of every level that ran last as well, and what is added after another level."""
    stayed: list[list[float]] = [[] for _ in levels.levels]
    switched: list[list[float]] = [[] for _ in levels.levels]
    for _ in range(n):
        for number in range(len(levels.levels)):
            for kept in (switched, stayed):  # the first call of two comes after another level
                started = perf_counter()
                levels(images, level=number)
                kept[number].append(perf_counter() - started)
    medians = [statistics.median(kept) for kept in stayed]
    return medians, statistics.mean(
        statistics.median(kept) - median for kept, median in zip(switched, medians, strict=True)
    )


def arrivals(gaps: Sequence[float], seconds: float) -> list[float]:
    """When requests come, in seconds: for half a second after every `gaps[0]`, for the next after `gaps[1]`, ..."""
    found, at = [], 0.0
    while at < seconds:
        found.append(at)
        at += gaps[int(at / 0.5) % len(gaps)]
    return found


def serve(levels: Any, images: Any, arrived: Sequence[float], patience: float, level: int | None) -> list[int]:
    """The level that answered each request within `patience` seconds, or -1. Requests are answered one after the other;
    without a level the budget of a call is the time that is left for a request, shared with those that wait already."""
    began, answers, seen = perf_counter(), [], 0
    for number, at in enumerate(arrived):
        while (now := perf_counter() - began) < at:
            pass
        while seen < len(arrived) and arrived[seen] <= now:
            seen += 1
        left = at + patience - now
        if left <= 0:
            answers.append(-1)
            continue
        _, used = levels(images, left / (seen - number) if level is None else None, level=level)
        answers.append(used if perf_counter() - began <= at + patience else -1)
    return answers


def under_load(levels: Any, images: Any, gaps: Sequence[float], patience: float, n: int) -> list[dict[str, Any]]:
    """Share of requests that are answered in time, and answered in time and right, by every level alone and by the
    dispatcher: `n` times two seconds of each, in turns."""
    ways: list[int | None] = [*range(len(levels.levels)), None]
    answers: dict[int | None, list[int]] = {way: [] for way in ways}
    for _ in range(n):
        for way in ways:
            answers[way] += serve(levels, images, arrivals(gaps, 2.0), patience, way)
    scores = [*(level["accuracy"]["test"] for level in levels.levels), 0.0]  # -1 is the last
    return [
        {
            "way": "the dispatcher" if way is None else f"level {way + 1} alone",
            "in time": float(np.mean(np.array(found) >= 0)),
            "right": float(np.mean([scores[answer] for answer in found])),
            "levels": [f"{found.count(number) / len(found):.0%}" for number in range(len(levels.levels))],
        }
        for way, found in answers.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `supernet export --levels` wrote")
    parser.add_argument("--build", metavar="SUPERNET", help="write the folder first, with random weights")
    parser.add_argument("--calls", type=int, default=200, help="of every level for the times")
    parser.add_argument("--turns", type=int, default=5, help="under load: so many times two seconds of every way")
    options = parser.parse_args()
    if options.build:
        build(options.build, options.folder)
    console = Console(width=110, highlight=False)
    for alone, way in product((True, False), ("copies", "lean")):
        words = f"{'the largest alone' if alone else 'all levels'}{', lean' if way == 'lean' else ''}"
        console.print(f"memory of {words}: {memory(options.folder, alone, way) / 1e6:.1f} MB")
    module = dispatcher(options.folder)
    levels, lean = module.Levels(options.folder), module.Levels(options.folder, lean=True)
    told = levels.told
    shape = (told["device"]["batch_size"], told["input"]["channels"], *[told["input"]["side"]] * 2)
    images = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    plain, slow = [], []
    for _ in range(4):  # in turns, so that both see the same machine
        plain.append(times(levels, images, options.calls // 4))
        slow.append(times(lean, images, options.calls // 4))
    medians = np.median([found[0] for found in plain], axis=0)
    factors = np.median([np.array(b[0]) / np.array(a[0]) for a, b in zip(plain, slow, strict=True)], axis=0)
    console.print(f"a call of each level: {', '.join(f'{1e3 * s:.3g}' for s in medians)} ms, lean "
                  f"{', '.join(f'{factor:.2f}' for factor in factors)} times as long")  # fmt: skip
    console.print(f"a switch adds {1e6 * statistics.median(found[1] for found in plain):.1f} µs")
    if options.build:
        return
    levels.seconds = medians.tolist()  # here and now; those of levels.json are of the device that it names
    most = float(medians[-1])
    gaps, patience = [2 * most, 0.7 * most], 50 * most  # a stall of a busy machine takes milliseconds
    table = Table("", "in time", "in time and right", "answered by each level", box=None)
    for row in under_load(levels, images, gaps, patience, options.turns):
        table.add_row(row["way"], f"{row['in time']:.1%}", f"{row['right']:.1%}", " ".join(row["levels"]))
    often = " and ".join(f"{1e6 * gap:.0f}" for gap in gaps)
    console.print(f"a request every {often} µs, half a second each; an answer counts within {1e6 * patience:.0f} µs:")
    console.print(table)


if __name__ == "__main__":
    main()
