"""The `[training]` section of a recipe: methods, schedules, what is sampled and what is learned from the teacher."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from experiments.settings.sections import Count, Portion, Rate, Section, Share

__all__ = [
    "AttentiveSettings",
    "FineTuningSettings",
    "ImitationSettings",
    "NoTrainingSettings",
    "OptimisationSettings",
    "ProgressiveShrinkingSettings",
    "RandomSamplingSettings",
    "SamplingSettings",
    "ScheduleSettings",
    "ShiftSettings",
    "SingleStageSettings",
    "SubnetsPerStep",
    "TrainedSettings",
    "TrainingSettings",
]

_SAFE_CLAMP, _SAFE_WEIGHT = 1.0, 0.3  # of supernet.training.AlphaDivergence, which would load torch
_EPOCHS_LABEL_FREE = 30  # as in supernet.training.phases


class ScheduleSettings(Section):
    """Epochs and learning rate: linear warm-up, then a cosine."""

    epochs: Count
    """Epochs, the warm-up included."""
    peak_lr: Rate
    """Highest learning rate."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Epochs of the warm-up."""
    warmup_lr: Annotated[float, Field(ge=0)] = 0.0
    """Learning rate at the beginning of the warm-up."""
    final_share: Share = 0.0
    """Share of the highest learning rate at which the cosine ends; BigNAS keeps 0.05."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be below epochs {self.epochs}")
        if self.warmup_lr > self.peak_lr:
            raise ValueError(f"warmup_lr {self.warmup_lr:g} must not be above peak_lr {self.peak_lr:g}")
        return self


class AttentiveSettings(Section):
    """Of several candidates of one MAC bin the best or the worst is trained (AttentiveNAS)."""

    candidates: Annotated[int, Field(ge=2)] = 3
    """Candidates for every random place of a step; each costs a forward pass."""
    train: Literal["best", "worst"] = "best"
    """Which of them is trained: the one of the lowest or the highest loss."""


class ShiftSettings(Section):
    """MAC bins that are behind the largest network are trained more often (ShiftNAS, without its generator)."""

    temperature: Rate = 0.25
    """Of the softmax over the bins, in units of the loss."""
    even_share: Portion = 0.2
    """Share of the steps that is spread evenly over the bins."""
    every: Count = 100
    """Steps between two updates."""
    wait: Annotated[int, Field(ge=0)] = 0
    """Steps of the phase before the first update."""


class SamplingSettings(Section):
    """How the random sub-networks of a step are drawn, with any method."""

    draw: Literal["genes", "architectures", "mac_bins", "nested"] = "genes"
    """Every choice alike, every architecture alike, by bins of the MAC range, or members of a nested family."""
    n_bins: Annotated[int, Field(ge=2)] = 10
    """MAC bins, of equal width; for draw = 'mac_bins'."""
    prior: Literal["even", "natural"] = "even"
    """Probability of the bins: all alike, or as among uniform choices; for draw = 'mac_bins'."""
    attentive: AttentiveSettings | None = None
    """Choose among candidates by their loss; for draw = 'mac_bins'."""
    shift: ShiftSettings | None = None
    """Shift the probabilities of the bins by their losses; for draw = 'mac_bins'."""
    levels: Annotated[int, Field(ge=2)] = 9
    """Members of the nested family, from the smallest to the largest; for draw = 'nested'."""
    level_weights: tuple[Annotated[float, Field(ge=0)], ...] = ()
    """Probabilities of the levels, up to a factor; [] is all alike; for draw = 'nested'."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = self.model_fields_set
        for adaptive in ("attentive", "shift"):
            if adaptive in given and self.draw == "nested":
                raise ValueError(f"{adaptive} and a nested family both decide what is trained how often; remove one")
            if adaptive in given and self.draw != "mac_bins":
                raise ValueError(f"{adaptive} compares MAC bins, which draw {self.draw!r} has not; set draw 'mac_bins'")
        if self.attentive is not None and self.shift is not None:
            raise ValueError("attentive and shift both decide what is trained; remove one")
        own = {"mac_bins": {"n_bins", "prior", "attentive", "shift"}, "nested": {"levels", "level_weights"}}
        for draw, names in own.items():
            if draw != self.draw and (foreign := sorted(names & given)):
                raise ValueError(f"{foreign[0]} has no meaning for draw {self.draw!r}; remove it, or set {draw!r}")
        if self.level_weights and len(self.level_weights) != self.levels:
            raise ValueError(f"{len(self.level_weights)} level_weights for {self.levels} levels; give one for each")
        return self


