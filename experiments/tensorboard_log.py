"""Training as TensorBoard shows it: losses and learning rate over steps, validation accuracy over epochs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from supernet.training import Epoch, Progress

__all__ = ["TensorBoardLog", "tensorboard_log"]


class TensorBoardLog:
    """Hand it every step and every epoch; of the steps it keeps one in `every`."""

    def __init__(self, writer: Any, every: int = 20) -> None:
        self._writer = writer
        self._every = every

    def step(self, progress: Progress) -> None:
        """One step of training."""
        if progress.step % self._every:
            return
        for kind, loss in progress.losses.items():
            self._writer.add_scalar(f"loss/{kind}", loss, progress.step)
        self._writer.add_scalar("learning_rate", progress.lr, progress.step)
        self._writer.add_scalar("images_per_second", progress.images_per_second, progress.step)

    def epoch(self, epoch: Epoch) -> None:
        """One epoch of training, with what validation found after it."""
        for kind, loss in epoch.losses.items():
            self._writer.add_scalar(f"epoch_loss/{kind}", loss, epoch.step)
        for name, value in epoch.validation.items():
            self._writer.add_scalar(f"validation/{name}", value, epoch.step)
        self._writer.flush()


@contextmanager
def tensorboard_log(folder: Path, first_step: int) -> Iterator[TensorBoardLog]:
    """A log in `folder`; events of an interrupted run from `first_step` on are hidden, since they come again.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard is not installed; install supernet-nas[tensorboard], or set tensorboard = false"
        ) from None
    writer = SummaryWriter(str(folder), purge_step=first_step)
    try:
        yield TensorBoardLog(writer)
    finally:
        writer.close()
