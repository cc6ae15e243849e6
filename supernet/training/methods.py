"""Methods of training in one go: plain, single stage, fine-tuning of a pretrained network, and random sampling."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

from supernet.pruning.spec import Pruning
from supernet.space import SearchSpace
from supernet.space.stage import Choices
from supernet.training.draws import Cycles
from supernet.training.imitation import Imitation, SoftLabels
from supernet.training.losses import LABEL_SMOOTHING, CrossEntropy, Distillation, InPlaceDistillation, OnlineTeacher
from supernet.training.phases import Phase, Schedule
from supernet.training.samplers import Largest, Sandwich, Uniform

__all__ = ["fine_tuning", "plain", "pruning", "random_sampling", "single_stage"]


def plain(
    space: SearchSpace, schedule: Schedule, label_smoothing: float = LABEL_SMOOTHING, clip: float | None = None
) -> tuple[Phase]:
    """Ordinary training of the largest network, as for a baseline: one phase."""
    return (Phase("plain", space, schedule, Largest(), CrossEntropy(label_smoothing), clip=clip),)


def pruning(
    space: SearchSpace,
    schedule: Schedule,
    how: Pruning,
    label_smoothing: float = LABEL_SMOOTHING,
    clip: float | None = None,
) -> tuple[Phase]:
    """Training of the largest network while units of it are driven to zero: it ends as one small network."""
    loss = CrossEntropy(label_smoothing)
    return (Phase("pruning", space, schedule, Largest(), loss, clip=clip, pruning=how),)


def single_stage(
    space: SearchSpace,
    schedule: Schedule,
    n_random: int = 2,
    label_weight: tuple[float, float] = (1.0, 0.0),
    warmup: Schedule | None = None,
    label_smoothing: float = LABEL_SMOOTHING,
    clip: float | None = 1.0,
    imitation: Imitation | None = None,
    teacher: OnlineTeacher = "in place",
) -> tuple[Phase, ...]:
    """Sandwich rule with in-place distillation (BigNAS, Yu et al. 2020; AttentiveNAS, Wang et al. 2021).

    Every step trains the largest network on labels, then `n_random` random ones and the smallest on its logits, with
    the labels at the weights `label_weight` from the first to the last step; only the largest is regularised.
    `warmup` is a phase of the largest network alone before that: it matters for short trainings, and so does a warm-up
    of `schedule` after it, since the gradients of the first steps are several times larger. Others may teach
    instead of the largest: see `InPlaceDistillation`.
    """
    loss = InPlaceDistillation(label_weight, label_smoothing, imitation or SoftLabels(), teacher)
    sandwich = Phase(
        "sandwich",
        space,
        schedule,
        Sandwich(n_random, descending=teacher == "next larger"),
        loss,
        clip=clip,
        regularise="largest",
    )
    return (*_largest(space, warmup, label_smoothing, clip), sandwich)


def fine_tuning(
    space: SearchSpace,
    schedule: Schedule,
    n_random: int = 1,
    teacher: Literal["in place", "frozen"] = "in place",
    distillation_weight: float = 1.0,
    largest: Schedule | None = None,
    label_smoothing: float = LABEL_SMOOTHING,
    clip: float | None = None,
    imitation: Imitation | None = None,
) -> tuple[Phase, ...]:
    """Fine-tuning of a pretrained network, with sub-networks trained beside it (InstaTune, Sarah et al. 2023).

    Heads, neurons and channels are sorted by importance once. Then every step trains the full network on the labels,
    and `n_random` drawn ones on the labels plus the logits of the teacher: of the full network in the same step, or of
    the network as it was before; only the full network is regularised. `largest` is a phase of the full network alone
    before that, for a frozen teacher that has to learn the labels first.
    """
    loss = Distillation(distillation_weight, label_smoothing, teacher, imitation or SoftLabels())
    sampler = Sandwich(n_random, smallest=False)
    tuned = Phase("fine-tuning", space, schedule, sampler, loss, sort="all", clip=clip, regularise="largest")
    return (*_largest(space, largest, label_smoothing, clip), tuned)


def random_sampling(
    space: SearchSpace,
    schedule: Schedule,
    n: int = 1,
    distillation_weight: float = 0.0,
    largest: Schedule | None = None,
    label_smoothing: float = LABEL_SMOOTHING,
    clip: float | None = None,
    split_batch: bool = False,
    multi_architecture: bool = False,
    opening: float = 0.0,
    imitation: Imitation | None = None,
) -> tuple[Phase, ...]:
    """`n` drawn sub-networks in every step and nothing else (single path one-shot, Guo et al. 2020; SortedNet).

    With `split_batch` each has its own share of the images (SortedNet, Valipour et al. 2023). With
    `multi_architecture`, too, and all of them are computed in one pass by masks, every choice of a gene as often as the
    others among them (ViT-ResNAS, Liao et al. 2021); for supernets that have `forward_many`. Over the share `opening`
    of the steps of `schedule` the choices of every gene grow from the largest alone to all, as published over a
    quarter.

    They learn from the labels, and with a `distillation_weight` from the frozen network that the phase of the largest
    network alone, `largest`, leaves.

    Raises:
        ValueError: distillation without that phase, or an `opening` outside [0, 1).
    """
    if not 0 <= opening < 1:
        raise ValueError(f"opening {opening:g} is a share of the steps: from 0, all choices at once, to below 1")
    if distillation_weight and largest is None:
        raise ValueError(
            f"distillation_weight {distillation_weight:g} needs a trained teacher: give `largest`, or weight 0"
        )
    loss = CrossEntropy(label_smoothing)
    if distillation_weight:
        loss = Distillation(distillation_weight, label_smoothing, "frozen", imitation or SoftLabels())
    sampled = Phase(
        "random",
        space,
        schedule,
        Uniform(n, Cycles()) if multi_architecture else Uniform(n),
        loss,
        clip=clip,
        split_batch=split_batch or multi_architecture,
        one_pass=multi_architecture,
        opening=_growing(space, opening) if opening else (),
    )
    return (*_largest(space, largest, label_smoothing, clip), sampled)


def _growing(space: SearchSpace, opening: float) -> tuple[tuple[float, SearchSpace], ...]:
    """Parts of a space for `Phase.opening`, in which every gene has its largest choices, of m ever more: of the share t
    of the opening 1 and the whole part of t (m - 1)."""
    steps = sorted({Fraction(i, len(g.choices) - 1) for g in space.genes[1:] for i in range(1, len(g.choices))})

    def part(share: Fraction) -> SearchSpace:
        def largest(name: str, choices: Choices) -> Choices:
            return choices if name == "resolution" else choices[-1 - int(share * (len(choices) - 1)) :]

        return space.narrowed(largest)

    return tuple((float(opening * end), part(start)) for start, end in pairwise((Fraction(0), *steps)))


def _largest(
    space: SearchSpace, schedule: Schedule | None, label_smoothing: float, clip: float | None
) -> tuple[Phase, ...]:
    if schedule is None:
        return ()
    return (Phase("largest", space, schedule, Largest(), CrossEntropy(label_smoothing), clip=clip),)
