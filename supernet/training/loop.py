"""The training loop: phases of epochs of steps, from a checkpoint where there is one, and back to one on a collapse."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from supernet.networks.masking import forward_of_many
from supernet.protocol import Supernet
from supernet.space import SearchSpace
from supernet.space.roles import roles_of
from supernet.training.checkpoint import CheckpointFolder, as_plain, first_difference, load_checkpoint
from supernet.training.collapse import CollapseError
from supernet.training.gradients import freeze, teaching
from supernet.training.interruption import StopSignals, TrainingInterrupted
from supernet.training.optimisation import Optimisation
from supernet.training.phases import Phase, check_phases
from supernet.training.records import Epoch, Log, Means, Progress, Resumption, RollbackRecord, Step, Watch
from supernet.training.samplers import AdaptiveSampler
from supernet.training.step import Stepper

if TYPE_CHECKING:
    from supernet.pruning.plan import Pruner
    from supernet.training.trainer import Trainer

__all__ = ["Loop"]

_FORMAT = 3


class Loop:
    """The state of one training run, all of which goes into a checkpoint: weights, optimiser, teacher, position."""

    def __init__(self, trainer: Trainer, watch: Watch) -> None:
        check_phases(trainer.phases, trainer.supernet.space, roles_of(trainer.supernet))
        self.trainer, self.world, self.watch = trainer, trainer.world, watch
        self.module = _as_module(trainer)
        self.device = next(self.module.parameters()).device
        self.ends = list(itertools.accumulate(phase.schedule.epochs for phase in trainer.phases))  # in epochs
        self.steps_per_epoch = trainer.data.steps_per_epoch
        self.n_steps = self.ends[-1] * self.steps_per_epoch
        self.configuration = _configuration(trainer, self.module)
        self.stepper = Stepper(self.module, trainer.engine, self.world, trainer.seed)
        # -- what a checkpoint holds
        self.step = 0
        self.epoch = 0  # the first one that is not finished, validation included
        self.teacher: nn.Module | None = None
        self.optimisation: Optimisation | None = None
        self.average: ModelEmaV3 | None = None
        self.pruner: Pruner | None = None
        self.sampler_state: Mapping[str, Any] = {}
        self.losses = Means()  # of the steps of the unfinished epoch
        self.best: float | None = None  # accuracy of the largest network in a validation
        self.rollbacks: list[RollbackRecord] = []
        # -- what it does not
        self.saved_at = time.monotonic()
        self.stop = StopSignals(self.world.size)
        folder = trainer.folder
        self.folder = None if folder is None else CheckpointFolder(folder, trainer.keep)
        logs = folder if self.world.is_first else None
        self.epoch_log = Log(None if logs is None else logs / "epochs.jsonl", Epoch)
        self.step_log = Log(None if logs is None else logs / "steps.jsonl", Step)
        self.rollback_log = Log(None if logs is None else logs / "rollbacks.jsonl", RollbackRecord)
        self.epochs: list[Epoch] = []

    def to_the_end(self) -> list[Epoch]:
        """See `Trainer.run`."""
        with self.stop:
            self._resume()
            while self.epoch < self.ends[-1]:
                try:
                    number = next(i for i, end in enumerate(self.ends) if self.epoch < end)
                    self._enter(number)
                    self._epoch(number)
                except CollapseError as collapse:
                    self._roll_back(collapse)
            self.stop.check_interrupt()
        if self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        return self.epochs

    def _enter(self, number: int) -> None:
        """Before the first step of phase `number`: sort the channels, freeze the teacher, start what is its own."""
        if self.step != self._first_step(number):
            return
        phase = self.trainer.phases[number]
        if phase.sort != "none":
            within = self.trainer.phases[number - 1].space if phase.sort == "within trained widths" else None
            cast(_Sortable, self.trainer.supernet).sort_channels(within=within)
        if phase.loss.teacher == "frozen" and self.teacher is None:
            self.teacher = self._new_teacher()
        # Momentum and average belong to the phase before, and to the order that the channels had there.
        self.optimisation, self.average = self._new_optimisation(phase), self._new_average()
        self.pruner = self._new_pruner(phase)
        self.sampler_state = phase.sampler.start(phase.space) if isinstance(phase.sampler, AdaptiveSampler) else {}

    def _epoch(self, number: int) -> None:
        phase, trainer, world, epoch = self.trainer.phases[number], self.trainer, self.world, self.epoch
        optimisation = self.optimisation
        assert optimisation is not None
        last = (epoch + 1) * self.steps_per_epoch
        consumed = self.step - epoch * self.steps_per_epoch
        self.module.train()  # validation may have left it in eval mode
        share = (world.rank, world.size) if world.size > 1 else ()
        batches = itertools.islice(trainer.data.train_batches(epoch, consumed, *share), last - self.step)
        started, n_images, rate = time.perf_counter(), 0, 0.0
        for images, labels in batches:
            step_of_phase = self.step - self._first_step(number)
            result = self.stepper.run(
                images,
                labels,
                phase=phase,
                optimisation=optimisation,
                teacher=self._teacher_of(phase),
                sampler_state=self.sampler_state,
                step=self.step,
                step_of_phase=step_of_phase,
                progress=step_of_phase / (phase.schedule.epochs * self.steps_per_epoch),
                wishes=(self.stop.requested, world.is_first and self._is_time_to_save()),
                timed=(self.step + 1) % trainer.log_steps == 0,
            )
            if self.average is not None:
                self.average.update(self.module, step_of_phase)
            self.step += 1
            self.stop.unsaved = self.folder is not None
            self.sampler_state = result.sampler_state
            n_images += result.n_images
            rate = n_images / (time.perf_counter() - started)
            losses, lr, share_talking = result.losses.values(), result.lr, result.communication / result.seconds
            if world.is_first:
                if self.step % trainer.log_steps == 0:
                    own_rate = result.n_images / result.seconds
                    self.step_log.append(Step(self.step, phase.name, lr, losses, own_rate, share_talking), False)
                self.watch(
                    Progress(phase.name, epoch, self.ends[-1], self.step, self.n_steps, lr, losses, rate, share_talking)
                )
            self.losses.add(result.losses)
            self.stop.check_interrupt()
            stopping, time_to_save = result.wishes
            if stopping:
                self._stop()
            if time_to_save and self.step < last:
                self._save()
        if self.step != last:
            raise ValueError(
                f"the data gave {self.step - epoch * self.steps_per_epoch} batches in epoch {epoch}, but promises "
                f"{self.steps_per_epoch} steps per epoch"
            )
        self._finish_epoch(phase, optimisation.lr, rate)

    def _finish_epoch(self, phase: Phase, lr: float, rate: float) -> None:
        """Validate, log and save; a collapse is raised before anything is written about this epoch."""
        trainer, world, validate = self.trainer, self.world, self.trainer.validate
        world.spread(list(self.module.buffers()))  # every process has tracked statistics of its own images
        validation: dict[str, float] = {}
        is_due = (self.epoch + 1) % trainer.validate_every == 0 or self.epoch + 1 == self.ends[-1]
        if validate is not None and is_due and (self.pruner is None or self.pruner.settled):
            self._save()  # a validation may take longer than a process has that was asked to stop
            averaged = trainer.supernet if self.average is None else cast(Supernet, self.average.module)
            validation = world.merge(validate(averaged))
        self._check_weights()
        self.best = trainer.rollback.check(validation, self.best, self.step)
        record = Epoch(self.epoch, phase.name, self.step, lr, self.losses.values(), rate, validation)
        self.losses = Means()
        self.epochs.append(record)
        self.epoch_log.append(
            record
        )  # before the checkpoint: a line without one is dropped on resuming, and made again
        self.epoch += 1
        self._save(good=True)
        if world.is_first:
            self.watch(record)

    # -- parts --------------------------------------------------------------------------------------------------------

    def _first_step(self, number: int) -> int:
        return (self.ends[number] - self.trainer.phases[number].schedule.epochs) * self.steps_per_epoch

    def _new_optimisation(self, phase: Phase) -> Optimisation:
        return Optimisation(
            self.module,
            phase,
            self.steps_per_epoch,
            optimizer=self.trainer.engine.optimizer,
            weight_decay=self.trainer.weight_decay,
            momentum=self.trainer.momentum,
            rate_factor=self.rollbacks[-1].rate_factor if self.rollbacks else 1.0,
            scaled=self.trainer.engine.precision == "fp16",
        )

    def _new_pruner(self, phase: Phase) -> Pruner | None:
        """What drives units to zero in a phase, attached to its optimiser."""
        if phase.pruning is None:
            return None
        whole = self.world.size == self.trainer.engine.accumulation == 1
        if phase.pruning.by in ("consensus", "tas") and not whole:
            raise ValueError(
                f"pruning by {phase.pruning.by!r} learns beside the weights, on one process and whole batches: train "
                "so, without engine.accumulation, or take by = 'hesso'"
            )
        pruner = phase.pruning.start(self.trainer.supernet, phase.schedule.epochs * self.steps_per_epoch)
        assert self.optimisation is not None
        self.optimisation.attach(pruner)
        return pruner

    def _new_teacher(self) -> nn.Module:
        """The largest network as it is now, or as its average is."""
        supernet = self.trainer.supernet if self.average is None else cast(Supernet, self.average.module)
        teacher = freeze(supernet.extract(supernet.space.largest)).to(self.device)
        if self.trainer.engine.channels_last:
            teacher.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return teacher

    def _teacher_of(self, phase: Phase) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """Who teaches a step of the phase and is not trained in it."""
        if phase.loss.teacher == "average":
            assert self.average is not None
            return teaching(self.average.module, phase.space.largest)
        return self.teacher if phase.loss.teacher == "frozen" else None

    def _new_average(self) -> ModelEmaV3 | None:
        decay = self.trainer.engine.ema
        # With less decay at first, it forgets the weights that it began with however short a phase is.
        return None if decay is None else ModelEmaV3(self.module, decay, use_warmup=True)

    def _check_weights(self) -> None:
        if not all(torch.isfinite(parameter).all() for parameter in self.module.parameters()):
            raise CollapseError(f"a weight is not finite after step {self.step}")

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _is_time_to_save(self) -> bool:
        steps, seconds = self.trainer.save_steps, self.trainer.save_seconds
        return (steps is not None and (self.step + 1) % steps == 0) or (
            seconds is not None and time.monotonic() - self.saved_at >= seconds
        )

    def _stop(self) -> None:
        self.stop.noticed()
        self._save()
        self.world.barrier()  # a process that is gone makes torchrun end the others, which may still be writing
        if self.stop.interrupted:
            raise KeyboardInterrupt
        raise TrainingInterrupted(self.step, self.n_steps, saved=self.folder is not None)

    def _save(self, good: bool = False) -> None:
        """Write a checkpoint, on the first process; all of them look whether there is anything worth writing."""
        self._check_weights()
        self.saved_at = time.monotonic()
        if self.folder is None or not self.world.is_first:
            self.stop.unsaved = False
            return
        state = {
            "format": _FORMAT,
            "configuration": self.configuration,
            "processes": self.world.size,
            "step": self.step,
            "epoch": self.epoch,
            "model": self.module.state_dict(),
            "optimisation": None if self.optimisation is None else self.optimisation.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "sampler": dict(self.sampler_state),
            "pruner": None if self.pruner is None else self.pruner.state_dict(),
            "losses": self.losses.state(),
            "best": self.best,
            "rollbacks": [asdict(record) for record in self.rollbacks],
        }
        self.folder.save(self.step, state, rollbacks=len(self.rollbacks), good=good)
        self.stop.unsaved = False

    def _resume(self) -> None:
        if (state := self._read()) is not None:
            difference = first_difference(
                [state.get("format"), state.get("configuration")], [_FORMAT, self.configuration]
            )
            if difference is not None:
                raise ValueError(
                    f"{self.trainer.folder} has checkpoints of another training run: {difference.removeprefix('1.')}; "
                    "choose another folder, or go back to the old recipe"
                )
            self._load(state, [RollbackRecord(**record) for record in state["rollbacks"]])
            if self.world.is_first:
                size = self.world.size
                self.watch(Resumption(self.step, self.n_steps, state.get("processes", size), size))
        else:
            self.world.spread([*self.module.parameters(), *self.module.buffers()])
        self._cut_logs()
        if state is None and self.trainer.rollback.at_most:
            self._save(good=True)  # the first epoch may collapse too

    def _read(self, good: bool = False) -> dict[str, Any] | None:
        """The newest checkpoint, which the first process alone needs to have."""
        folder = self.folder
        content = self.world.share(lambda: None if folder is None else folder.read(good))
        return None if content is None else load_checkpoint(content, self.device)

    def _load(self, state: dict[str, Any], rollbacks: list[RollbackRecord]) -> None:
        self.step, self.epoch, self.best, self.rollbacks = state["step"], state["epoch"], state["best"], rollbacks
        self.module.load_state_dict(state["model"])
        self.losses, self.sampler_state = Means(*state["losses"]), state["sampler"]
        if self.pruner is not None:
            self.pruner.remove()
        self.average = self.teacher = self.optimisation = self.pruner = None
        if state["average"] is not None:
            self.average = self._new_average()
            assert self.average is not None
            self.average.module.load_state_dict(state["average"])
        if state["teacher"] is not None:
            self.teacher = self._new_teacher()
            self.teacher.load_state_dict(state["teacher"])
        number = next((i for i, end in enumerate(self.ends) if self.epoch < end), None)
        if number is not None and self.step > self._first_step(number):
            self.optimisation = self._new_optimisation(self.trainer.phases[number])
            self.optimisation.load_state_dict(state["optimisation"])
            self.pruner = self._new_pruner(self.trainer.phases[number])
            if self.pruner is not None:
                self.pruner.load_state_dict(state["pruner"])

    def _cut_logs(self) -> None:
        """Take out what the run will do once more."""
        self.epochs = self.epoch_log.cut(lambda line: line.epoch < self.epoch)
        self.step_log.cut(lambda line: line.step <= self.step)
        known = self.rollbacks
        self.rollback_log.cut(lambda line: line in known)

    def _roll_back(self, collapse: CollapseError) -> None:
        """Go on from the last good checkpoint with a lower learning rate.

        Raises:
            CollapseError: that has been done too often, or there is no such checkpoint.
        """
        rules, n = self.trainer.rollback, len(self.rollbacks)
        if n >= rules.at_most:
            if n:
                raise CollapseError(
                    f"{collapse.reason}; that is after {n} rollbacks, at {self.rollbacks[-1].rate_factor:g} times the "
                    "learning rates"
                ) from collapse
            raise collapse
        if (state := self._read(good=True)) is None:
            raise collapse
        factor = rules.factor * (self.rollbacks[-1].rate_factor if n else 1.0)
        record = RollbackRecord(self.step, collapse.reason, state["step"], factor)
        self.module.zero_grad(set_to_none=True)  # those of the step that collapsed
        self._load(state, [*self.rollbacks, record])
        self._cut_logs()
        self.rollback_log.append(record)
        self._save(good=True)  # ranks above all that was saved before, so that a kill does not undo the rollback
        if self.world.is_first:
            self.watch(record)


class _Sortable(Protocol):
    def sort_channels(self, *, within: SearchSpace | None = None) -> None: ...


def _as_module(trainer: Trainer) -> nn.Module:
    supernet = trainer.supernet
    if not isinstance(supernet, nn.Module):
        raise ValueError(f"{type(supernet).__name__} has no weights to train: it is not an nn.Module")
    for phase in trainer.phases:
        if phase.sort != "none" and not hasattr(supernet, "sort_channels"):
            raise ValueError(
                f"phase {phase.name!r} sorts channels, which {type(supernet).__name__} cannot; it needs sort_channels"
            )
        if phase.sort != "none" and getattr(supernet, "mixture", None) is not None:
            raise ValueError(
                f"phase {phase.name!r} sorts channels, and no order is right for all experts of a mixture; take a "
                "method that does not sort, such as gradual_shrinking"
            )
        if phase.one_pass:
            forward_of_many(supernet)  # what cannot do it is told here
    if trainer.engine.ema is not None and any(phase.pruning is not None for phase in trainer.phases):
        raise ValueError("an average of the weights keeps what pruning has set to zero; set ema to None")
    if trainer.engine.ema is None and any(phase.loss.teacher == "average" for phase in trainer.phases):
        raise ValueError(
            "the average of the weights is to teach, and none is kept; set ema of the engine, such as 0.998"
        )
    if trainer.engine.channels_last:
        supernet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if trainer.engine.compile:
        if watching := next((phase for phase in trainer.phases if phase.watches_attention), None):
            raise ValueError(
                f"phase {watching.name!r} watches attention (pathways, relation), which compiled blocks do not show; "
                "set compile to False"
            )
        if not hasattr(supernet, "compile_blocks"):
            raise ValueError(f"{type(supernet).__name__} has no blocks that can be compiled; set compile to False")
        supernet.compile_blocks()  # type: ignore[operator]
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
            "engine": trainer.engine,
            "rollback": trainer.rollback,
            "steps_per_epoch": trainer.data.steps_per_epoch,
            "identity": trainer.identity,
        }
    )