class ImitationSettings(Section):
    """What a sub-network takes from its teacher."""

    kind: Literal["soft_labels", "mean_square", "alpha_divergence"] = "soft_labels"
    """The teacher's probabilities, its logits, or the larger of two α-divergences (AlphaNet)."""
    alphas: tuple[float, float] = (-1.0, 1.0)
    """The two α; for kind = 'alpha_divergence'."""
    clamp: Rate = _SAFE_CLAMP
    """Limit of the importance ratios; for kind = 'alpha_divergence'."""
    weight: Rate = 1.0
    """Factor of the divergence; for kind = 'alpha_divergence'."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind != "alpha_divergence":
            if foreign := sorted({"alphas", "clamp", "weight"} & self.model_fields_set):
                raise ValueError(f"{foreign[0]} has no meaning for kind {self.kind!r}; remove it")
        elif 0 in self.alphas:
            raise ValueError(f"alphas {list(self.alphas)} must not be 0")
        elif self.clamp > _SAFE_CLAMP and self.weight > _SAFE_WEIGHT:
            raise ValueError(
                f"an α-divergence of clamp {self.clamp:g} and weight {self.weight:g} collapses with small batches; "
                f"take a clamp of at most {_SAFE_CLAMP:g}, or a weight of at most {_SAFE_WEIGHT:g}"
            )
        return self

    @property
    def is_alpha(self) -> bool:
        """Whether it is an α-divergence."""
        return self.kind == "alpha_divergence"


class NoTrainingSettings(Section):
    """The supernet is used as it is: with `supernet.weights`, or as its own factory made it."""

    method: Literal["none"]
    """The name of this method."""


class OptimisationSettings(Section):
    """How everything that is trained is optimised: the supernet, and baselines beside it."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: Annotated[float, Field(ge=0)] = 3e-5
    """Weight decay; biases and BatchNorm have none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Smoothing of the labels."""
    drop_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the classifier; of the largest alone in single_stage and fine_tuning, never of a teacher."""
    drop_path_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Stochastic depth of the last block, from 0 at the first one on; for the same networks."""


class _Training(OptimisationSettings):
    sampling: SamplingSettings = SamplingSettings()
    """How random sub-networks are drawn."""
    imitation: ImitationSettings = ImitationSettings()
    """What is taken from the teacher."""


