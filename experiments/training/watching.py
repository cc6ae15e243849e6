"""What a training shows while it goes on: a bar, a line per epoch, pictures, and a log for other programs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from experiments.progress import Reporter
from experiments.quantities import Quantity
from experiments.training.logs import TrainingLog
from supernet.training import Epoch, Progress, Record, Resumption, RollbackRecord

__all__ = ["Shown"]

_SECONDS_BETWEEN_PICTURES = 60.0


@dataclass
class Shown:
    """Watches a `Trainer`.

    Attributes:
        report: where lines go.
        advance: moves the bar to so many steps, with a note.
        draw: draws the course so far.
        quality: what `validate` returns, for people.
        log: also written, where there is one.
    """

    report: Reporter
    advance: Callable[[float, str], None]
    draw: Callable[[], None]
    quality: Quantity
    log: TrainingLog | None = None
    _drawn_at: float = field(default_factory=time.monotonic, init=False)

    def __call__(self, record: Record) -> None:
        if isinstance(record, Progress):
            self._step(record)
        elif isinstance(record, Epoch):
            self._epoch(record)
        elif isinstance(record, RollbackRecord):
            self.report.say(
                f"  training collapsed: {record.reason}; back to step {record.back_to_step}, with "
                f"{record.rate_factor:g} times the learning rates"
            )
        else:
            self._resumed(record)

    def _step(self, progress: Progress) -> None:
        losses = ", ".join(f"{kind} {loss:.2f}" for kind, loss in progress.losses.items())
        note = f"epoch {progress.epoch + 1}/{progress.n_epochs} ({progress.phase}), loss {losses}"
        self.advance(progress.step, f"{note}, {progress.images_per_second:.0f} images/s")
        if self.log is not None:
            self.log.step(progress)

    def _epoch(self, epoch: Epoch) -> None:
        losses = ", ".join(f"{kind} {loss:.3f}" for kind, loss in epoch.losses.items())
        found = ", ".join(f"{name} {self.quality.format(value)}" for name, value in epoch.validation.items())
        self.report.say(
            f"  epoch {epoch.epoch + 1} ({epoch.phase}): loss {losses}" + (f"; validation {found}" if found else "")
        )
        if self.log is not None:
            self.log.epoch(epoch)
        if time.monotonic() - self._drawn_at > _SECONDS_BETWEEN_PICTURES:
            self.draw()
            self._drawn_at = time.monotonic()

    def _resumed(self, resumption: Resumption) -> None:
        if resumption.step:
            self.report.say(f"  carrying on from step {resumption.step} of {resumption.n_steps}")
        if resumption.processes != resumption.processes_before:
            self.report.say(
                f"  the checkpoint is by {resumption.processes_before} processes, now there are "
                f"{resumption.processes}: training goes on, but not with the bits of an uninterrupted run"
            )
