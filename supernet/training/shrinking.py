"""Progressive shrinking: the largest network first, then ever smaller ones with it, in phases or in one schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from supernet.architecture import Number
from supernet.space import SearchSpace
from supernet.space.roles import ROLES, Role
from supernet.training.imitation import Imitation, SoftLabels
from supernet.training.losses import (
    LABEL_SMOOTHING,
    CrossEntropy,
    Distillation,
    InPlaceDistillation,
    Loss,
    OnlineTeacher,
)
from supernet.training.phases import Phase, Schedule, Sort, has_widths, is_width
from supernet.training.samplers import Largest, Sandwich, Uniform

__all__ = ["SUBNETS", "gradual_shrinking", "keep_largest", "progressive_shrinking"]

Group = tuple[Role, ...]

# Published for 32 processes as 2.6, 0.96, 0.08 and 0.24; the warm-up starts at the rate of one process.
_LARGEST = Schedule(180, 2.6 / 32, 5, 2.6 / 32)
_FULL = Schedule(125, 3e-2, 5, 3e-2)
_STEP = Schedule(25, 2.5e-3)
_LAST_STEP = Schedule(125, 7.5e-3, 5, 7.5e-3)

_AT_ONCE: tuple[Group, ...] = (("kernel",),)
_STEP_BY_STEP: tuple[Group, ...] = (("depth", "switch"), ("middle_width", "heads"), ("outer_width", "embedding"))
SUBNETS: Mapping[str, int] = {"kernel": 1, "depth": 2, "middle_width": 4, "outer_width": 4}


def progressive_shrinking(
    space: SearchSpace,
    largest: Schedule | None = _LARGEST,
    full: Schedule | None = _FULL,
    step: Schedule = _STEP,
    last_step: Schedule = _LAST_STEP,
    at_once: Sequence[Group] = _AT_ONCE,
    step_by_step: Sequence[Group] = _STEP_BY_STEP,
    subnets: Mapping[str, int] | None = None,
    distillation_weight: float = 1.0,
    label_smoothing: float = LABEL_SMOOTHING,
    imitation: Imitation | None = None,
    roles: Mapping[str, Role] = ROLES,
) -> tuple[Phase, ...]:
    """Progressive shrinking (Once-for-All, Cai et al. 2020): the largest network, then ever smaller ones with it.

    The first phase trains the largest network, at every resolution; its result is the teacher of all others. Then one
    phase per group of `at_once` opens all choices of its roles, and for every group of `step_by_step` one phase after
    the other opens the next smaller choice of its roles. Channels are sorted before the first phase of widths, and
    within the trained widths before the others. The default schedules are those published, for a step of 64 images; for
    n times as many multiply the peak rates by n and leave the rates of the warm-up.

    Args:
        space: the whole space; a role that it does not have, or with a single choice, gives no phase.
        largest: schedule of the first phase; None when the largest network is trained already.
        full: schedule of the phases of `at_once`; None for a space without such choices.
        step: schedule of every step of `step_by_step` but the last.
        last_step: schedule of the last step of each group.
        at_once: groups of roles of choices that are opened all at once.
        step_by_step: groups of roles of choices that are opened one after the other.
        subnets: sub-networks per step by the first role of the group; published are 1 for the kernel, 2 for the depth
            and 4 for middle widths; 4 for outer widths.
        distillation_weight: weight of the teacher's soft labels beside the labels; 0: no teacher.
        label_smoothing: of the labels.
        imitation: what to take from the teacher; default soft labels, the published alternative is `MeanSquare`.
        roles: of the names of choices; `roles_of` a supernet tells them.

    Raises:
        ValueError: a choice of the space has no role or no schedule, so it would never be trained; or `subnets` of
            roles that the space does not have.
    """
    steps = _steps(space, at_once, step_by_step, roles)
    phased = list(dict.fromkeys(step.role for step in steps))
    for role in subnets or {}:
        if role not in phased:
            raise ValueError(
                f"subnets for {role}: nothing of that is chosen in this space, only {', '.join(phased) or 'nothing'}; "
                "remove it"
            )
    n_subnets = {**SUBNETS, **(subnets or {})}
    loss: Loss = CrossEntropy(label_smoothing)
    if distillation_weight:
        loss = Distillation(distillation_weight, label_smoothing, "frozen", imitation or SoftLabels())
    phases: list[Phase] = []
    if largest is not None:
        alone = keep_largest(space, dict.fromkeys(_elastic(space), 1))
        phases.append(Phase("largest", alone, largest, Uniform(1), CrossEntropy(label_smoothing)))
    for opened in steps:
        if opened.number is None and full is None:
            raise ValueError(f"{', '.join(opened.names)} would never shrink; give `full`, the schedule of its phase")
        name, schedule = opened.names[0], full
        if schedule is None or opened.number is not None:
            name, schedule = f"{name} {opened.number}", last_step if opened.is_last else step
        sort: Sort = "none"
        if any(is_width(one, roles) for one in opened.names):
            sort = "within trained widths" if phases and has_widths(phases[-1].space, roles) else "all"
        phases.append(Phase(name, opened.space, schedule, Uniform(n_subnets.get(opened.role, 4)), loss, sort))
    return tuple(phases)


def gradual_shrinking(
    space: SearchSpace,
    schedule: Schedule,
    largest: Schedule | None = None,
    opening: float = 1 / 6,
    n_random: int = 2,
    label_weight: tuple[float, float] = (1.0, 0.5),
    sort: bool = False,
    label_smoothing: float = LABEL_SMOOTHING,
    clip: float | None = 1.0,
    imitation: Imitation | None = None,
    at_once: Sequence[Group] = _AT_ONCE,
    step_by_step: Sequence[Group] = _STEP_BY_STEP,
    roles: Mapping[str, Role] = ROLES,
    teacher: OnlineTeacher = "in place",
    split_batch: bool = False,
) -> tuple[Phase, ...]:
    """Progressive shrinking inside one schedule, with the sandwich rule.

    As in `progressive_shrinking` (Cai et al. 2020) the largest network comes first, in a phase of its own, and ranges
    open in the same order: groups of `at_once` from the first step on, then the next smaller choice of one group of
    `step_by_step` after the other, evenly over the first `opening` of the steps. But the learning rate falls once, over
    all of it, and every step is a sandwich of what is open, whose largest network teaches the others in place, as in
    `single_stage` (Yu et al. 2020).

    Args:
        space: the whole space; a role that it does not have, or with a single choice, opens nothing.
        schedule: of the training of sub-networks. Give it a warm-up as long as the ranges open: the gradient of the
            first steps is several times that of the largest network alone, and points elsewhere, so that a rate that
            jumps to the highest costs points (docs/training.md).
        largest: of the largest network alone in a phase before that; None when it is trained already.
        opening: share of the steps, from 0 to below 1, over which ranges open.
        n_random: drawn sub-networks per step, beside the largest and the smallest of what is open.
        label_weight: of the labels against the teacher's, at the first and at the last step.
        sort: whether channels are sorted by importance before the first sub-network is trained.
        label_smoothing: of the labels.
        clip: limit of the elements of the gradient; None: no limit.
        imitation: what to take from the teacher; default soft labels.
        at_once: groups of roles of choices that are open from the beginning.
        step_by_step: groups of roles of choices that open one after the other, in this order.
        roles: of the names of choices; `roles_of` a supernet tells them.
        teacher: of what is smaller than the largest; see `InPlaceDistillation`.
        split_batch: each sub-network of a step has its own share of the images, and learns from their labels alone, as
            in SortedNet (Valipour et al. 2023): at equal cost there are several times as many images and steps.
            Nobody teaches then, whatever `label_weight`, `imitation` and `teacher` are.

    Raises:
        ValueError: a choice of the space has no role among the groups, so it would never be trained alone; or `opening`
            is not a share.
    """
    if not 0 <= opening < 1:
        raise ValueError(f"opening {opening:g} is a share of the steps, from 0 to below 1")
    steps = _steps(space, at_once, step_by_step, roles)
    # All of `at_once` is open from the beginning; where there is none, the first step is, since a sandwich of the
    # largest network alone would train it several times.
    n_together = sum(step.number is None for step in steps)
    parts = [step.space for step in steps[max(n_together - 1, 0) : -1]] if opening else []
    loss: Loss = CrossEntropy(label_smoothing)
    if not split_batch:
        loss = InPlaceDistillation(label_weight, label_smoothing, imitation or SoftLabels(), teacher)
    shrinking = Phase(
        "shrinking",
        space,
        schedule,
        Sandwich(n_random, descending=teacher == "next larger"),
        loss,
        sort="all" if sort and has_widths(space, roles) else "none",
        clip=clip,
        split_batch=split_batch,
        regularise="largest",
        opening=tuple((opening * (i + 1) / len(parts), part) for i, part in enumerate(parts)),
    )
    if largest is None:
        return (shrinking,)
    return (Phase("largest", space, largest, Largest(), CrossEntropy(label_smoothing), clip=clip), shrinking)


@dataclass(frozen=True)
class _Step:
    """What opens next: of which role (the first of its group), the names of its choices, and all that is open then.

    `number` counts the steps of a group from 1; None where a group opens at once.
    """

    role: Role
    names: tuple[str, ...]
    space: SearchSpace
    number: int | None = None
    is_last: bool = False


def _steps(
    space: SearchSpace, at_once: Sequence[Group], step_by_step: Sequence[Group], roles: Mapping[str, Role]
) -> list[_Step]:
    """What opens one after the other, from the largest network to the whole space.

    Raises:
        ValueError: a choice of the space has no role in any group.
    """
    elastic = _elastic(space)
    grouped = {role for group in (*at_once, *step_by_step) for role in group}
    if missing := sorted(name for name in elastic if roles.get(name) not in grouped):
        raise ValueError(
            f"{', '.join(missing)} would never shrink: it has no role among {', '.join(sorted(grouped))}; say it in "
            "`roles` of the supernet"
        )
    kept = dict.fromkeys(elastic, 1)
    steps: list[_Step] = []
    for group in (*at_once, *step_by_step):
        names = tuple(name for name in roles if name in elastic and roles[name] in group)
        if not names:
            continue
        if group in at_once:
            kept.update((name, elastic[name]) for name in names)
            steps.append(_Step(group[0], names, keep_largest(space, kept)))
            continue
        most = max(elastic[name] for name in names)
        for i in range(1, most):
            kept.update((name, min(i + 1, elastic[name])) for name in names)
            steps.append(_Step(group[0], names, keep_largest(space, kept), i, i + 1 == most))
    return steps


def _elastic(space: SearchSpace) -> dict[str, int]:
    """The most choices of every name that has any, but the resolution."""
    n_choices: dict[str, int] = {}
    for gene in space.genes:
        n_choices[gene.name] = max(n_choices.get(gene.name, 0), len(gene.choices))
    return {name: n for name, n in n_choices.items() if n > 1 and name != "resolution"}


def keep_largest(space: SearchSpace, counts: Mapping[str, int]) -> SearchSpace:
    """The sub-space in which every choice named in `counts` keeps only that many of its largest values."""

    def keep(name: str, choices: tuple[Number, ...]) -> tuple[Number, ...]:
        return choices[-counts[name] :] if name in counts else choices

    return space.narrowed(keep)
