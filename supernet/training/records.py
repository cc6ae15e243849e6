"""What a training run reports: progress after every step, and logs with one line per epoch, step and rollback."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from supernet.files import write_text

__all__ = ["Epoch", "Log", "Means", "Progress", "Record", "Resumption", "RollbackRecord", "Step", "Watch", "only"]

_R = TypeVar("_R")


@dataclass(frozen=True)
class Progress:
    """Where training is after a step; epochs and steps count over all phases.

    `losses` has the step's mean loss per kind of sub-network: largest, smallest, random. `images_per_second` counts
    every image once, over all processes and however many sub-networks saw it, over this epoch so far. `communication`
    is the share of the step's time that went into talking to other processes, waiting for them included.
    """

    phase: str
    epoch: int
    n_epochs: int
    step: int
    n_steps: int
    lr: float
    losses: Mapping[str, float]
    images_per_second: float
    communication: float = 0.0


@dataclass(frozen=True)
class Step:
    """One line of ``steps.jsonl``: a step as in `Progress`, and its own throughput."""

    step: int
    phase: str
    lr: float
    losses: Mapping[str, float]
    images_per_second: float
    communication: float


@dataclass(frozen=True)
class Epoch:
    """One line of ``epochs.jsonl``: epoch number (from 0, over all phases), its phase, steps done after it, the
    learning rate of its last step, mean losses per kind of sub-network, throughput, and whatever validation found."""

    epoch: int
    phase: str
    step: int
    lr: float
    losses: Mapping[str, float]
    images_per_second: float
    validation: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RollbackRecord:
    """One line of ``rollbacks.jsonl``: after which step training collapsed and why, where it went on from, and the
    factor of all learning rates from there on."""

    step: int
    reason: str
    back_to_step: int
    rate_factor: float


@dataclass(frozen=True)
class Resumption:
    """Where training carries on from, by how many processes the checkpoint was written, and how many there are now.

    With another number training means the same, but is not bit-equal to a run that was never interrupted.
    """

    step: int
    n_steps: int
    processes_before: int
    processes: int


Record = Progress | Epoch | RollbackRecord | Resumption
"""Whatever a run reports, as it happens."""

Watch = Callable[[Record], None]
"""Who is told."""


def only(kind: type[_R], tell: Callable[[_R], object]) -> Watch:
    """A watcher that is told records of one kind: ``trainer.run(only(Epoch, print))``."""

    def watch(record: Record) -> None:
        if isinstance(record, kind):
            tell(record)

    return watch


class Log(Generic[_R]):
    """A JSON-lines file of records that a resumed run continues without repeating a line.

    Args:
        path: the file; None writes nothing.
        kind: the dataclass of a record.
    """

    def __init__(self, path: Path | None, kind: Callable[..., _R]) -> None:
        self.path, self._kind = path, kind

    def cut(self, keep: Callable[[_R], bool]) -> list[_R]:
        """Drop the lines that are not to be kept, and one that was cut off, from the file; returns what stays."""
        if self.path is None or not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        parsed = [(line, record) for line in lines if (record := self._parse(line)) is not None and keep(record)]
        if len(parsed) < len(lines):
            write_text(self.path, "".join(line for line, _ in parsed))
        return [record for _, record in parsed]

    def append(self, record: _R, durable: bool = True) -> None:
        """Add one line; if durable, it is on disk when this returns."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")  # type: ignore[call-overload]
            if durable:
                file.flush()
                os.fsync(file.fileno())

    def _parse(self, line: str) -> _R | None:
        try:
            return self._kind(**json.loads(line))
        except (json.JSONDecodeError, TypeError):
            return None


class Means:
    """Sums and counts by kind of sub-network."""

    def __init__(self, sums: Mapping[str, float] | None = None, counts: Mapping[str, int] | None = None) -> None:
        self.sums = defaultdict(float, sums or {})
        self.counts = defaultdict(int, counts or {})

    def put(self, kind: str, value: float) -> None:
        self.sums[kind] += value
        self.counts[kind] += 1

    def add(self, other: Means) -> None:
        for kind in other.sums:
            self.sums[kind] += other.sums[kind]
            self.counts[kind] += other.counts[kind]

    def values(self) -> dict[str, float]:
        return {kind: total / self.counts[kind] for kind, total in self.sums.items()}

    def state(self) -> list[dict[str, Any]]:
        return [dict(self.sums), dict(self.counts)]
