"""Progressive shrinking: the largest network first, then ever smaller ones with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from supernet.architecture import Number
from supernet.space import SearchSpace
from supernet.space.roles import ROLES, Role
from supernet.training.imitation import Imitation, SoftLabels
from supernet.training.losses import LABEL_SMOOTHING, CrossEntropy, Distillation, Loss
from supernet.training.phases import Phase, Schedule, Sort, has_widths, is_width
from supernet.training.samplers import Uniform

__all__ = ["SUBNETS", "keep_largest", "progressive_shrinking"]

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
    n_choices = {gene.name: 0 for gene in space.genes}
    for gene in space.genes:
        n_choices[gene.name] = max(n_choices[gene.name], len(gene.choices))
    elastic = {name for name, n in n_choices.items() if n > 1 and name != "resolution"}
    grouped = {role for group in (*at_once, *step_by_step) for role in group}
    if missing := sorted(name for name in elastic if roles.get(name) not in grouped):
        raise ValueError(
            f"{', '.join(missing)} would never shrink: it has no role among {', '.join(sorted(grouped))}; say it in "
            "`roles` of the supernet"
        )
    named = {
        group: [name for name in roles if name in elastic and roles[name] in group]
        for group in (*at_once, *step_by_step)
    }
    phased = [group[0] for group, names in named.items() if names]
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
    kept = dict.fromkeys(elastic, 1)
    phases: list[Phase] = []
    if largest is not None:
        phases.append(Phase("largest", keep_largest(space, kept), largest, Uniform(1), CrossEntropy(label_smoothing)))

    def open_next(name: str, group: Group, schedule: Schedule) -> None:
        sort: Sort = "none"
        if any(is_width(name, roles) for name in named[group]):
            sort = "within trained widths" if phases and has_widths(phases[-1].space, roles) else "all"
        sampler = Uniform(n_subnets.get(group[0], 4))
        phases.append(Phase(name, keep_largest(space, kept), schedule, sampler, loss, sort))

    for group in (one for one in at_once if named[one]):
        names = named[group]
        if full is None:
            raise ValueError(f"{', '.join(names)} would never shrink; give `full`, the schedule of its phase")
        kept.update((name, n_choices[name]) for name in names)
        open_next(names[0], group, full)
    for group in (one for one in step_by_step if named[one]):
        names = named[group]
        most = max(n_choices[name] for name in names)
        for i in range(1, most):
            kept.update((name, min(i + 1, n_choices[name])) for name in names)
            open_next(f"{names[0]} {i}", group, last_step if i + 1 == most else step)
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
