"""Phases: a training run is a tuple of them, each with a space, a schedule, a sampler and a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from supernet.pruning.spec import Pruning
from supernet.space import SearchSpace
from supernet.space.roles import ROLES, Role
from supernet.training.attention import AttentionRelation, Pathways
from supernet.training.draws import Draw, Nested
from supernet.training.imitation import AlphaDivergence, MeanSquare
from supernet.training.losses import OF_THE_STEP, CrossEntropy, Distillation, InPlaceDistillation, Loss, OwnLoss
from supernet.training.samplers import AdaptiveSampler, Largest, Sampler, Sandwich, Uniform

__all__ = [
    "Phase",
    "Schedule",
    "Sort",
    "check_phases",
    "has_widths",
    "is_width",
    "with_draw",
    "with_loss",
    "with_pathways",
    "with_relation",
]

Sort = Literal["none", "all", "within trained widths"]

_NOT_WIDTHS = ("resolution", "depth", "kernel", "switch")  # roles
_EPOCHS_LABEL_FREE = 30  # on the toy bench soft labels alone catch up with labels only after some 30 to 50 epochs


@dataclass(frozen=True)
class Schedule:
    """Epochs and learning rate: a linear warm-up from `warmup_lr` to `peak_lr`, then a cosine, changed every step.

    `epochs` is all of it; the first `warmup_epochs` of them are the warm-up. The cosine ends at `final_share` of the
    peak: 0, or 0.05 in the manner of BigNAS (Yu et al. 2020), whose rate does not fall below.
    """

    epochs: int
    peak_lr: float
    warmup_epochs: float = 0.0
    warmup_lr: float = 0.0
    final_share: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"{self.epochs} epochs: the least is 1")
        if not 0 <= self.warmup_epochs < self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be from 0 to below epochs {self.epochs}")
        if not self.peak_lr > 0:
            raise ValueError(f"peak_lr {self.peak_lr:g} must be above 0")
        if not 0 <= self.warmup_lr <= self.peak_lr:
            raise ValueError(f"warmup_lr {self.warmup_lr:g} must be from 0 to peak_lr {self.peak_lr:g}")
        if not 0 <= self.final_share <= 1:
            raise ValueError(f"final_share {self.final_share} of the learning rate is not in [0, 1]")


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
        split_batch: each architecture of a step is trained on its own equal share of the images, not on all of them
            (SortedNet, Valipour et al. 2023).
        one_pass: with `split_batch`: all architectures of a step in one forward and backward pass, by masks, of a
            supernet that has `forward_many` (ViT-ResNAS, Liao et al. 2021).
        opening: parts of the space in the order in which they open, each with the share of the phase's steps until
            which it alone is trained; after the last of them all of `space` is. One schedule and one optimiser go on
            over all of it.
        pathways: attention within random groups of tokens, for transformers; None: dense.
        pruning: units of the largest network that are driven to zero meanwhile; None: none.

    Raises:
        ValueError: sampler, loss and the rest do not go together; the message says why and what does.
    """

    name: str
    space: SearchSpace
    schedule: Schedule
    sampler: Sampler | AdaptiveSampler = field(default_factory=Largest)
    loss: Loss = field(default_factory=CrossEntropy)
    sort: Sort = "none"
    clip: float | None = None
    regularise: Literal["all", "largest"] = "all"
    split_batch: bool = False
    one_pass: bool = False
    opening: tuple[tuple[float, SearchSpace], ...] = ()
    pathways: Pathways | None = None
    pruning: Pruning | None = None

    def space_at(self, progress: float) -> SearchSpace:
        """What is trained when the share `progress` in [0, 1) of the phase's steps is done."""
        return next((part for until, part in self.opening if progress < until), self.space)

    @property
    def watches_attention(self) -> bool:
        """Whether attention is subsampled, or compared with a teacher's."""
        loss = self.loss
        compared = isinstance(loss, Distillation | InPlaceDistillation) and loss.relation is not None
        return compared or self.pathways is not None

    def __post_init__(self) -> None:
        if (problem := self._problem()) is not None:
            raise ValueError(f"phase {self.name!r}: {problem}")

    def _problem(self) -> str | None:
        if self.pruning is not None and not isinstance(self.sampler, Largest):
            return "pruning makes the largest network small, and smaller ones would be trained beside it; use Largest"
        if self.clip is not None and self.clip <= 0:
            return f"gradients cannot be clipped at {self.clip}; use None for no limit"
        if not self.sampler.largest_first:
            of_the_step = self.loss.teacher in OF_THE_STEP
            needs = "in-place distillation" if of_the_step else "regularising only the largest"
            if of_the_step or self.regularise == "largest":
                return (
                    f"{needs} needs the largest network in every step, which {type(self.sampler).__name__} does not "
                    "give; use Sandwich"
                )
        if self.clip is None and _has_alpha(self.loss):
            return "an α-divergence without clip lets single steps destroy the weights; set clip = 1.0"
        if self.loss.teacher == "next larger" and not getattr(
            getattr(self.sampler, "places", self.sampler), "descending", False
        ):
            return (
                "the next larger sub-network teaches in steps from large to small alone; use Sandwich(descending=True)"
            )
        if self.split_batch and self.loss.teacher in OF_THE_STEP:
            return "with split_batch the largest network sees other images than those it should teach; use CrossEntropy"
        if self.split_batch and isinstance(self.sampler, AdaptiveSampler):
            return "with split_batch the losses of a step are of different images, which cannot be compared; drop it"
        if self.one_pass and (problem := self._problem_of_one_pass()):
            return problem
        if isinstance(self.sampler, Uniform | Sandwich) and isinstance(self.sampler.draw, Nested):
            for i, level in enumerate(self.sampler.draw.family.levels):
                if level not in self.space:
                    return f"level {i + 1} of the nested family, {level}, is not in the space of the phase"
        return self._problem_of_opening()

    def _problem_of_one_pass(self) -> str | None:
        if not self.split_batch:
            return "one pass for all architectures gives each its own images; set split_batch, too"
        if self.regularise == "largest":
            return "one pass cannot regularise the largest network alone; regularise all"
        if isinstance(self.loss, Distillation) and self.loss.relation is not None:
            return "in one pass the attention of a sub-network is among that of others; remove `relation`"
        return None

    def _problem_of_opening(self) -> str | None:
        if self.opening and isinstance(self.sampler, Uniform | Sandwich) and isinstance(self.sampler.draw, Nested):
            return "a nested family has levels of the whole space, which would be trained before it is open; drop one"
        before = 0.0
        for (until, part), (_, later) in pairwise((*self.opening, (1.0, self.space))):
            if not before < until < 1:
                return (
                    f"a part of the space is open until {until:g} of the steps, which is not between {before:g} and 1"
                )
            if part.largest != later.largest or part.smallest not in later:
                return "a part of the space that opens must have its largest network and lie in the next part"
            before = until
        return None