class SingleStageSettings(_Training):
    """Largest, smallest and random sub-networks in every step; the largest teaches the others."""

    method: Literal["single_stage"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training of all sub-networks."""
    largest: ScheduleSettings | None = None
    """Of the largest network alone before that; default none."""
    n_random: Annotated[int, Field(ge=0)] = 2
    """Random sub-networks per step, beside the largest and the smallest."""
    label_weight: tuple[Share, Share] = (1.0, 0.0)
    """Weight of the labels against the teacher's, at the first and at the last step."""
    clip: Rate = 1.0
    """Limit of the elements of the gradient."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        epochs = self.schedule.epochs
        if self.label_weight == (0, 0) and self.largest is None and epochs < _EPOCHS_LABEL_FREE:
            raise ValueError(
                f"label_weight [0, 0] in {epochs} epochs: in fewer than {_EPOCHS_LABEL_FREE} the teacher is too poor; "
                "use [1, 0], or train the largest network first with `largest`"
            )
        return self


class SubnetsPerStep(Section):
    """Sub-networks per step of the phases of progressive shrinking, by what they open; what a supernet does not have
    is refused."""

    kernel: Count | None = None
    """In the kernel phase; default 1."""
    depth: Count | None = None
    """In the depth phases; default 2."""
    middle_width: Count | None = None
    """In the phases of widths inside blocks and of heads; default 4."""
    outer_width: Count | None = None
    """In the phases of widths between blocks and of embeddings; default 4."""


class ProgressiveShrinkingSettings(_Training):
    """The largest network first, then ever smaller ones with it, taught by the largest (Cai et al. 2020)."""

    method: Literal["progressive_shrinking"]
    """The name of this method."""
    largest: ScheduleSettings | None = None
    """Of the largest network, before anything shrinks; default none, for a network that is trained already."""
    full: ScheduleSettings | None = None
    """Of the kernel phase, which opens all kernels; for spaces that have them."""
    step: ScheduleSettings
    """Of every phase that opens a depth or a width, but the last of each."""
    last_step: ScheduleSettings
    """Of the phases that open the smallest depth or width."""
    subnets: SubnetsPerStep = SubnetsPerStep()
    """Sub-networks per step."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the teacher beside the labels; 0: no teacher."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _refuse_alpha_from_frozen(self.imitation)
        return self


class FineTuningSettings(_Training):
    """Fine-tuning of a pretrained network with sub-networks beside it (InstaTune)."""

    method: Literal["fine_tuning"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the fine-tuning."""
    largest: ScheduleSettings | None = None
    """Of the full network alone before that; default none."""
    n_random: Count = 1
    """Random sub-networks per step, beside the full network."""
    teacher: Literal["in_place", "frozen"] = "in_place"
    """The full network in the same step, or as it was before the sub-networks came."""
    distillation_weight: Rate = 1.0
    """Weight of the teacher beside the labels."""
    clip: Rate | None = None
    """Limit of the elements of the gradient; default none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.teacher == "frozen":
            _refuse_alpha_from_frozen(self.imitation)
        elif self.imitation.is_alpha:
            if self.clip is None:
                raise ValueError("an α-divergence without clip lets single steps destroy the weights; set clip = 1.0")
            if self.distillation_weight != 1:
                raise ValueError("the weight of an α-divergence is imitation.weight; remove distillation_weight")
        return self


class RandomSamplingSettings(_Training):
    """Drawn sub-networks in every step and nothing else (single path one-shot; SortedNet)."""

    method: Literal["random_sampling"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training of all sub-networks."""
    largest: ScheduleSettings | None = None
    """Of the largest network alone before that; default none."""
    n: Count = 1
    """Sub-networks per step."""
    split_batch: bool = False
    """Each of them on its own share of the images, as SortedNet does, instead of on all."""
    distillation_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the teacher, the network that `largest` leaves, beside the labels; 0: no teacher."""
    clip: Rate | None = None
    """Limit of the elements of the gradient; default none."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _refuse_alpha_from_frozen(self.imitation)
        if self.distillation_weight and self.largest is None:
            raise ValueError(
                f"distillation_weight {self.distillation_weight:g} needs a trained teacher: give `largest`, or weight 0"
            )
        if self.split_batch and (self.sampling.attentive is not None or self.sampling.shift is not None):
            raise ValueError(
                "with split_batch the losses of a step are of different images, which attentive and shift cannot "
                "compare; remove one"
            )
        return self


TrainedSettings = SingleStageSettings | ProgressiveShrinkingSettings | FineTuningSettings | RandomSamplingSettings
"""Of a method that trains the supernet."""

TrainingSettings = TrainedSettings | NoTrainingSettings
"""Of any method."""


def _refuse_alpha_from_frozen(imitation: ImitationSettings) -> None:
    if imitation.is_alpha:
        raise ValueError(
            "an α-divergence from a frozen teacher explodes on small sub-networks, which are far from it at "
            "first; use imitation.kind 'soft_labels'"
        )
