"""Phases: the published schedule on the published space, and refusals of what is known to go wrong."""

from dataclasses import replace
from itertools import pairwise

import pytest

from supernet import SearchSpace, Stage
from supernet.training import (
    CrossEntropy,
    InPlaceDistillation,
    Largest,
    Phase,
    Sandwich,
    Schedule,
    Uniform,
    plain,
    progressive_shrinking,
    single_stage,
)
from supernet.training.phases import check_phases
from supernet.training.shrinking import keep_largest

PUBLISHED = SearchSpace(tuple(range(128, 225, 4)), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5)
SHORT = Schedule(2, 0.1)


def _values(phase: Phase, name: str) -> set[float]:
    return {choice for gene in phase.space.genes if gene.name == name for choice in gene.choices}


def test_shrinking_is_as_published() -> None:
    phases = progressive_shrinking(PUBLISHED)
    rows = [
        (p.name, p.schedule.epochs - p.schedule.warmup_epochs, p.schedule.warmup_epochs, p.sampler, p.sort)
        for p in phases
    ]
    assert rows == [
        ("largest", 175, 5, Uniform(1), "none"),
        ("kernel", 120, 5, Uniform(1), "none"),
        ("depth 1", 25, 0, Uniform(2), "none"),
        ("depth 2", 120, 5, Uniform(2), "none"),
        ("expand 1", 25, 0, Uniform(4), "all"),
        ("expand 2", 120, 5, Uniform(4), "within trained widths"),
    ]
    assert [p.schedule.peak_lr for p in phases[1:]] == [3e-2, 2.5e-3, 7.5e-3, 2.5e-3, 7.5e-3]
    assert [_values(p, "kernel") for p in phases] == [{7}] + [{3, 5, 7}] * 5
    assert [_values(p, "depth") for p in phases] == [{4}, {4}, {3, 4}] + [{2, 3, 4}] * 3
    assert [_values(p, "expand") for p in phases] == [{6}] * 4 + [{4, 6}, {3, 4, 6}]
    assert all(_values(p, "resolution") == set(PUBLISHED.resolutions) for p in phases)
    assert [p.loss.teacher for p in phases] == ["none"] + ["frozen"] * 5
    assert phases[-1].space == PUBLISHED
    check_phases(phases, PUBLISHED)


def test_shrinking_fits_any_space() -> None:
    stages = (
        Stage.uniform((1, 2), kernel=(3,), expand=(2, 3, 4, 6)),
        Stage((2, 3, 4), ({"kernel": (3,), "expand": (4, 6)},) * 4, {"width": (24, 32)}),
    )
    space = SearchSpace((32,), stages, {"width": (8, 16)})
    phases = progressive_shrinking(space, subnets={"expand": 3})
    names = ["largest", "depth 1", "depth 2", "expand 1", "expand 2", "expand 3", "width 1"]
    assert [p.name for p in phases] == names
    assert [p.sort for p in phases] == ["none"] * 3 + ["all"] + ["within trained widths"] * 3
    assert phases[-1].space == space and phases[-2].sampler == Uniform(3)
    for before, after in pairwise(phases):
        assert before.space.size < after.space.size and before.space.smallest in after.space
        assert after.space.largest == space.largest
    check_phases(phases, space)
    without = progressive_shrinking(space, largest=None, distillation_weight=0)
    assert without[0].name == "depth 1" and all(p.loss == CrossEntropy() for p in without)


def test_a_choice_that_would_never_shrink_is_refused() -> None:
    space = SearchSpace((32,), (Stage.uniform((1,), groups=(2, 4)),))
    with pytest.raises(ValueError, match="groups would never shrink"):
        progressive_shrinking(space)
    assert len(progressive_shrinking(space, step_by_step=(("groups",),))) == 2


def test_keep_largest_keeps_what_is_not_named() -> None:
    assert keep_largest(PUBLISHED, {}) == PUBLISHED
    assert keep_largest(PUBLISHED, {"depth": 1, "kernel": 1, "expand": 1, "resolution": 1}).size == 1


def test_single_stage() -> None:
    warmup, sandwich = single_stage(PUBLISHED, SHORT, n_random=1, warmup=SHORT)
    assert (warmup.sampler, sandwich.sampler) == (Largest(), Sandwich(1))
    assert sandwich.regularise == "largest" and sandwich.clip == 1.0 and warmup.clip == 1.0
    assert len(single_stage(PUBLISHED, SHORT)) == len(plain(PUBLISHED, SHORT)) == 1


@pytest.mark.parametrize("regularise", ["all", "largest"])
def test_in_place_teacher_must_be_in_every_step(regularise: str) -> None:
    loss = InPlaceDistillation() if regularise == "all" else CrossEntropy()
    with pytest.raises(ValueError, match="use Sandwich"):
        Phase("x", PUBLISHED, SHORT, Uniform(2), loss, regularise=regularise)  # type: ignore[arg-type]


def test_known_bad_sequences_are_refused() -> None:
    sandwich = Phase("sandwich", PUBLISHED, SHORT, Sandwich())
    resort = Phase("resort", PUBLISHED, SHORT, Uniform(), sort="all")
    with pytest.raises(ValueError, match="destroys them"):
        check_phases((sandwich, resort), PUBLISHED)
    check_phases((resort, sandwich), PUBLISHED)
    with pytest.raises(ValueError, match="none were trained"):
        check_phases((replace(resort, sort="within trained widths"),), PUBLISHED)
    with pytest.raises(ValueError, match=r"use label_weight \(1, 0\)"):
        check_phases(single_stage(PUBLISHED, SHORT, label_weight=(0, 0)), PUBLISHED)
    check_phases(single_stage(PUBLISHED, SHORT, label_weight=(0, 0), warmup=SHORT), PUBLISHED)
    with pytest.raises(ValueError, match="not in the space"):
        check_phases((sandwich,), PUBLISHED.restrict(depth=(4,)))
    with pytest.raises(ValueError, match="at least one phase"):
        check_phases((), PUBLISHED)


@pytest.mark.parametrize("wrong", [(0, 0.1, 0, 0), (3, 0.1, 3, 0), (3, 0.0, 0, 0), (3, 0.1, 1, 0.2)])
def test_impossible_schedules_are_refused(wrong: tuple[int, float, int, float]) -> None:
    with pytest.raises(ValueError, match=r"epochs|learning rates"):
        Schedule(*wrong)
