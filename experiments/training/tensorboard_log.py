"""Training as TensorBoard shows it: losses and learning rate over steps, validation accuracy over epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from supernet.training import Epoch, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoardLog", "tensorboard_log"]


class TensorBoardLog:
    """Hand it every step and every epoch; of the steps it keeps one in `every`.

    What an interrupted run wrote from the first step on that comes here is hidden: it comes again.
    """

    def __init__(self, folder: Path, every: int = 20) -> None:
        self._folder = folder
        self._every = every
        self._writer: SummaryWriter | None = None

    def step(self, progress: Progress) -> None:
        """One step of training."""
        if progress.step % self._every:
            return
        self._add(progress.step, progress.losses, "loss")
        self._add(progress.step, {"learning_rate": progress.lr, "images_per_second": progress.images_per_second})

    def epoch(self, epoch: Epoch) -> None:
        """One epoch of training, with what validation found after it."""
        self._add(epoch.step, epoch.losses, "epoch_loss")
        self._add(epoch.step, epoch.validation, "validation")
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, step: int, values: Mapping[str, float], group: str = "training") -> None:
        if self._writer is None:
            self._writer = _summary_writer()(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)


@contextmanager
def tensorboard_log(folder: Path) -> Iterator[TensorBoardLog]:
    """A log in `folder`, closed at the end of the block.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    _summary_writer()  # now, and not after the first steps
    log = TensorBoardLog(folder)
    try:
        yield log
    finally:
        log.close()


def _summary_writer() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard is not installed: install supernet-nas[tensorboard], or set engine.tensorboard = false"
        ) from None
    return SummaryWriter
