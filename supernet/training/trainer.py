"""The training loop: phases of epochs of steps, from a checkpoint where there is one."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.protocol import Supernet
from supernet.space import SearchSpace
from supernet.training.checkpoint import CheckpointFolder, as_plain, first_difference
from supernet.training.memory import keep_freed_memory
from supernet.training.phases import Phase, check_phases
from supernet.training.records import Epoch, EpochLog, Progress
from supernet.training.steps import accumulate_gradients, freeze

__all__ = ["CollapseError", "Trainer", "TrainingData"]

_FORMAT = 1


class CollapseError(ValueError):
    """Training has become non-finite."""


class TrainingData(Protocol):
    """Training images, the same for the same epoch whenever it is asked for."""

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches of an epoch."""
        ...

    def train_batches(self, epoch: int, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Images (n, channels, height, width), at the largest resolution, and labels (n,) of epoch `epoch` (from 0).

        With `skip`, the same without the first so many batches: where a resumed run goes on.
        """
        ...


@dataclass
class Trainer:
    """Trains a supernet, or a `Static` baseline, in place.

    SGD with Nesterov momentum, without weight decay on BatchNorms and biases; gradients of a step's sub-networks are
    summed. Killed at any moment and run again on the same folder, it goes on from the last checkpoint and ends with the
    weights that an undisturbed run ends with; on the CPU bit for bit. All randomness of a step comes from the seed and
    the number of the step.

    Attributes:
        supernet: an `nn.Module` that is a `Supernet`.
        phases: see `progressive_shrinking`, `single_stage` and `plain`.
        data: the training images.
        seed: of the sampled architectures and of dropout.
        weight_decay: for weights of at least two dimensions.
        momentum: of SGD.
        channels_last: memory format; on CPUs and on GPUs with half precision much faster for convolutions.
        folder: where checkpoints and ``epochs.jsonl`` go; None writes nothing.
        save_steps: checkpoint every so many steps, besides the one at the end of every epoch.
        save_seconds: the same by time.
        keep: number of checkpoints that stay.
        identity: whatever else decides the result, such as a digest of the data; compared when resuming.
        validate: called with the supernet after every epoch; what it returns goes into the log. It must not change the
            weights.
    """

    supernet: Supernet
    phases: Sequence[Phase]
    data: TrainingData
    seed: int = 0
    weight_decay: float = 3e-5
    momentum: float = 0.9
    channels_last: bool = True
    folder: Path | None = None
    save_steps: int | None = None
    save_seconds: float | None = None
    keep: int = 2
    identity: Mapping[str, Any] = field(default_factory=dict)
    validate: Callable[[Supernet], Mapping[str, float]] | None = None

    def run(
        self,
        on_step: Callable[[Progress], None] | None = None,
        on_epoch: Callable[[Epoch], None] | None = None,
    ) -> list[Epoch]:
        """Train to the end; returns all epochs, those of interrupted runs included.

        Raises:
            ValueError: phases that do not fit the supernet, or a checkpoint of another configuration.
            CollapseError: the loss or a weight is no longer finite; the last checkpoint is from before.
        """
        with keep_freed_memory():
            return _Run(self, on_step or _ignore, on_epoch or _ignore).to_the_end()


class _Run:
    """The state of one training run, all of which goes into a checkpoint: weights, optimiser, teacher, step."""

    def __init__(
        self, trainer: Trainer, on_step: Callable[[Progress], None], on_epoch: Callable[[Epoch], None]
    ) -> None:
        check_phases(trainer.phases, trainer.supernet.space)
        self.trainer, self.on_step, self.on_epoch = trainer, on_step, on_epoch
        self.module = _as_module(trainer.supernet, trainer.phases)
        if trainer.channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = next(self.module.parameters()).device
        self.ends = list(itertools.accumulate(phase.schedule.epochs for phase in trainer.phases))  # in epochs
        self.steps_per_epoch = trainer.data.steps_per_epoch
        self.configuration = _configuration(trainer, self.module)
        self.step = 0
        self.teacher: nn.Module | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self.scheduler: CosineLRScheduler | None = None
        self.losses = _Means()
        self.folder = None if trainer.folder is None else CheckpointFolder(trainer.folder, trainer.keep)
        self.saved_at = time.monotonic()
        self._resume()
        log = None if trainer.folder is None else trainer.folder / "epochs.jsonl"
        self.log = EpochLog(log, self.step // self.steps_per_epoch)

    def to_the_end(self) -> list[Epoch]:
        for epoch in range(self.step // self.steps_per_epoch, self.ends[-1]):
            number = next(i for i, end in enumerate(self.ends) if epoch < end)
            self._enter(number)
            self._epoch(number, epoch)
        return self.log.epochs

    def _enter(self, number: int) -> None:
        """Before the first step of phase `number`: sort the channels, freeze the teacher, start a fresh optimiser."""
        if self.step != self._first_step(number):
            return
        phase = self.trainer.phases[number]
        if phase.sort != "none":
            within = self.trainer.phases[number - 1].space if phase.sort == "within trained widths" else None
            cast(_Sortable, self.trainer.supernet).sort_channels(within=within)
        if phase.loss.teacher == "frozen" and self.teacher is None:
            self.teacher = self._new_teacher()
        # Momentum belongs to the phase before, and to the order that the channels had there.
        self.optimizer, self.scheduler = self._new_optimizer(phase)

    def _epoch(self, number: int, epoch: int) -> None:
        phase, trainer = self.trainer.phases[number], self.trainer
        consumed = self.step - epoch * self.steps_per_epoch
        self.module.train()  # validation may have left it in eval mode
        batches = itertools.islice(trainer.data.train_batches(epoch, consumed), self.steps_per_epoch - consumed)
        started, n_images, rate, lr = time.perf_counter(), 0, 0.0, 0.0
        for images, labels in batches:
            losses, lr = self._step(number, images, labels)
            self.step += 1
            n_images += len(labels)
            rate = n_images / (time.perf_counter() - started)
            n_epochs = self.ends[-1]
            self.on_step(
                Progress(
                    phase.name, epoch, n_epochs, self.step, n_epochs * self.steps_per_epoch, lr, losses.values(), rate
                )
            )
            self.losses.add(losses)
            if self.step < (epoch + 1) * self.steps_per_epoch and self._is_time_to_save():
                self._save()
        if self.step != (epoch + 1) * self.steps_per_epoch:
            raise ValueError(
                f"the data gave {self.step - epoch * self.steps_per_epoch} batches in epoch {epoch}, but promises "
                f"{self.steps_per_epoch} steps per epoch"
            )
        validation = {} if trainer.validate is None else dict(trainer.validate(trainer.supernet))
        record = Epoch(epoch, phase.name, self.step, lr, self.losses.values(), rate, validation)
        self.losses = _Means()
        self.log.append(record)  # before the checkpoint: a line without one is dropped when resuming, and made again
        self._save()
        self.on_epoch(record)

    def _step(self, number: int, images: Tensor, labels: Tensor) -> tuple[_Means, float]:
        """One update of the weights; returns the losses per kind of sub-network and the learning rate."""
        phase, trainer = self.trainer.phases[number], self.trainer
        assert self.optimizer is not None and self.scheduler is not None
        step_of_phase = self.step - self._first_step(number)
        archs = phase.sampler(phase.space, trainer.seed, self.step)
        images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
        if trainer.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        self.scheduler.step_update(step_of_phase)
        with _seeded(trainer.seed, self.step, self.device):
            losses = accumulate_gradients(
                self.module,
                images,
                labels,
                archs,
                phase.loss,
                progress=step_of_phase / (phase.schedule.epochs * self.steps_per_epoch),
                teacher=self.teacher if phase.loss.teacher == "frozen" else None,
                regularise=phase.regularise,
            )
        if phase.clip is not None:
            nn.utils.clip_grad_value_(self.module.parameters(), phase.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # what the next step does not run must be skipped, not decayed
        means = _Means()
        for arch, loss in zip(archs, losses.tolist(), strict=True):
            kind = _kind(arch, phase.space)
            if not abs(loss) < float("inf"):
                raise CollapseError(
                    f"the loss of the {kind} sub-network is {loss} in step {self.step} (phase {phase.name!r}); "
                    f"train with a lower learning rate than {phase.schedule.peak_lr:g}, or clip gradients"
                )
            means.put(kind, loss)
        return means, self.optimizer.param_groups[0]["lr"]

    # -- parts --------------------------------------------------------------------------------------------------------

    def _first_step(self, number: int) -> int:
        return (self.ends[number] - self.trainer.phases[number].schedule.epochs) * self.steps_per_epoch

    def _new_optimizer(self, phase: Phase) -> tuple[torch.optim.Optimizer, CosineLRScheduler]:
        schedule = phase.schedule
        optimizer = create_optimizer_v2(
            self.module,
            opt="sgd",  # timm's: with Nesterov momentum
            lr=schedule.peak_lr,
            momentum=self.trainer.momentum,
            weight_decay=self.trainer.weight_decay,
            fused=True,  # one pass over weights that do not fit the caches: 2.3× faster on a CPU
        )
        for group in optimizer.param_groups:
            for parameter in group["params"]:  # the fused kernel wants all buffers, also of blocks that never ran
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        warmup = round(schedule.warmup_epochs * self.steps_per_epoch)
        scheduler = CosineLRScheduler(
            optimizer,
            t_initial=schedule.epochs * self.steps_per_epoch - warmup,
            warmup_t=warmup,
            warmup_lr_init=schedule.warmup_lr,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        return optimizer, scheduler

    def _new_teacher(self) -> nn.Module:
        """The largest network as it is now."""
        teacher = freeze(self.trainer.supernet.extract(self.trainer.supernet.space.largest)).to(self.device)
        if self.trainer.channels_last:
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return teacher

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _is_time_to_save(self) -> bool:
        steps, seconds = self.trainer.save_steps, self.trainer.save_seconds
        return (steps is not None and self.step % steps == 0) or (
            seconds is not None and time.monotonic() - self.saved_at >= seconds
        )

    def _save(self) -> None:
        if not all(torch.isfinite(p).all() for p in self.module.parameters()):
            raise CollapseError(f"a weight is not finite after step {self.step}; train with a lower learning rate")
        self.saved_at = time.monotonic()
        if self.folder is None:
            return
        assert self.optimizer is not None
        self.folder.save(
            self.step,
            {
                "format": _FORMAT,
                "configuration": self.configuration,
                "step": self.step,
                "model": self.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "teacher": None if self.teacher is None else self.teacher.state_dict(),
                "losses": self.losses.state(),
            },
        )

    def _resume(self) -> None:
        state = None if self.folder is None else self.folder.load(self.device)
        if state is None:
            return
        difference = first_difference([state.get("format"), state.get("configuration")], [_FORMAT, self.configuration])
        if difference is not None:
            raise ValueError(
                f"{self.trainer.folder} has checkpoints of another training run: {difference.removeprefix('1.')}; "
                "choose another folder, or go back to the old recipe"
            )
        self.step = state["step"]
        self.module.load_state_dict(state["model"])
        if state["teacher"] is not None:
            self.teacher = self._new_teacher()
            self.teacher.load_state_dict(state["teacher"])
        self.losses = _Means(*state["losses"])
        number = next((i for i, end in enumerate(self.ends) if self.step < end * self.steps_per_epoch), None)
        if number is not None and self.step > self._first_step(number):
            self.optimizer, self.scheduler = self._new_optimizer(self.trainer.phases[number])
            self.optimizer.load_state_dict(state["optimizer"])


class _Means:
    """Sums and counts by kind of sub-network."""

    def __init__(self, sums: Mapping[str, float] | None = None, counts: Mapping[str, int] | None = None) -> None:
        self.sums = defaultdict(float, sums or {})
        self.counts = defaultdict(int, counts or {})

    def put(self, kind: str, value: float) -> None:
        self.sums[kind] += value
        self.counts[kind] += 1

    def add(self, other: _Means) -> None:
        for kind in other.sums:
            self.sums[kind] += other.sums[kind]
            self.counts[kind] += other.counts[kind]

    def values(self) -> dict[str, float]:
        return {kind: total / self.counts[kind] for kind, total in self.sums.items()}

    def state(self) -> list[dict[str, Any]]:
        return [dict(self.sums), dict(self.counts)]


class _Sortable(Protocol):
    def sort_channels(self, *, within: SearchSpace | None = None) -> None: ...


@contextmanager
def _seeded(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's own random numbers (dropout) are those of the step; outside they go on as if nothing happened."""
    number = int(np.random.SeedSequence((seed, step)).generate_state(1)[0])
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield


def _as_module(supernet: Supernet, phases: Sequence[Phase]) -> nn.Module:
    if not isinstance(supernet, nn.Module):
        raise ValueError(f"{type(supernet).__name__} has no weights to train: it is not an nn.Module")
    for phase in phases:
        if phase.sort != "none" and not hasattr(supernet, "sort_channels"):
            raise ValueError(
                f"phase {phase.name!r} sorts channels, which {type(supernet).__name__} cannot; it needs sort_channels"
            )
    return supernet


def _configuration(trainer: Trainer, module: nn.Module) -> dict[str, Any]:
    """All that decides the result, as plain data."""
    return as_plain(
        {
            "phases": trainer.phases,
            "space": trainer.supernet.space,
            "weights": {name: list(tensor.shape) for name, tensor in module.state_dict().items()},
            "seed": trainer.seed,
            "weight_decay": trainer.weight_decay,
            "momentum": trainer.momentum,
            "channels_last": trainer.channels_last,
            "steps_per_epoch": trainer.data.steps_per_epoch,
            "identity": trainer.identity,
        }
    )


def _kind(arch: Architecture, space: SearchSpace) -> str:
    return "largest" if arch == space.largest else "smallest" if arch == space.smallest else "random"


def _ignore(_: object) -> None:
    pass
