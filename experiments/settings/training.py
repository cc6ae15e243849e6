"""The `[training]` section of a recipe: methods and schedules.

What a default is and what goes together is said by the parts in `supernet.training`; a section makes its part to check
itself, on a small space that has everything that can be chosen.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import model_validator

from experiments.settings.sampling import ANY, ImitationSettings, PathwaysSettings, RelationSettings, SamplingSettings
from experiments.settings.target import Target, read_target
from experiments.settings.values import Below1, NotNegative, Section, default
from supernet.pruning.spec import Pruning, Rule
from supernet.space import SearchSpace, Stage
from supernet.space.roles import ROLES, Role
from supernet.training.draws import CountsMacs
from supernet.training.engine import MOMENTUM, WEIGHT_DECAY
from supernet.training.imitation import Imitation
from supernet.training.losses import LABEL_SMOOTHING
from supernet.training.methods import fine_tuning, pruning, random_sampling, single_stage
from supernet.training.phases import Phase, Schedule, check_phases, with_pathways, with_relation
from supernet.training.shrinking import SUBNETS, gradual_shrinking, progressive_shrinking

__all__ = [
    "FineTuningSettings",
    "GradualShrinkingSettings",
    "NoTrainingSettings",
    "OptimisationSettings",
    "ProgressiveShrinkingSettings",
    "PruningSettings",
    "RandomSamplingSettings",
    "ScheduleSettings",
    "SingleStageSettings",
    "SubnetsPerStep",
    "TrainedSettings",
    "TrainingSettings",
]

_NO_KERNELS = SearchSpace((32,), (Stage.uniform((1, 2), expand=(3, 4), width=(8, 16)),))


class ScheduleSettings(Section):
    """Epochs and learning rate: linear warm-up, then a cosine."""

    epochs: int
    """Epochs, the warm-up included."""
    peak_lr: float
    """Highest learning rate."""
    warmup_epochs: float = Schedule.warmup_epochs
    """Epochs of the warm-up."""
    warmup_lr: float = Schedule.warmup_lr
    """Learning rate at the beginning of the warm-up."""
    final_share: float = Schedule.final_share
    """Share of the highest learning rate at which the cosine ends; BigNAS keeps 0.05."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _ = self.schedule
        return self

    @property
    def schedule(self) -> Schedule:
        """The schedule itself."""
        return Schedule(**self.model_dump())


class NoTrainingSettings(Section):
    """The supernet is used as it is: with `supernet.weights`, or as its own factory made it."""

    method: Literal["none"]
    """The name of this method."""


class OptimisationSettings(Section):
    """How everything that is trained is optimised: the supernet, and baselines beside it."""

    momentum: Below1 = MOMENTUM
    """Nesterov momentum of SGD."""
    weight_decay: NotNegative = WEIGHT_DECAY
    """Weight decay; biases and BatchNorm have none."""
    label_smoothing: Below1 = LABEL_SMOOTHING
    """Smoothing of the labels."""
    drop_rate: Below1 = 0.0
    """Dropout before the classifier; of the largest alone in single_stage and fine_tuning, never of a teacher."""
    drop_path_rate: Below1 = 0.0
    """Stochastic depth of the last block, from 0 at the first one on; for the same networks."""


class TrainedSettings(OptimisationSettings):
    """What all methods that train the supernet have."""

    sampling: SamplingSettings = SamplingSettings()
    """How random sub-networks are drawn."""
    imitation: ImitationSettings = ImitationSettings()
    """What is taken from the teacher."""
    relation: RelationSettings | None = None
    """What is taken from the teacher's attention, beside that; for transformers."""
    pathways: PathwaysSettings | None = None
    """Attention to a part of the tokens while training; for transformers."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self._has_teacher and "kind" in self.imitation.model_fields_set:
            raise ValueError(
                "imitation is of a teacher, and with distillation_weight 0 or split_batch there is none; remove one"
            )
        check_phases(self.with_options(self.phases(self._trial_space), self._trial_space), self._trial_space)
        return self

    def with_options(
        self, phases: Sequence[Phase], space: SearchSpace, supernet: CountsMacs | None = None
    ) -> tuple[Phase, ...]:
        """The phases of the method with what every method can have: `sampling`, `relation`, `pathways`.

        Raises:
            ValueError: something does not go together, or does not fit the space.
        """
        phases = self.sampling.apply(phases, space, supernet)
        if self.relation is not None:
            phases = with_relation(phases, self.relation.relation)
        return phases if self.pathways is None else with_pathways(phases, self.pathways.pathways)

    @property
    def _has_teacher(self) -> bool:
        """Whether anything is imitated."""
        return True

    @property
    def _trial_space(self) -> SearchSpace:
        """Where the method is tried out."""
        return ANY

    @abstractmethod
    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """The phases of a supernet of `space`, before `with_options`.

        Args:
            space: of the supernet.
            roles: of its choices.
            imitation: instead of the recipe's.

        Raises:
            ValueError: the method does not fit the space.
        """


class SingleStageSettings(TrainedSettings):
    """Largest, smallest and random sub-networks in every step; the largest teaches the others."""

    method: Literal["single_stage"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training of all sub-networks; with a warm-up of a sixth of it after `largest`, or points are lost."""
    largest: ScheduleSettings | None = None
    """Of the largest network alone before that; default none."""
    n_random: int = default(single_stage, "n_random")
    """Random sub-networks per step, beside the largest and the smallest."""
    label_weight: tuple[float, float] = default(single_stage, "label_weight")
    """Weight of the labels against the teacher's, at the first and at the last step."""
    clip: float = default(single_stage, "clip")
    """Limit of the elements of the gradient."""

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        return single_stage(
            space,
            self.schedule.schedule,
            self.n_random,
            self.label_weight,
            self.largest and self.largest.schedule,
            self.label_smoothing,
            self.clip,
            imitation or self.imitation.imitation,
        )


