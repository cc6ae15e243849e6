"""One step of training on all processes: choose sub-networks, add up gradients, average them, change the weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.training.batch_norm import SynchronisedBatchNorm
from supernet.training.collapse import CollapseError
from supernet.training.distributed import World, agree, average_gradients
from supernet.training.engine import Engine
from supernet.training.gradients import accumulate_gradients, mean_losses, seeded
from supernet.training.optimisation import Optimisation
from supernet.training.phases import Phase
from supernet.training.records import Means
from supernet.training.samplers import AdaptiveSampler

__all__ = ["StepResult", "Stepper"]


@dataclass(frozen=True)
class StepResult:
    """What a step has to say, the same on every process but for times.

    Attributes:
        archs: the sub-networks.
        losses: per kind of sub-network (largest, smallest, random), over the images of all processes.
        lr: the learning rate.
        n_images: over all processes.
        seconds: the step took, without waiting for the images.
        communication: the part of these seconds that went into talking to other processes, waiting included.
        n_bytes: of the gradients that were averaged; 0 on one process.
        wishes: which of the wishes that were passed in some process had.
        sampler_state: what an adaptive sampler knows now.
    """

    archs: list[Architecture]
    losses: Means
    lr: float
    n_images: int
    seconds: float
    communication: float
    n_bytes: int
    wishes: list[bool]
    sampler_state: Mapping[str, Any]


@dataclass(frozen=True)
class Stepper:
    """Runs steps of one supernet; `module` is trained, with randomness from `seed`, step and process."""

    module: nn.Module
    engine: Engine
    world: World
    seed: int

    def run(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        phase: Phase,
        optimisation: Optimisation,
        teacher: Callable[[Tensor], Tensor] | None,
        sampler_state: Mapping[str, Any],
        step: int,
        step_of_phase: int,
        progress: float,
        wishes: Sequence[bool],
        timed: bool,
    ) -> StepResult:
        """One update of the weights from this process's images (n, channels, height, width) and labels (n,).

        Args:
            images: on any device; likewise labels.
            labels: of the images.
            phase: its space, sampler and loss.
            optimisation: the optimiser of the phase.
            teacher: the frozen teacher, or that of the average, for losses that want one.
            sampler_state: for samplers that learn.
            step: number of the step over the whole run.
            step_of_phase: the same within the phase.
            progress: share of the phase that is done.
            wishes: of this process, such as to stop after this step.
            timed: whether the GPU is waited for, so that `communication` is right; on the CPU it always is.

        Raises:
            CollapseError: a loss is not finite. The weights are then as they were.
        """
        started = time.perf_counter()
        world, engine, space = self.world, self.engine, phase.space_at(progress)
        device = next(self.module.parameters()).device
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        if engine.mixing is not None:
            images, labels = engine.mixing(images, labels, self.seed, step, world.rank)
        if engine.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        optimisation.set_rate(step_of_phase)
        synchronised = SynchronisedBatchNorm(world) if engine.sync_batch_norm and world.size > 1 else None
        subsampled = None if phase.pathways is None else phase.pathways.at(progress)
        with (
            seeded(device, self.seed, step, world.rank),
            synchronised or nullcontext(),
            subsampled or nullcontext(),
        ):

            def probe(archs: Sequence[Architecture]) -> NDArray[np.float64]:
                found = mean_losses(
                    self.module, images, labels, archs, phase.loss, progress, teacher,
                    accumulation=engine.accumulation, autocast=engine.autocast_dtype,
                )  # fmt: skip
                return world.sum(torch.from_numpy(found).to(device)).cpu().numpy() / world.size

            sampler = phase.sampler
            if isinstance(sampler, AdaptiveSampler):
                archs = sampler.choose(space, self.seed, step, sampler_state, probe)
            else:
                archs = sampler(space, self.seed, step)
            losses = accumulate_gradients(
                self.module, images, labels, archs, phase.loss, progress, teacher, phase.regularise,
                accumulation=engine.accumulation, split_batch=phase.split_batch, one_pass=phase.one_pass,
                autocast=engine.autocast_dtype, backward=optimisation.backward,
            )  # fmt: skip
        if subsampled is not None and not subsampled.n_calls:
            raise ValueError(
                f"phase {phase.name!r} subsamples attention, and {type(self.module).__name__} has none without a mask "
                "that torch's scaled_dot_product_attention computes; remove `pathways`"
            )
        communication = 0.0 if synchronised is None else synchronised.seconds
        before_talking = self._now(timed)
        granted, losses = agree(world, self.module, len(images), wishes, losses)
        values = losses.tolist()
        for arch, loss in zip(archs, values, strict=True):
            if not math.isfinite(loss):
                raise CollapseError(
                    f"the loss of the {_kind(arch, space)} sub-network is {loss} in step {step} (phase {phase.name!r})",
                    f"train with a lower learning rate than {phase.schedule.peak_lr:g}, or clip gradients",
                )
        n_bytes = average_gradients(world, self.module)
        if world.size > 1:
            communication += self._now(timed) - before_talking
        optimisation.update(values[0])
        means = Means()
        for arch, loss in zip(archs, values, strict=True):
            means.put(_kind(arch, space), loss)
        if isinstance(sampler, AdaptiveSampler):
            sampler_state = sampler.learn(space, sampler_state, archs, np.array(values))
        seconds = self._now(timed) - started
        return StepResult(
            archs,
            means,
            optimisation.lr,
            len(images) * world.size,
            seconds,
            communication,
            n_bytes,
            granted,
            sampler_state,
        )

    def _now(self, timed: bool) -> float:
        if timed and torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter()


def _kind(arch: Architecture, space: SearchSpace) -> str:
    if arch == space.largest or space.size == len(space.resolutions):  # where there is one, at whatever resolution
        return "largest"
    return "smallest" if arch == space.smallest else "random"
