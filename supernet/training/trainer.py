"""The trainer: everything that a training run is made of, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from supernet.protocol import Supernet
from supernet.training.collapse import Rollback
from supernet.training.distributed import World
from supernet.training.engine import KEEP, MOMENTUM, WEIGHT_DECAY, Engine
from supernet.training.loop import Loop
from supernet.training.memory import keep_freed_memory
from supernet.training.phases import Phase
from supernet.training.records import Epoch, Watch

__all__ = ["Trainer", "TrainingData"]


class TrainingData(Protocol):
    """Training images, the same for the same epoch whenever it is asked for."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch, whatever the number of processes."""
        ...

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, channels, height, width), at the largest resolution, and labels (n,) of epoch `epoch` (from 0).

        With `skip`, the same without the first so many batches: where a resumed run goes on. With `n_ranks`, of every
        batch the rows ``rank::n_ranks`` alone; data that is trained on by one process only need not know of these two.
        """
        ...


@dataclass
class Trainer:
    """Trains a supernet, or a `Static` baseline, in place.

    No weight decay on BatchNorms and biases; gradients of a step's sub-networks are summed. Killed at any moment and
    run again on the same folder, it goes on from the last checkpoint and ends with the weights that an undisturbed run
    ends with; on the CPU bit for bit. All randomness of a step comes from the seed, the number of the step and the
    number of the process.

    On n processes every one trains on its share of each batch, and the gradients are averaged: the same run with the
    same learning rates, but for BatchNorm, which sees the share only (see `Engine.sync_batch_norm`). The first process
    alone writes, and tells the watcher.

    Attributes:
        supernet: an `nn.Module` that is a `Supernet`, on the device of `world`.
        phases: see `progressive_shrinking`, `single_stage` and `plain`.
        data: the training images.
        seed: of the sampled architectures and of dropout.
        weight_decay: for weights of at least two dimensions.
        momentum: of SGD.
        engine: how steps are computed.
        rollback: what happens when training collapses.
        world: the processes that train together.
        folder: where checkpoints, ``epochs.jsonl``, ``steps.jsonl`` and ``rollbacks.jsonl`` go; None writes nothing.
        save_steps: checkpoint every so many steps, besides the one at the end of every epoch.
        save_seconds: the same by time.
        keep: number of checkpoints that stay, beside the last good one.
        log_steps: every so many steps go into ``steps.jsonl``.
        identity: whatever else decides the result, such as a digest of the data; compared when resuming.
        validate: called after an epoch, on every process, with the supernet (with its average, where there is one);
            what it returns goes into the log. Every process may return a part; the parts are put together. "largest" is
            the accuracy that `rollback` watches. It must not change the weights.
        validate_every: epochs between two of them; there is always one after the last epoch.
    """

    supernet: Supernet
    phases: Sequence[Phase]
    data: TrainingData
    seed: int = 0
    weight_decay: float = WEIGHT_DECAY
    momentum: float = MOMENTUM
    engine: Engine = field(default_factory=Engine)
    rollback: Rollback = field(default_factory=Rollback)
    world: World = field(default_factory=World)
    folder: Path | None = None
    save_steps: int | None = None
    save_seconds: float | None = None
    keep: int = KEEP
    log_steps: int = 20
    identity: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[[Supernet], Mapping[str, float]] | None = None
    validate_every: int = 1

    def run(self, watch: Watch = lambda record: None) -> list[Epoch]:
        """Train to the end; returns all epochs, those of interrupted runs included.

        `watch` is told of every step, epoch, rollback and resumption on the first process; see `only`.

        Raises:
            ValueError: phases that do not fit the supernet, or a checkpoint of another configuration.
            CollapseError: training collapsed more often than `rollback` allows, or there is nothing to go back to.
            TrainingInterrupted: SIGTERM or SIGUSR1 came, and a checkpoint is written.
            KeyboardInterrupt: Ctrl-C came; a checkpoint is written, unless it came twice.
            LostProcessError: another process of the run is gone.
        """
        with keep_freed_memory():
            return Loop(self, watch).to_the_end()