class SubnetsPerStep(Section):
    """Sub-networks per step of the phases of progressive shrinking, by what they open; what a supernet does not have
    is refused."""

    kernel: int = SUBNETS["kernel"]
    """In the kernel phase."""
    depth: int = SUBNETS["depth"]
    """In the depth phases."""
    middle_width: int = SUBNETS["middle_width"]
    """In the phases of widths inside blocks and of heads."""
    outer_width: int = SUBNETS["outer_width"]
    """In the phases of widths between blocks and of embeddings."""


class ProgressiveShrinkingSettings(TrainedSettings):
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
    distillation_weight: NotNegative = default(progressive_shrinking, "distillation_weight")
    """Weight of the teacher beside the labels; 0: no teacher."""

    @property
    def _has_teacher(self) -> bool:
        return self.distillation_weight > 0

    @property
    def _trial_space(self) -> SearchSpace:
        return _NO_KERNELS if self.full is None else ANY

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        return progressive_shrinking(
            space,
            largest=self.largest and self.largest.schedule,
            full=self.full and self.full.schedule,
            step=self.step.schedule,
            last_step=self.last_step.schedule,
            subnets=self.subnets.model_dump(include=self.subnets.model_fields_set),
            distillation_weight=self.distillation_weight,
            label_smoothing=self.label_smoothing,
            imitation=imitation or self.imitation.imitation,
            roles=roles,
        )


