"""How a verb begins: the run it is about, held by this process alone, and a reporter."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.progress import Reporter
    from experiments.run_folder import RunFolder
    from supernet.training import World

__all__ = ["found_run", "open_run", "start"]


def start(recipe: Path, out: Path | None, world: World | None = None) -> tuple[RunFolder, Reporter]:
    """The run of a recipe, started by the first process; by one on every machine where these share no folder."""
    from experiments.lock import hold
    from experiments.run_folder import RunFolder

    path = out or Path("runs") / recipe.stem
    news: list[str] = []
    held: list[object] = []

    def begun() -> bytes:
        if RunFolder.is_run(path):
            held.append(hold(path))  # before anything in it is changed
        news.extend(RunFolder.start(recipe, path).news)
        held[:] = held or [hold(path)]
        return b"started"

    if world is None:
        begun()
    else:
        world.share(begun)
        if world.local_rank == 0:
            RunFolder.start(recipe, path)
        world.barrier()
    folder, report = _ready(RunFolder.start(recipe, path), quiet=world is not None and not world.is_first)
    folder.held = held
    for line in news:
        report.say(line)
    return folder, report


def open_run(run: Path, world: World | None = None) -> tuple[RunFolder, Reporter]:
    """A run to work in, which no other process does meanwhile."""
    from experiments.lock import hold

    folder = found_run(run)

    def begun() -> bytes:
        folder.held = hold(run)
        return b"held"

    if world is None:
        begun()
    else:
        world.share(begun)
    return _ready(folder, quiet=world is not None and not world.is_first)


def found_run(run: Path) -> RunFolder:
    from experiments.run_folder import RunFolder

    if not run.is_dir():
        raise ValueError(f"{run} is not a folder; give the folder of a run, such as runs/digits")
    return RunFolder(run)


def _ready(folder: RunFolder, quiet: bool = False) -> tuple[RunFolder, Reporter]:
    """The run, and the process set up for it."""
    import torch
    from rich.console import Console

    from experiments.progress import Reporter

    # With another busy process beside it, small networks on several threads run many times slower than on one.
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return folder, Reporter(Console(quiet=True) if quiet else None)
