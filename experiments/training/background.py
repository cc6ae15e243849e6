"""Training the baselines beside the supernet, in a process of their own; measuring comes only after both."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.training.train import baseline_weights, train_baseline

__all__ = ["baselines_in_background"]


@contextmanager
def baselines_in_background(run: RunFolder, report: Reporter) -> Iterator[None]:
    """Train the timm baselines while the block runs, and wait for them at its end.

    Nothing depends on this process: what it did not finish, `compare` does. It stops when the run is killed.
    """
    waiting = [name for name in run.recipe.baselines.timm_models if not baseline_weights(run, name).exists()]
    if not waiting or (os.cpu_count() or 1) < 2:
        yield
        return
    # Spawned, not forked: torch and OpenMP do not survive a fork.
    # And no daemon: those have no children, and reading images takes some.
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(run.path, waiting))
    with _interrupts_ignored():  # by the child, for good: Ctrl-C reaches it too, but ending it is the parent's business
        process.start()
    try:
        yield
        if process.is_alive():
            report.say(f"  waiting for {' and '.join(waiting)}, trained in the same way in another process")
        process.join()
    finally:
        process.terminate()
        process.join()


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Watch(Reporter):
    """Says nothing, and ends the process when its parent is gone: two runs must not write the same checkpoints."""

    def say(self, text: str) -> None:
        pass

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[float, str], None]]:
        parent = os.getppid()

        def check(done: float, note: str) -> None:
            if os.getppid() != parent:
                os._exit(1)

        yield check


def _train(path: Path, names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    run = RunFolder(path)
    for name in names:
        train_baseline(run, name, _Watch())