class GradualShrinkingSettings(TrainedSettings):
    """Progressive shrinking inside one schedule: ranges open early, every step is a sandwich of what is open."""

    method: Literal["gradual_shrinking"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training of all sub-networks; with a warm-up as long as the ranges open, or points are lost."""
    largest: ScheduleSettings | None = None
    """Of the largest network alone in a phase before that; default none."""
    opening: float = default(gradual_shrinking, "opening")
    """Share of the steps of `schedule` over which kernels, then depths, then widths open; 0: all are open at once."""
    n_random: int = default(gradual_shrinking, "n_random")
    """Random sub-networks per step, beside the largest and the smallest of what is open."""
    label_weight: tuple[float, float] = default(gradual_shrinking, "label_weight")
    """Weight of the labels against the teacher's, at the first and at the last step."""
    sort: bool = default(gradual_shrinking, "sort")
    """Whether channels are sorted by importance before the first sub-network is trained."""
    clip: float = default(gradual_shrinking, "clip")
    """Limit of the elements of the gradient."""
    split_batch: bool = default(gradual_shrinking, "split_batch")
    """Each sub-network of a step on its own share of the images and on their labels alone, without a teacher."""

    @property
    def _has_teacher(self) -> bool:
        return not self.split_batch

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        if self.split_batch and "label_weight" in self.model_fields_set:
            raise ValueError("label_weight is against a teacher, and with split_batch there is none; remove one")
        return gradual_shrinking(
            space,
            self.schedule.schedule,
            self.largest and self.largest.schedule,
            self.opening,
            self.n_random,
            self.label_weight,
            self.sort,
            self.label_smoothing,
            self.clip,
            imitation or self.imitation.imitation,
            roles=roles,
            split_batch=self.split_batch,
        )


class PruningSettings(TrainedSettings):
    """One small network in one training: units of the largest are driven to zero and cut out; nothing is searched.

    The network is taken by its dependency graph; the run ends with its bundle (HESSO, Chen et al. 2024; DHSPG, 2023).
    A latency is predicted from measurements of the device, which is measured before the training.
    """

    method: Literal["pruning"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training."""
    target: float | str
    """What is left at most: a share, or a limit such as 'macs <= 60%', 'parameters <= 300k', 'units <= 50%',
    'latency@cpu-b1 <= 0.05ms' or 'latency@cpu-b1 <= 60%'."""
    of: Literal["macs", "parameters", "units"] = "macs"
    """What a target without a name is a share of."""
    by: Rule = Pruning.by
    """The rule: units shrink in portions (hesso), and after trials (hesso_cric), or are pulled and projected (dhspg),
    whole operators so (h2spg); gates learn what is needed (consensus); widths and depths are learned (tas)."""
    begin: float = Pruning.begin
    """Share of the steps before the first unit shrinks."""
    end: float = Pruning.end
    """Share of the steps after which nothing more goes; the rest trains what is left."""
    periods: int = Pruning.periods
    """Portions, for by = 'hesso'."""
    importance: str = Pruning.importance
    """What is kept, but for gates and tas: l1, l2, norm_scale, cosine, taylor1, taylor2 or their blend."""
    outer: bool = Pruning.outer
    """Whether channels between blocks go, too."""
    clip: float | None = default(pruning, "clip")
    """Limit of the elements of the gradient; default none."""

    @property
    def _has_teacher(self) -> bool:
        return False

    @property
    def how(self) -> Pruning:
        """The settings of the pruner."""
        names = ("by", "begin", "end", "periods", "importance", "outer")
        aim = self.aim
        return Pruning(aim.value, of=aim.of, absolute=aim.absolute, **{name: getattr(self, name) for name in names})

    @property
    def aim(self) -> Target:
        """What is to be left.

        Raises:
            ValueError: it cannot be read.
        """
        if isinstance(self.target, str):
            if "of" in self.model_fields_set:
                raise ValueError(f"target {self.target!r} says what it is about; remove `of`")
            return read_target(self.target)
        return Target(self.of, self.target)

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        return pruning(space, self.schedule.schedule, self.how, self.label_smoothing, self.clip)


class FineTuningSettings(TrainedSettings):
    """Fine-tuning of a pretrained network with sub-networks beside it (InstaTune)."""

    method: Literal["fine_tuning"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the fine-tuning."""
    largest: ScheduleSettings | None = None
    """Of the full network alone before that; default none."""
    n_random: int = default(fine_tuning, "n_random")
    """Random sub-networks per step, beside the full network."""
    teacher: Literal["in_place", "frozen"] = "in_place"
    """The full network in the same step, or as it was before the sub-networks came."""
    distillation_weight: float = default(fine_tuning, "distillation_weight")
    """Weight of the teacher beside the labels."""
    clip: float | None = default(fine_tuning, "clip")
    """Limit of the elements of the gradient; default none."""

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        return fine_tuning(
            space,
            self.schedule.schedule,
            self.n_random,
            "frozen" if self.teacher == "frozen" else "in place",
            self.distillation_weight,
            self.largest and self.largest.schedule,
            self.label_smoothing,
            self.clip,
            imitation or self.imitation.imitation,
        )


class RandomSamplingSettings(TrainedSettings):
    """Drawn sub-networks in every step and nothing else (single path one-shot; SortedNet)."""

    method: Literal["random_sampling"]
    """The name of this method."""
    schedule: ScheduleSettings
    """Of the training of all sub-networks."""
    largest: ScheduleSettings | None = None
    """Of the largest network alone before that; default none."""
    n: int = default(random_sampling, "n")
    """Sub-networks per step."""
    split_batch: bool = default(random_sampling, "split_batch")
    """Each of them on its own share of the images, as SortedNet does, instead of on all."""
    multi_architecture: bool = default(random_sampling, "multi_architecture")
    """The same, all in one pass by masks, and every choice equally often; for 'multi_stage_vit'."""
    opening: float = default(random_sampling, "opening")
    """Share of the steps of `schedule` over which the choices grow from the largest alone to all; 0: all at once."""
    distillation_weight: NotNegative = default(random_sampling, "distillation_weight")
    """Weight of the teacher, the network that `largest` leaves, beside the labels; 0: no teacher."""
    clip: float | None = default(random_sampling, "clip")
    """Limit of the elements of the gradient; default none."""

    @property
    def _has_teacher(self) -> bool:
        return self.distillation_weight > 0

    def phases(
        self, space: SearchSpace, roles: Mapping[str, Role] = ROLES, imitation: Imitation | None = None
    ) -> tuple[Phase, ...]:
        """See `TrainedSettings`."""
        return random_sampling(
            space,
            self.schedule.schedule,
            self.n,
            self.distillation_weight,
            self.largest and self.largest.schedule,
            self.label_smoothing,
            self.clip,
            self.split_batch,
            self.multi_architecture,
            self.opening,
            imitation or self.imitation.imitation,
        )


TrainingSettings = (
    SingleStageSettings
    | ProgressiveShrinkingSettings
    | GradualShrinkingSettings
    | FineTuningSettings
    | RandomSamplingSettings
    | PruningSettings
    | NoTrainingSettings
)
"""Of any method."""
