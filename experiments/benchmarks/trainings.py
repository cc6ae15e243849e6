"""The trainings that `shrinking.py` compares, one difference at a time, and what each of them costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from supernet import Architecture, SearchSpace
from supernet.networks.masking import union
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space.roles import roles_of
from supernet.training import (
    AttentionRelation,
    Draw,
    InPlaceDistillation,
    MacBins,
    Pathways,
    Phase,
    Sandwich,
    Schedule,
    Uniform,
    gradual_shrinking,
    progressive_shrinking,
    random_sampling,
    single_stage,
    with_draw,
    with_pathways,
)
from supernet.training.shrinking import keep_largest

__all__ = ["ALL", "AVERAGED", "TRAININGS", "Bench", "cost", "gradual", "single"]

LARGEST_FIRST = 2  # epochs
OPENING = 1 / 6  # of the steps after them

Make = Callable[["Bench"], tuple[Phase, ...]]


@dataclass(frozen=True)
class Bench:
    """What all trainings have in common: the supernet, epochs and the highest learning rate of the recipe."""

    supernet: TimmSupernet[Any]
    epochs: int
    peak_lr: float

    def schedules(self, largest: int = LARGEST_FIRST, grows: bool = True) -> tuple[Schedule | None, Schedule]:
        """Of the largest network alone, and of the rest of the epochs, where the rate grows while ranges open, or jumps
        from 0 to the highest."""
        rest = self.epochs - largest
        schedule = Schedule(rest, self.peak_lr, rest * OPENING if grows else 0.0)
        return Schedule(largest, self.peak_lr, min(1, largest / 2)) if largest else None, schedule


def single(bench: Bench, largest: int = LARGEST_FIRST, grows: bool = True, **changes: Any) -> tuple[Phase, ...]:
    """Single stage: all open from the start."""
    first, schedule = bench.schedules(largest, grows)
    return single_stage(bench.supernet.space, schedule, warmup=first, **{"label_weight": (1.0, 0.5), **changes})


def gradual(bench: Bench, largest: int = LARGEST_FIRST, grows: bool = True, **changes: Any) -> tuple[Phase, ...]:
    """Shrinking inside one schedule, with one random sub-network per step."""
    first, schedule = bench.schedules(largest, grows)
    settings = {"roles": roles_of(bench.supernet), "n_random": 1, **changes}
    return gradual_shrinking(bench.supernet.space, schedule, first, **settings)


def one_curve(bench: Bench, largest: int = LARGEST_FIRST) -> tuple[Phase, ...]:
    """The same with the largest network's epochs in that schedule, too: its rate does not start again after them."""
    (whole,) = gradual(bench, 0)
    alone, space = largest / bench.epochs, bench.supernet.space
    one = replace(space, resolutions=space.resolutions[-1:])
    one = keep_largest(one, {gene.name: 1 for gene in space.genes if gene.name != "resolution"})
    return (replace(whole, opening=((alone, one), *((alone + until, part) for until, part in whole.opening))),)


def at_every_resolution(bench: Bench) -> tuple[Phase, ...]:
    """The same with the largest network's phase at every resolution, as in the published phases."""
    first, last = gradual(bench)
    largest = keep_largest(last.space, {gene.name: 1 for gene in last.space.genes if gene.name != "resolution"})
    return replace(first, space=largest, sampler=Uniform(1)), last


def gradual_without_smallest(bench: Bench) -> tuple[Phase, ...]:
    """The same without the smallest of what is open in every step: two random ones."""
    first, last = gradual(bench)
    return first, replace(last, sampler=Sandwich(2, smallest=False))


@dataclass(frozen=True)
class Coupled:
    """Stages that are deep where they are wide (CompOFA, Sahni et al. 2021): each has one rank for both."""

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        rng = np.random.default_rng((seed, step))
        genes = space.sample_genes(n, rng)
        stages = [gene.stage for gene in space.genes]
        ranks = rng.random((n, len(space.stages)))
        for i, (gene, stage) in enumerate(zip(space.genes, stages, strict=True)):
            if gene.name in ("depth", "expand"):
                genes[:, i] = np.floor(ranks[:, stage] * len(gene.choices))
        return space.decode(space.canonical(genes))


def drawn(bench: Bench, draw: Draw) -> tuple[Phase, ...]:
    """Shrinking inside one schedule with other random sub-networks."""
    return with_draw(gradual(bench), draw)


def published(bench: Bench, sandwich: bool = False) -> tuple[Phase, ...]:
    """Progressive shrinking in phases; with higher rates than published after the first, since there are few epochs."""
    rate = bench.peak_lr
    phases = progressive_shrinking(
        bench.supernet.space,
        largest=Schedule(6, 2 * rate, 1),
        full=Schedule(3, 2 * rate),
        step=Schedule(1, 0.6 * rate),
        last_step=Schedule(3, 1.2 * rate),
        subnets={"kernel": 1, "depth": 2, "middle_width": 2},
    )
    if not sandwich:
        return phases
    inside = gradual(bench)[-1]
    return (
        phases[0],
        *(
            replace(p, sampler=inside.sampler, loss=inside.loss, clip=inside.clip, regularise="largest")
            for p in phases[1:]
        ),
    )


def published_in_one_schedule(bench: Bench) -> tuple[Phase, ...]:
    """The published sub-networks, teacher and loss, with ranges that open over half of one schedule."""
    phases, inside = published(bench), gradual(bench, largest=4, opening=0.5)
    last = phases[-1]
    return inside[0], replace(inside[1], sampler=Uniform(2), loss=last.loss, regularise="all", clip=None)


