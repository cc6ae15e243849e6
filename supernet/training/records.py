"""What a training run reports: progress after every step, and a log with one line per epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Epoch", "EpochLog", "Progress", "atomic_write"]


@dataclass(frozen=True)
class Progress:
    """Where training is after a step; epochs and steps count over all phases.

    `losses` has the step's mean loss per kind of sub-network: largest, smallest, random. `images_per_second` counts
    every image once, however many sub-networks saw it, over this epoch so far.
    """

    phase: str
    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    lr: float
    losses: Mapping[str, float]
    images_per_second: float


@dataclass(frozen=True)
class Epoch:
    """One line of the log: epoch number (from 0, over all phases), its phase, steps done after it, the learning rate of
    its last step, mean losses per kind of sub-network, throughput, and whatever validation found."""

    epoch: int
    phase: str
    step: int
    lr: float
    losses: Mapping[str, float]
    images_per_second: float
    validation: Mapping[str, float] = field(default_factory=dict)


class EpochLog:
    """A JSON-lines file of epochs that a resumed run continues without repeating a line.

    Args:
        path: the file; None keeps the epochs in memory only.
        n_epochs: epochs that are done. Later lines, and a line that was cut off, are dropped from the file.
    """

    def __init__(self, path: Path | None, n_epochs: int = 0) -> None:
        self.path = path
        self.epochs: list[Epoch] = []
        if path is not None and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.epochs = [epoch for line in lines if (epoch := _parse(line)) is not None and epoch.epoch < n_epochs]
            atomic_write(path, "".join(map(_line, self.epochs)).encode())

    def append(self, epoch: Epoch) -> None:
        """Add one epoch; it is on disk when this returns."""
        self.epochs.append(epoch)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(epoch))
                file.flush()
                os.fsync(file.fileno())


def atomic_write(path: Path, content: bytes) -> None:
    """Replace the file by `content`: a reader sees the old one or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _line(epoch: Epoch) -> str:
    return json.dumps(asdict(epoch)) + "\n"


def _parse(line: str) -> Epoch | None:
    try:
        fields: dict[str, Any] = json.loads(line)
        return Epoch(**fields)
    except (json.JSONDecodeError, TypeError):
        return None
