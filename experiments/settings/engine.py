"""The section of a recipe that says how training computes, saves and recovers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from experiments.settings.sections import Count, Part, Portion, Rate, Section, Share

__all__ = ["EngineSettings", "RollbackSettings"]


class RollbackSettings(Section):
    """What happens when training collapses: a loss that is not finite, or a largest network that has got much worse."""

    at_most: Annotated[int, Field(ge=0)] = 3
    """Times that a run goes back to its last good checkpoint."""
    factor: Part = 0.5
    """Of the learning rates, each time."""
    margin: Portion | None = 0.2
    """Fall of the largest network's validation accuracy below its best, in [0, 1], that is a collapse."""


class EngineSettings(Section):
    """How training computes, saves and recovers."""

    optimizer: Literal["sgd", "adamw", "lamb"] = "sgd"
    """timm's; sgd has Nesterov momentum."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of activations; weights stay fp32."""
    channels_last: bool = True
    """Memory format of images and weights."""
    accumulation: Count = 1
    """Micro-batches per step and process; every one has BatchNorm statistics of its own."""
    ema: Part | None = None
    """Decay of an average of the weights, which is then what is validated, written and scored; default none."""
    sync_batch_norm: bool = False
    """Whether BatchNorm sees the images of all processes."""
    compile: bool = False
    """Whether blocks go through torch.compile."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of mixup; 0: none."""
    cutmix: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of cutmix; 0: none."""
    mix_probability: Portion = 1.0
    """That a step mixes its images."""
    cutmix_probability: Share = 0.5
    """That it is cutmix, where both are on."""
    rollback: RollbackSettings = RollbackSettings()
    """What happens when training collapses."""
    validate_every: Annotated[int, Field(ge=0)] = 1
    """Epochs between validations of the largest, a middle and the smallest sub-network; 0: none."""
    tensorboard: bool = False
    """Whether to write a log for TensorBoard as well."""
    save_seconds: Rate = 60.0
    """Seconds between checkpoints within an epoch."""
    keep: Count = 2
    """Checkpoints that stay, beside the last good one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.compile and self.sync_batch_norm:
            raise ValueError("compile and sync_batch_norm do not go together; set one of them to false")
        return self