_WIDTH_FIRST = (("middle_width", "heads"), ("depth", "switch"), ("outer_width", "embedding"))
_TOGETHER = (("depth", "switch", "middle_width", "heads", "outer_width", "embedding"),)
_KERNEL_LAST = (("depth", "switch"), ("middle_width", "heads"), ("outer_width", "embedding"), ("kernel",))

TRAININGS: dict[str, Make] = {
    "single stage": single,
    "one schedule": gradual,
    "single stage, the rate jumps": partial(single, grows=False),
    "one schedule, the rate jumps": partial(gradual, grows=False),
    "one schedule, largest within": one_curve,
    "published phases": published,
    "opening: over 1/3": partial(gradual, opening=1 / 3),
    "opening: over 2/3": partial(gradual, opening=2 / 3),
    "order: expansion before depth": partial(gradual, step_by_step=_WIDTH_FIRST),
    "order: depth and expansion together": partial(gradual, step_by_step=_TOGETHER),
    "order: kernel last": partial(gradual, at_once=(), step_by_step=_KERNEL_LAST),
    "labels: not smoothed, gradient not clipped": partial(gradual, label_smoothing=0.0, clip=None),
    "labels: fade": partial(gradual, label_weight=(1.0, 0.0)),
    "labels: half": partial(gradual, label_weight=(0.5, 0.5)),
    "labels: alone": partial(gradual, label_weight=(1.0, 1.0)),
    "largest first: not at all": partial(gradual, largest=0),
    "largest first: 1 epoch": partial(gradual, largest=1),
    "largest first: 4 epochs": partial(gradual, largest=4),
    "largest first: at every resolution": at_every_resolution,
    "sorted after the largest": partial(gradual, sort=True),
    "without the smallest": gradual_without_smallest,
    "published phases with the sandwich": partial(published, sandwich=True),
    "published steps in one schedule": published_in_one_schedule,
    "average of weights": gradual,
    "single stage, labels fade": partial(single, label_weight=(1.0, 0.0)),
    "single stage, labels at half": partial(single, label_weight=(0.5, 0.5)),
    "one schedule, 4 random": partial(gradual, n_random=4),
    "single stage, 4 random": partial(single, n_random=4),
    "one schedule, 2 random": partial(gradual, n_random=2),
    "one schedule, 2 random, the rate jumps": partial(gradual, n_random=2, grows=False),
    "single stage, 1 random": partial(single, n_random=1),
    "one schedule, none random": partial(gradual, n_random=0),
    "drawn: even over the MACs": lambda bench: drawn(bench, MacBins(bench.supernet)),
    "drawn: depth and expansion coupled": lambda bench: drawn(bench, Coupled()),
    "taught by the next larger": partial(gradual, teacher="next larger"),
    "taught by the average": partial(gradual, teacher="average"),
    "delayed: largest alone for half": lambda bench: one_curve(bench, bench.epochs // 2),
}


def _related_in_place(phases: Sequence[Phase], weight: float) -> tuple[Phase, ...]:
    """What `with_relation` refuses, to show why."""
    relation = AttentionRelation(heads=2, weight=weight)
    return tuple(
        replace(phase, loss=replace(phase.loss, relation=relation))
        if isinstance(phase.loss, InPlaceDistillation)
        else phase
        for phase in phases
    )


AVERAGED = {"average of weights": 0.998, "taught by the average": 0.98}
TRANSFORMERS: dict[str, Make] = {
    "attention to 1 of 4": lambda bench: with_pathways(gradual(bench), Pathways(4)),
    "attention to 1 of 4, near ones": lambda bench: with_pathways(gradual(bench), Pathways(4, window=6)),
    "relations among tokens": lambda bench: _related_in_place(gradual(bench), 1.0),
    "relations among tokens, a hundredth": lambda bench: _related_in_place(gradual(bench), 0.01),
}
"""What only transformers can have; attention counts as dense in the cost."""


def shared_out(bench: Bench, multi_architecture: bool) -> tuple[Phase, ...]:
    """Four drawn sub-networks per step, each on a quarter of the images."""
    largest, schedule = bench.schedules()
    return random_sampling(
        bench.supernet.space, schedule, 4, largest=largest, clip=1.0, split_batch=True,
        multi_architecture=multi_architecture,
    )  # fmt: skip


SHARED: dict[str, Make] = {
    "images shared out": partial(shared_out, multi_architecture=False),
    "sandwich, images shared out": partial(gradual, n_random=2, split_batch=True),
    "several architectures per batch": partial(shared_out, multi_architecture=True),
}
"""What gives each sub-network its own images; the latter is for supernets that mask (digits_multi_stage_vit)."""
ALL = TRAININGS | TRANSFORMERS | SHARED


def cost(supernet: TimmSupernet[Any], phases: Sequence[Phase], steps_per_epoch: int, seed: int) -> float:
    """Multiply-accumulates for one image of every step, summed over all of them."""
    space, total = supernet.space, 0.0
    whole = int(supernet.macs(space.encode([space.largest]))[0])
    step = 0
    for phase in phases:
        n_steps = phase.schedule.epochs * steps_per_epoch
        archs = []
        for i in range(n_steps):
            archs += phase.sampler(phase.space_at(i / n_steps), seed, step + i)  # type: ignore[operator]
        if phase.one_pass:  # what is masked is computed
            n = len(archs) // n_steps
            archs = [union(space, archs[i : i + n]) for i in range(0, len(archs), n)]
        macs = supernet.macs(space.encode(archs))
        total += 3.0 * float(macs.sum()) * n_steps / (len(archs) if phase.split_batch else n_steps)
        if phase.loss.teacher in (
            "frozen",
            "average",
        ):  # once for every step, at the resolution that its sub-networks share
            per_step = len(archs) // n_steps
            sizes = np.array([arch.resolution for arch in archs[::per_step]]) / space.largest.resolution
            total += whole * float((sizes**2).sum())
        step += n_steps
    return total
