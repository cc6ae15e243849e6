"""Phases: a training run is a tuple of them, each with a space, a schedule, a sampler and a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from supernet.architecture import Number
from supernet.space import SearchSpace
from supernet.training.losses import CrossEntropy, Distillation, InPlaceDistillation, Loss
from supernet.training.samplers import Largest, Sampler, Sandwich, Uniform

__all__ = ["Phase", "Schedule", "check_phases", "keep_largest", "plain", "progressive_shrinking", "single_stage"]

Sort = Literal["none", "all", "within trained widths"]

_NOT_WIDTHS = ("resolution", "depth", "kernel")  # choices that do not depend on the order of channels
_EPOCHS_LABEL_FREE = 30  # on the toy bench soft labels alone catch up with labels only after some 30 to 50 epochs


@dataclass(frozen=True)
class Schedule:
    """Epochs and learning rate: a linear warm-up from `warmup_lr` to `peak_lr`, then a cosine to 0, changed every step.

    `epochs` is all of it; the first `warmup_epochs` of them are the warm-up.
    """

    epochs: int
    peak_lr: float
    warmup_epochs: float = 0
    warmup_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"{self.epochs} epochs: the least is 1")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"a warm-up of {self.warmup_epochs} epochs does not fit into {self.epochs} epochs")
        if not 0 <= self.warmup_lr <= self.peak_lr or self.peak_lr <= 0:
            raise ValueError(
                f"learning rates must satisfy 0 <= warmup_lr {self.warmup_lr} <= peak_lr {self.peak_lr} > 0"
            )


@dataclass(frozen=True)
class Phase:
    """One part of a training run.

    Attributes:
        name: for people and logs.
        space: the part of the supernet's space that is trained.
        schedule: epochs and learning rates. Every phase starts with a fresh optimiser.
        sampler: which architectures a step runs; their gradients are summed, not averaged.
        loss: what each of them learns from.
        sort: channels are sorted by importance on entering; "within trained widths" keeps the segments between the
            widths of the phase before.
        clip: limit of every element of the summed gradient; None: no limit.
        regularise: which sub-networks are trained with dropout and the like: all, or only the largest of a step.
    """

    name: str
    space: SearchSpace
    schedule: Schedule
    sampler: Sampler = field(default_factory=Largest)
    loss: Loss = field(default_factory=CrossEntropy)
    sort: Sort = "none"
    clip: float | None = None
    regularise: Literal["all", "largest"] = "all"

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"phase {self.name!r}: gradients cannot be clipped at {self.clip}; use None for no limit")
        if not self.sampler.largest_first:
            needs = "in-place distillation" if self.loss.teacher == "in place" else "regularising only the largest"
            if self.loss.teacher == "in place" or self.regularise == "largest":
                raise ValueError(
                    f"phase {self.name!r}: {needs} needs the largest network in every step, which "
                    f"{type(self.sampler).__name__} does not give; use Sandwich"
                )


# Published for 32 processes as 2.6, 0.96, 0.08 and 0.24; the warm-up starts at the rate of one process.
_LARGEST = Schedule(180, 2.6 / 32, 5)
_FULL = Schedule(125, 3e-2, 5, 3e-2)
_STEP = Schedule(25, 2.5e-3)
_LAST_STEP = Schedule(125, 7.5e-3, 5, 7.5e-3)


def plain(
    space: SearchSpace, schedule: Schedule, label_smoothing: float = 0.1, clip: float | None = None
) -> tuple[Phase]:
    """Ordinary training of the largest network, as for a baseline: one phase."""
    return (Phase("plain", space, schedule, Largest(), CrossEntropy(label_smoothing), clip=clip),)


def single_stage(
    space: SearchSpace,
    schedule: Schedule,
    n_random: int = 2,
    label_weight: tuple[float, float] = (1.0, 0.0),
    warmup: Schedule | None = None,
    label_smoothing: float = 0.1,
    clip: float | None = 1.0,
) -> tuple[Phase, ...]:
    """Sandwich rule with in-place distillation (BigNAS, Yu et al. 2020; AttentiveNAS, Wang et al. 2021).

    Every step trains the largest network on labels, then `n_random` random ones and the smallest on its logits, with
    the labels at the weights `label_weight` from the first to the last step; only the largest is regularised.
    `warmup` is a phase of the largest network alone before that: it matters for short trainings.
    """
    loss = InPlaceDistillation(label_weight, label_smoothing)
    sandwich = Phase("sandwich", space, schedule, Sandwich(n_random), loss, clip=clip, regularise="largest")
    if warmup is None:
        return (sandwich,)
    return (Phase("largest", space, warmup, Largest(), CrossEntropy(label_smoothing), clip=clip), sandwich)


def progressive_shrinking(
    space: SearchSpace,
    largest: Schedule | None = _LARGEST,
    full: Schedule = _FULL,
    step: Schedule = _STEP,
    last_step: Schedule = _LAST_STEP,
    at_once: Sequence[str] = ("kernel",),
    step_by_step: Sequence[str] = ("depth", "expand", "width"),
    subnets: Mapping[str, int] | None = None,
    distillation_weight: float = 1.0,
    label_smoothing: float = 0.1,
) -> tuple[Phase, ...]:
    """Progressive shrinking (Once-for-All, Cai et al. 2020): the largest network, then ever smaller ones with it.

    The first phase trains the largest network, at every resolution; its result is the teacher of all others. Then one
    phase per name of `at_once` opens all its choices, and one phase per choice of every name of `step_by_step` opens
    the next smaller one. Channels are sorted before the first phase of each width, and within the trained widths
    before its others. The default schedules are those published, per process with a batch of 64; for n processes
    multiply the peak rates by n and leave the rates of the warm-up.

    Args:
        space: the whole space; a name that it does not have, or with a single choice, gives no phase.
        largest: schedule of the first phase; None when the largest network is trained already.
        full: schedule of the phases of `at_once`.
        step: schedule of every step of `step_by_step` but the last.
        last_step: schedule of the last step of each.
        at_once: names of choices that are opened all at once.
        step_by_step: names of choices that are opened one after the other.
        subnets: sub-networks per step by name; published are 1 for kernel, 2 for depth, and 4 for the rest.
        distillation_weight: weight of the teacher's soft labels beside the labels; 0: no teacher.
        label_smoothing: of the labels.

    Raises:
        ValueError: a choice of the space belongs to no name, so it would never be trained.
    """
    n_choices = {gene.name: 0 for gene in space.genes}
    for gene in space.genes:
        n_choices[gene.name] = max(n_choices[gene.name], len(gene.choices))
    elastic = {name for name, n in n_choices.items() if n > 1 and name != "resolution"}
    if missing := sorted(elastic - {*at_once, *step_by_step}):
        raise ValueError(f"{', '.join(missing)} would never shrink; name it in at_once or step_by_step")

    subnets = {"kernel": 1, "depth": 2, **(subnets or {})}
    loss = Distillation(distillation_weight, label_smoothing) if distillation_weight else CrossEntropy(label_smoothing)
    kept = dict.fromkeys(elastic, 1)
    phases: list[Phase] = []
    if largest is not None:
        phases.append(Phase("largest", keep_largest(space, kept), largest, Uniform(1), CrossEntropy(label_smoothing)))
    for name in (name for name in at_once if name in elastic):
        kept[name] = n_choices[name]
        phases.append(Phase(name, keep_largest(space, kept), full, Uniform(subnets.get(name, 4)), loss))
    for name in (name for name in step_by_step if name in elastic):
        for i in range(1, n_choices[name]):
            kept[name] = i + 1
            schedule = last_step if kept[name] == n_choices[name] else step
            sort: Sort = "none"
            if name not in _NOT_WIDTHS:
                sort = "within trained widths" if phases and _has_widths(phases[-1].space) else "all"
            sampler = Uniform(subnets.get(name, 4))
            phases.append(Phase(f"{name} {i}", keep_largest(space, kept), schedule, sampler, loss, sort))
    return tuple(phases)


def keep_largest(space: SearchSpace, counts: Mapping[str, int]) -> SearchSpace:
    """The sub-space in which every choice named in `counts` keeps only that many of its largest values."""

    def keep(name: str, choices: tuple[Number, ...]) -> tuple[Number, ...]:
        return choices[-counts[name] :] if name in counts else choices

    def keep_all(mapping: Mapping[str, tuple[Number, ...]]) -> dict[str, tuple[Number, ...]]:
        return {name: keep(name, choices) for name, choices in mapping.items()}

    stages = tuple(
        replace(
            stage,
            depths=keep("depth", stage.depths),
            blocks=tuple(keep_all(block) for block in stage.blocks),
            shared=keep_all(stage.shared),
        )
        for stage in space.stages
    )
    resolutions = tuple(int(r) for r in keep("resolution", space.resolutions))
    return replace(space, resolutions=resolutions, stages=stages, settings=keep_all(space.settings))


def check_phases(phases: Sequence[Phase], space: SearchSpace) -> None:
    """Refuse what cannot be trained, or is known to train badly.

    Raises:
        ValueError: a phase leaves the space of the supernet, sorts channels whose order trained widths depend on, or
            learns from nothing but a teacher that is not yet any good.
    """
    if not phases:
        raise ValueError("a training run needs at least one phase")
    trained_widths = False
    for i, phase in enumerate(phases):
        if phase.space.largest not in space or phase.space.smallest not in space:
            raise ValueError(f"phase {phase.name!r} trains architectures that are not in the space of the supernet")
        if phase.sort == "all" and trained_widths:
            raise ValueError(
                f"phase {phase.name!r} sorts all channels after narrower networks were trained, which destroys them; "
                "sort within trained widths"
            )
        if phase.sort == "within trained widths" and not trained_widths:
            raise ValueError(f"phase {phase.name!r} sorts within trained widths, but none were trained; sort all")
        label_free = isinstance(phase.loss, InPlaceDistillation) and phase.loss.label_weight == (0, 0)
        if i == 0 and label_free and phase.schedule.epochs < _EPOCHS_LABEL_FREE:
            raise ValueError(
                f"phase {phase.name!r} starts from soft labels alone and has {phase.schedule.epochs} epochs; in fewer "
                f"than {_EPOCHS_LABEL_FREE} the teacher is too poor: use label_weight (1, 0), or a warm-up phase"
            )
        trained_widths |= not isinstance(phase.sampler, Largest) and _has_widths(phase.space)


def _has_widths(space: SearchSpace) -> bool:
    return any(len(gene.choices) > 1 and gene.name not in _NOT_WIDTHS for gene in space.genes)
