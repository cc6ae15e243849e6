"""Phases: the published schedule on the published space, and refusals of what is known to go wrong."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import pytest

from supernet import SearchSpace, Stage, create_supernet, elastic
from supernet.space import Genes
from supernet.space.nested import NestedFamily
from supernet.space.roles import ROLES, roles_of
from supernet.training import (
    AlphaDivergence,
    Attentive,
    CrossEntropy,
    Distillation,
    InPlaceDistillation,
    Largest,
    MacBins,
    Nested,
    Phase,
    Sandwich,
    Schedule,
    Shift,
    Uniform,
    fine_tuning,
    gradual_shrinking,
    plain,
    progressive_shrinking,
    random_sampling,
    single_stage,
    with_draw,
)
from supernet.training.phases import check_phases
from supernet.training.shrinking import keep_largest

PUBLISHED = SearchSpace(tuple(range(128, 225, 4)), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5)
SHORT = Schedule(2, 0.1)
FAMILY = NestedFamily.between(PUBLISHED, 5)
ALPHA = InPlaceDistillation(imitation=AlphaDivergence())


class Counted:
    """A network that only counts."""

    space = PUBLISHED

    def macs(self, genes: Genes) -> Genes:
        return genes.sum(axis=1)


BINS = MacBins(Counted())


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
    phases = progressive_shrinking(space, subnets={"middle_width": 3})
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
    assert len(progressive_shrinking(space, roles={"groups": "middle_width"})) == 2


def test_subnets_per_step_are_by_role_and_none_is_dropped() -> None:
    blocks = Stage.uniform((10, 11), heads=(6, 12), mlp_ratio=(2, 4))
    space = SearchSpace((224,), (blocks,), {"embed_dim": (384, 768)})
    counts = {"depth": 3, "middle_width": 5, "outer_width": 6}
    phases = progressive_shrinking(space, subnets=counts)
    assert [(p.name, p.sampler) for p in phases[1:]] == [
        ("depth 1", Uniform(3)), ("heads 1", Uniform(5)), ("embed_dim 1", Uniform(6))
    ]  # fmt: skip
    with pytest.raises(
        ValueError, match="subnets for kernel: nothing of that is chosen in this space, only depth, mid"
    ):
        progressive_shrinking(space, subnets={"kernel": 2})
    with pytest.raises(ValueError, match="subnets for heads"):
        progressive_shrinking(space, subnets={"heads": 2})


def test_a_supernet_says_the_roles_of_its_choices() -> None:
    class Own:
        roles: ClassVar = {"dilation": "kernel", "hidden": "middle_width"}

    roles = roles_of(Own())
    space = SearchSpace((32,), (Stage.uniform((1, 2), dilation=(1, 2), hidden=(8, 16), kernel=(3, 5)),))
    phases = progressive_shrinking(space, roles=roles)
    assert [(p.name, p.sort) for p in phases] == [
        ("largest", "none"), ("kernel", "none"), ("depth 1", "none"), ("hidden 1", "all")
    ]  # fmt: skip
    assert _values(phases[1], "dilation") == {1, 2}
    check_phases(phases, space, roles)
    Own.roles = {"hidden": "width"}
    with pytest.raises(ValueError, match="role 'width' of the choice 'hidden'; possible are resolution, depth"):
        roles_of(Own())


def test_every_choice_of_the_families_has_a_role() -> None:
    models: list[tuple[str, dict[str, Any]]] = [
        ("efficientnet_b0", {}), ("resnet26", {"widths": (0.5,)}), ("vit_tiny_patch16_224", {"embed_dims": (96,)})
    ]  # fmt: skip
    nets = [elastic(name, **choices) for name, choices in models]
    nets += [create_supernet(name) for name in ("ofa_mobilenetv3_w1.0", "ofa_proxyless_w1.3", "ofa_resnet50d")]
    for net in nets:
        assert {gene.name for gene in net.space.genes} <= roles_of(net).keys()
        assert progressive_shrinking(net.space, roles=roles_of(net))[-1].space == net.space


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


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sampler": Sandwich(), "loss": ALPHA}, "without clip.*set clip = 1.0"),
        ({"sampler": Sandwich(), "loss": Distillation(teacher="in place"), "split_batch": True}, "other images than"),
        ({"sampler": Sandwich(), "loss": InPlaceDistillation(), "split_batch": True}, "other images than"),
        ({"sampler": Attentive(Uniform(1, BINS)), "split_batch": True}, "which cannot be compared; drop it"),
        ({"sampler": Shift(Uniform(1, BINS)), "split_batch": True}, "which cannot be compared; drop it"),
        (
            {"sampler": Shift(Uniform(1, BINS)), "loss": InPlaceDistillation()},
            "which Shift does not give; use Sandwich",
        ),
        ({"sampler": Uniform(1, Nested(FAMILY)), "space": PUBLISHED.restrict(depth=(4,))}, "level 1 of the nested fam"),
        (
            {"sampler": Sandwich(), "loss": InPlaceDistillation(teacher="next larger")},
            "from large to small alone; use Sandwich.descending=True",
        ),
        ({"clip": 0}, "cannot be clipped at 0"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=rf"phase 'x': .*{says}") as caught:
        Phase(**{"name": "x", "space": PUBLISHED, "schedule": SHORT, **settings})
    assert "\n" not in str(caught.value)


def test_what_goes_together_is_taken() -> None:
    Phase("x", PUBLISHED, SHORT, Sandwich(), ALPHA, clip=1.0)
    Phase("x", PUBLISHED, SHORT, Uniform(2, Nested(FAMILY)), split_batch=True)
    Phase("x", PUBLISHED, SHORT, Attentive(Sandwich(2, BINS)), InPlaceDistillation(), regularise="largest")
    Phase(
        "x", PUBLISHED, SHORT, Attentive(Sandwich(2, BINS, descending=True)), InPlaceDistillation(teacher="next larger")
    )


def _shares(phase: Phase, n: int = 100) -> dict[tuple[int, int, int], int]:
    """In how many of `n` parts of the phase so many kernels, depths and expansions are open."""
    spaces = [phase.space_at((i + 0.5) / n) for i in range(n)]
    opened = [
        tuple(max(len(g.choices) for g in space.genes if g.name == name) for name in ("kernel", "depth", "expand"))
        for space in spaces
    ]
    return {one: opened.count(one) for one in opened}  # type: ignore[misc]


def test_ranges_open_inside_one_schedule() -> None:
    largest, shrinking = gradual_shrinking(PUBLISHED, SHORT, SHORT, opening=0.16)
    assert (largest.sampler, largest.space) == (Largest(), PUBLISHED)
    assert _shares(shrinking) == {(3, 1, 1): 4, (3, 2, 1): 4, (3, 3, 1): 4, (3, 3, 2): 4, (3, 3, 3): 84}
    assert shrinking.space_at(0.5) is shrinking.space is PUBLISHED
    assert shrinking.sampler == Sandwich(2) and shrinking.regularise == "largest"
    assert shrinking.loss == InPlaceDistillation((1.0, 0.5))
    for (_, before), (_, after) in pairwise(shrinking.opening):
        assert before.smallest in after and after.smallest not in before
        assert before.resolutions == PUBLISHED.resolutions
    check_phases((largest, shrinking), PUBLISHED)
    assert not gradual_shrinking(PUBLISHED, SHORT, opening=0)[0].opening
    for opening in (1.0, -0.1):
        with pytest.raises(ValueError, match=f"opening {opening:g} is a share of the steps, from 0 to below 1"):
            gradual_shrinking(PUBLISHED, SHORT, opening=opening)


def test_shrinking_with_images_shared_out_has_no_teacher() -> None:
    largest, shrinking = gradual_shrinking(PUBLISHED, SHORT, SHORT, split_batch=True)
    taught = gradual_shrinking(PUBLISHED, SHORT, SHORT)
    assert (largest, shrinking) == (taught[0], replace(taught[1], loss=CrossEntropy(), split_batch=True))
    check_phases((largest, shrinking), PUBLISHED)


def test_roles_and_not_names_say_what_opens_when() -> None:
    blocks = Stage.uniform((10, 11, 12), heads=(6, 8, 12), mlp_ratio=(2, 4))
    space = SearchSpace((224,), (blocks,), {"embed_dim": (384, 768)})
    (phase,) = gradual_shrinking(space, SHORT, opening=0.4, sort=True)
    opened = [{g.name: len(g.choices) for g in part.genes} for _, part in phase.opening]
    assert [until for until, _ in phase.opening] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [(o["depth"], o["heads"], o["mlp_ratio"], o["embed_dim"]) for o in opened] == [
        (2, 1, 1, 1), (3, 1, 1, 1), (3, 2, 2, 1), (3, 3, 2, 1)
    ]  # fmt: skip
    assert phase.sort == "all"
    own = SearchSpace((32,), (Stage.uniform((1, 2), dilation=(1, 2)),))
    with pytest.raises(ValueError, match="dilation would never shrink"):
        gradual_shrinking(own, SHORT)
    (phase,) = gradual_shrinking(own, SHORT, roles={**ROLES, "dilation": "kernel"})
    ((until, part),) = phase.opening
    assert until == pytest.approx(1 / 6) and part == own.restrict(depth=(2,))


def test_parts_that_cannot_open_are_refused() -> None:
    part, other = PUBLISHED.restrict(depth=(4,)), PUBLISHED.restrict(depth=(4,), kernel=(5, 7))
    for opening, says in [
        (((0.0, part),), "open until 0 of the steps, which is not between 0 and 1"),
        (((0.5, other), (0.5, part)), "open until 0.5 of the steps, which is not between 0.5 and 1"),
        (((0.2, part), (0.3, other)), "must have its largest network and lie in the next part"),
        (((0.2, PUBLISHED.restrict(depth=(2, 3))),), "must have its largest network"),
    ]:
        with pytest.raises(ValueError, match=says):
            Phase("x", PUBLISHED, SHORT, Sandwich(), opening=opening)
    Phase("x", PUBLISHED, SHORT, Sandwich(), opening=((0.2, other), (0.3, part)))
    with pytest.raises(ValueError, match="a nested family has levels of the whole space"):
        Phase("x", PUBLISHED, SHORT, Sandwich(2, Nested(FAMILY)), opening=((0.3, part),))


def test_any_training_can_be_sampled_in_any_way() -> None:
    trainings = [
        progressive_shrinking(PUBLISHED),
        gradual_shrinking(PUBLISHED, SHORT, SHORT),
        single_stage(PUBLISHED, SHORT, warmup=SHORT),
        fine_tuning(PUBLISHED, SHORT),
        random_sampling(PUBLISHED, SHORT, n=2),
    ]
    for phases in trainings:
        assert with_draw(phases) == phases
        for adapt in (None, Attentive, Shift):
            changed = with_draw(phases, BINS, adapt)
            check_phases(changed, PUBLISHED)
            for before, after in zip(phases, changed, strict=True):
                if before.name == "largest":
                    assert after == before  # nothing is random in it
                    continue
                places = after.sampler if adapt is None else after.sampler.places  # type: ignore[union-attr]
                assert isinstance(places, Uniform | Sandwich) and places.draw == BINS
                assert places == replace(before.sampler, draw=BINS)  # type: ignore[type-var]


def test_fine_tuning_trains_the_full_network_and_some_beside_it() -> None:
    (phase,) = fine_tuning(PUBLISHED, SHORT, n_random=2)
    assert phase.sampler == Sandwich(2, smallest=False) and phase.sort == "all" and phase.regularise == "largest"
    assert phase.loss == Distillation(teacher="in place")
    first, second = fine_tuning(PUBLISHED, SHORT, teacher="frozen", largest=SHORT)
    assert (first.sampler, second.loss.teacher) == (Largest(), "frozen")
    check_phases((first, second), PUBLISHED)


def test_random_sampling_has_a_teacher_only_where_one_was_trained() -> None:
    (phase,) = random_sampling(PUBLISHED, SHORT, n=3)
    assert phase.sampler == Uniform(3) and phase.loss == CrossEntropy()
    assert random_sampling(PUBLISHED, SHORT, distillation_weight=0.5, largest=SHORT)[1].loss == Distillation(0.5)
    with pytest.raises(ValueError, match="needs a trained teacher"):
        random_sampling(PUBLISHED, SHORT, distillation_weight=0.5)


def test_transformers_and_residual_networks_shrink_too() -> None:
    blocks = Stage.uniform((10, 11, 12), heads=(6, 8, 12), mlp_ratio=(2, 4))
    phases = progressive_shrinking(SearchSpace((224,), (blocks,), {"embed_dim": (384, 768)}), full=None)
    assert [(p.name, p.sort) for p in phases[1:]] == [
        ("depth 1", "none"), ("depth 2", "none"), ("heads 1", "all"), ("heads 2", "within trained widths"),
        ("embed_dim 1", "within trained widths"),
    ]  # fmt: skip
    assert [p.schedule.epochs for p in phases[1:]] == [25, 125, 25, 125, 125]
    assert [len(_values(p, "mlp_ratio")) for p in phases] == [1, 1, 1, 2, 2, 2]  # both open, as far as they go
    with pytest.raises(ValueError, match="kernel would never shrink; give `full`"):
        progressive_shrinking(PUBLISHED, full=None)


def test_known_bad_sequences_are_refused() -> None:
    sandwich = Phase("sandwich", PUBLISHED, SHORT, Sandwich())
    resort = Phase("resort", PUBLISHED, SHORT, Uniform(), sort="all")
    with pytest.raises(ValueError, match="destroys them"):
        check_phases((sandwich, resort), PUBLISHED)
    check_phases((resort, sandwich), PUBLISHED)
    with pytest.raises(ValueError, match="none were trained"):
        check_phases((replace(resort, sort="within trained widths"),), PUBLISHED)
    with pytest.raises(ValueError, match=r"set label_weight \[1, 0\]"):
        check_phases(single_stage(PUBLISHED, SHORT, label_weight=(0, 0)), PUBLISHED)
    check_phases(single_stage(PUBLISHED, SHORT, label_weight=(0, 0), warmup=SHORT), PUBLISHED)
    with pytest.raises(ValueError, match="not in the space"):
        check_phases((sandwich,), PUBLISHED.restrict(depth=(4,)))
    with pytest.raises(ValueError, match="at least one phase"):
        check_phases((), PUBLISHED)


@pytest.mark.parametrize("wrong", [(0, 0.1), (3, 0.1, 3, 0), (3, 0.0), (3, 0.1, 1, 0.2), (3, 0.1, 0, 0, -0.1)])
def test_impossible_schedules_are_refused(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=r"epochs|_lr|final_share"):
        Schedule(*wrong)