def with_draw(
    phases: Sequence[Phase],
    draw: Draw | None = None,
    adapt: Callable[[Uniform | Sandwich], Sampler | AdaptiveSampler] | None = None,
) -> tuple[Phase, ...]:
    """The same phases with their random architectures drawn by `draw`, and chosen by the sampler that `adapt` makes.

    ``with_draw(phases, MacBins(supernet, prior="natural"), Attentive)`` makes any training attentive. Phases without
    random architectures, those of the largest network alone, stay as they are.
    """

    def changed(phase: Phase) -> Phase:
        sampler = phase.sampler
        if not isinstance(sampler, Uniform | Sandwich) or phase.space.size == len(phase.space.resolutions):
            return phase
        places = sampler if draw is None else replace(sampler, draw=draw)
        return replace(phase, sampler=places if adapt is None else adapt(places))

    return tuple(map(changed, phases))


def with_loss(phases: Sequence[Phase], own: OwnLoss) -> tuple[Phase, ...]:
    """The same phases for a task of one's own: its loss takes the place of the cross-entropy with the labels.

    What is taken from a teacher stays: give the method an imitation that suits, such as `MeanSquare` of the outputs.

    Raises:
        ValueError: a phase imitates the probabilities of classes, which other tasks have not.
    """

    def changed(phase: Phase) -> Phase:
        loss = phase.loss
        if isinstance(loss, CrossEntropy):
            return replace(phase, loss=own)
        if not isinstance(loss, Distillation | InPlaceDistillation):
            return phase
        if not isinstance(loss.imitation, MeanSquare):
            raise ValueError(
                f"phase {phase.name!r} imitates the probabilities of classes ({type(loss.imitation).__name__}), which "
                "only classifiers have; use MeanSquare"
            )
        return replace(phase, loss=replace(loss, own=own))

    return tuple(map(changed, phases))


def with_pathways(phases: Sequence[Phase], pathways: Pathways) -> tuple[Phase, ...]:
    """The same phases with subsampled attention, which is dense at the end of the last of them alone."""
    early = replace(pathways, dense=0.0)
    return tuple(replace(phase, pathways=pathways if phase is phases[-1] else early) for phase in phases)


def with_relation(phases: Sequence[Phase], relation: AttentionRelation) -> tuple[Phase, ...]:
    """The same phases, of which those that have a frozen teacher also learn its relations among tokens.

    A teacher in place has the weights of its students, so every step that brings them nearer moves it away: on the
    digits the relations grew ninefold in 250 steps and nothing was learned, where with a frozen teacher they fell.

    Raises:
        ValueError: none has a teacher, or one has it in place.
    """

    def changed(phase: Phase) -> Phase:
        if not isinstance(phase.loss, Distillation | InPlaceDistillation):
            return phase
        if phase.loss.teacher != "frozen":
            raise ValueError(
                f"phase {phase.name!r}: relations among tokens to a teacher in place run away, since it has the "
                'weights of its students; take a frozen one, such as fine_tuning with teacher = "frozen"'
            )
        return replace(phase, loss=replace(phase.loss, relation=relation))

    found = tuple(map(changed, phases))
    if found == tuple(phases):
        raise ValueError("relations are those of a teacher, and no phase has one; remove them")
    return found


def check_phases(phases: Sequence[Phase], space: SearchSpace, roles: Mapping[str, Role] = ROLES) -> None:
    """Refuse what cannot be trained, or is known to train badly; `roles` are those of the choices of the space.

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
                f"than {_EPOCHS_LABEL_FREE} it teaches badly: set label_weight [1, 0], or train the largest first"
            )
        trained_widths |= not isinstance(phase.sampler, Largest) and has_widths(phase.space, roles)


def has_widths(space: SearchSpace, roles: Mapping[str, Role] = ROLES) -> bool:
    """Whether anything can be chosen in `space` that depends on the order of channels."""
    return any(len(gene.choices) > 1 and is_width(gene.name, roles) for gene in space.genes)


def is_width(name: str, roles: Mapping[str, Role] = ROLES) -> bool:
    """Whether the choice `name` takes the first of some channels, heads or neurons, whose order then matters; a choice
    without a role may well."""
    return roles.get(name) not in _NOT_WIDTHS


def _has_alpha(loss: Loss) -> bool:
    return isinstance(loss, Distillation | InPlaceDistillation) and isinstance(loss.imitation, AlphaDivergence)
