"""The section of a recipe that says how training computes, saves and recovers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from experiments.settings.values import Count, Rate, Section
from supernet.training.collapse import Rollback
from supernet.training.engine import KEEP, Engine
from supernet.training.mixing import Mixing

__all__ = ["EngineSettings", "RollbackSettings"]


class RollbackSettings(Section):
    """What happens when training collapses: a loss that is not finite, or a largest network that has got much worse."""

    at_most: int = Rollback.at_most
    """Times that a run goes back to its last good checkpoint."""
    factor: float = Rollback.factor
    """Of the learning rates, each time."""
    margin: float | None = 0.2
    """Fall of the largest network's validation accuracy below its best, in [0, 1], that is a collapse."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.rollback
        return self

    @property
    def rollback(self) -> Rollback:
        """What it describes."""
        return Rollback(self.at_most, self.factor, self.margin)


class EngineSettings(Section):
    """How training computes, saves and recovers."""

    optimizer: Literal["sgd", "adamw", "lamb"] = Engine.optimizer
    """timm's; sgd has Nesterov momentum."""
    precision: Literal["fp32", "bf16", "fp16"] = Engine.precision
    """Of activations; weights stay fp32."""
    channels_last: bool = Engine.channels_last
    """Memory format of images and weights."""
    accumulation: int = Engine.accumulation
    """Micro-batches per step and process; every one has BatchNorm statistics of its own."""
    ema: float | None = Engine.ema
    """Decay of an average of the weights, which is then what is validated, written and scored; it begins with
    smaller decays, so that it suits short trainings; default none."""
    sync_batch_norm: bool = Engine.sync_batch_norm
    """Whether BatchNorm sees the images of all processes."""
    compile: bool = Engine.compile
    """Whether blocks go through torch.compile."""
    mixup: float = Mixing.mixup
    """Alpha of mixup; 0: none."""
    cutmix: float = Mixing.cutmix
    """Alpha of cutmix; 0: none."""
    mix_probability: float = Mixing.probability
    """That a step mixes its images."""
    cutmix_probability: float = Mixing.cutmix_probability
    """That it is cutmix, where both are on."""
    rollback: RollbackSettings = RollbackSettings()
    """What happens when training collapses."""
    validate_every: Annotated[int, Field(ge=0)] = 1
    """Epochs between validations of the largest, a middle and the smallest sub-network; 0: none."""
    tensorboard: bool = False
    """Whether to write a log for TensorBoard as well."""
    log: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Who else is told how the training goes: MLflow, Weights & Biases; through their own packages and settings."""
    save_seconds: Rate = 60.0
    """Seconds between checkpoints within an epoch."""
    keep: Count = KEEP
    """Checkpoints that stay, beside the last good one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        self.engine(n_classes=2)
        return self

    def engine(self, n_classes: int) -> Engine:
        """What it describes, for labels of so many classes.

        Raises:
            ValueError: something does not go together.
        """
        mixing = None
        if self.mixup or self.cutmix:
            mixing = Mixing(n_classes, self.mixup, self.cutmix, self.mix_probability, self.cutmix_probability)
        return Engine(
            self.optimizer,
            self.precision,
            self.channels_last,
            self.accumulation,
            self.ema,
            self.sync_batch_norm,
            self.compile,
            mixing,
        )
