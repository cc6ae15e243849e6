"""The optimiser of a phase: learning rates by step, scaled losses where the precision needs it, clipping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from timm.optim import create_optimizer_v2  # pyright: ignore[reportPrivateImportUsage]
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import Tensor, nn

from supernet.training.phases import Phase

if TYPE_CHECKING:
    from supernet.pruning.plan import Pruner

__all__ = ["Optimisation"]


class Optimisation:
    """A timm optimiser with a linear warm-up and a cosine, made afresh for every phase.

    Args:
        module: what is optimised; biases and norms have no weight decay.
        phase: its schedule and its clipping.
        steps_per_epoch: steps of an epoch of the schedule.
        optimizer: timm's name.
        weight_decay: for parameters of at least two dimensions.
        momentum: for optimisers that have it.
        rate_factor: of all learning rates.
        scaled: whether losses are scaled, which fp16 needs for gradients not to vanish.
    """

    def __init__(
        self,
        module: nn.Module,
        phase: Phase,
        steps_per_epoch: int,
        *,
        optimizer: str,
        weight_decay: float,
        momentum: float,
        rate_factor: float = 1.0,
        scaled: bool = False,
    ) -> None:
        schedule = phase.schedule
        self._module, self._clip = module, phase.clip
        self._pruner: Pruner | None = None
        # One pass over weights that do not fit the caches: 2.3× faster on a CPU. LAMB is timm's own and has none.
        options: dict[str, Any] = {} if optimizer == "lamb" else {"fused": True}
        self._optimizer = create_optimizer_v2(
            module,
            opt=optimizer,
            lr=schedule.peak_lr * rate_factor,
            momentum=momentum,
            weight_decay=weight_decay,
            **options,
        )
        if optimizer == "sgd":
            for group in self._optimizer.param_groups:
                for parameter in group["params"]:  # fused SGD wants all buffers, also of blocks that never ran
                    self._optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        warmup = round(schedule.warmup_epochs * steps_per_epoch)
        self._scheduler = CosineLRScheduler(
            self._optimizer,
            t_initial=schedule.epochs * steps_per_epoch - warmup,
            lr_min=schedule.final_share * schedule.peak_lr * rate_factor,
            warmup_t=warmup,
            warmup_lr_init=schedule.warmup_lr * rate_factor,
            warmup_prefix=True,
            t_in_epochs=False,
        )
        device = next(module.parameters()).device.type
        self._scaler = torch.amp.GradScaler(device, enabled=scaled)  # pyright: ignore[reportPrivateImportUsage]

    @property
    def lr(self) -> float:
        """The learning rate that was set last."""
        return self._optimizer.param_groups[0]["lr"]

    def attach(self, pruner: Pruner) -> None:
        """From now on every update is a step of this pruner."""
        self._pruner = pruner
        pruner.attach(self._optimizer)

    def set_rate(self, step_of_phase: int) -> None:
        """The learning rate of a step, counted from the beginning of the phase."""
        self._scheduler.step_update(step_of_phase)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, and of what a pruner adds to it."""
        penalty = None if self._pruner is None else self._pruner.penalty()
        self._scaler.scale(loss if penalty is None else loss + penalty).backward()

    def update(self, loss: float | None = None) -> None:
        """Clip, change the weights by the gradients, and remove these.

        A pruner is told the loss of the step.

        Parameters without gradient, of blocks that no sub-network of the step ran, stay as they are: they are neither
        decayed nor moved by their momentum. Where a scaled gradient has overflown, nothing changes but the scale.
        """
        if self._clip is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_value_(self._module.parameters(), self._clip)
        if self._pruner is not None:
            self._pruner.loss = loss
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the steps so far have left, as tensors and numbers."""
        return {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; the learning rates stay those of the constructor."""
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
