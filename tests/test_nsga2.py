"""What a search promises: nothing twice, the same again from the same seed, better than chance."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from search.nsga2 import _vary, run_nsga2
from search.objectives import Constraint, Objective
from search.random_search import run_random
from search.result import SearchResult
from search.spread import select_spread
from supernet.relation import Relation
from supernet.space import Genes, SearchSpace, Stage

SPACE = SearchSpace((16, 24, 32), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 4)
TINY = SearchSpace((16, 24), (Stage.uniform((1, 2), kernel=(3, 5)),) * 2)
ENDS = SPACE.encode([SPACE.smallest, SPACE.largest])


def cost(genes: Genes) -> np.ndarray:
    return np.nansum(SPACE.values(genes)[:, 1:], axis=1) * (2 + genes[:, 0])


def quality(genes: Genes) -> np.ndarray:
    """Concave in each gene and with its own weight per place, so that the front is not where the costs are equal."""
    weights = np.random.default_rng(0).random(genes.shape[1])
    return np.sqrt(np.nan_to_num(SPACE.values(genes)[:, 1:])) @ weights[1:] * (4 + genes[:, 0])


REFERENCE = {"quality": float(quality(ENDS).min()), "cost": float(cost(ENDS).max())}
OBJECTIVES = (Objective("quality", "", True, quality), Objective("cost", "", False, cost))
TACTICS = pytest.mark.parametrize("tactic", [run_nsga2, run_random])


def test_it_beats_random_search() -> None:
    for seed in range(3):
        found = [t(SPACE, OBJECTIVES, budget=1000, seed=seed, reference=REFERENCE) for t in (run_nsga2, run_random)]
        searched, control = (result.front.hypervolume(REFERENCE) for result in found)
        assert searched > 1.05 * control


@TACTICS
def test_no_architecture_twice_and_all_canonical(tactic) -> None:
    seen = []

    def watched(genes: Genes) -> np.ndarray:
        seen.append(genes.copy())
        return cost(genes)

    objectives = (OBJECTIVES[0], Objective("cost", "", False, watched))
    result = tactic(SPACE, objectives, budget=777, seed=0)
    genes = np.concatenate(seen)
    assert len(genes) == result.n_evaluated == 777
    assert len(np.unique(genes, axis=0)) == 777
    np.testing.assert_array_equal(genes, SPACE.canonical(genes))
    np.testing.assert_array_equal(genes, result.genes)
    np.testing.assert_array_equal(genes[:2], ENDS)


@TACTICS
def test_relations_of_the_space_hold_for_everything_that_is_evaluated(tactic) -> None:
    related = dataclasses.replace(SPACE, relations=(Relation.parse("stage1.depth <= stage2.depth"),))
    result = tactic(related, OBJECTIVES, budget=400, seed=0)
    assert result.n_evaluated == 400 and related.holds(result.genes).all()
    assert not related.holds(SPACE.sample_genes(400, np.random.default_rng(0))).all()


@TACTICS
def test_the_seed_decides(tactic) -> None:
    a, b, c = (tactic(SPACE, OBJECTIVES, budget=300, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(a.genes, b.genes)
    assert a.front == b.front
    assert not np.array_equal(a.genes, c.genes)


@TACTICS
def test_history_and_front_agree(tactic) -> None:
    result = tactic(SPACE, OBJECTIVES, budget=500, seed=1, reference=REFERENCE)
    evaluated, volumes = zip(*result.hypervolumes, strict=True)
    assert evaluated[-1] == 500
    assert all(b >= a for a, b in itertools.pairwise(volumes))
    assert volumes[-1] == pytest.approx(result.front.hypervolume(REFERENCE))
    rows = {row.tobytes() for row in result.genes}
    front = SPACE.encode([candidate.arch for candidate in result.front])
    assert all(row.tobytes() in rows for row in front)
    np.testing.assert_allclose([c.values["cost"] for c in result.front], cost(front))
    assert SearchResult.from_dict(json.loads(json.dumps(result.to_dict()))).front == result.front


@TACTICS
def test_constraints_hold_on_the_front(tactic) -> None:
    limit = Constraint("cost", cost, upper=330.0, lower=250.0)
    result = tactic(SPACE, OBJECTIVES, budget=600, seed=0, constraints=(limit,))
    assert len(result.front) > 0
    assert all(250 <= candidate.values["cost"] <= 330 for candidate in result.front)
    if tactic is run_nsga2:  # it goes where the limits are held
        assert result.feasible[-200:].mean() > 1.5 * result.feasible[:100].mean()
    nothing = tactic(SPACE, OBJECTIVES, budget=60, seed=0, constraints=(Constraint("cost", cost, upper=-1.0),))
    assert len(nothing.front) == 0
    assert nothing.hypervolumes[-1][1] == 0


@TACTICS
def test_a_tiny_space_is_searched_completely(tactic) -> None:
    objective = Objective("sum", "", True, lambda genes: genes.sum(axis=1).astype(float))
    result = tactic(TINY, (objective,), budget=10_000, seed=0)
    assert result.n_evaluated == TINY.size
    assert [candidate.arch for candidate in result.front] == [TINY.largest]


def test_a_warm_start_is_evaluated_first() -> None:
    initial = SPACE.sample_genes(7, np.random.default_rng(0))
    result = run_nsga2(SPACE, OBJECTIVES, budget=50, seed=0, population=20, initial=initial)
    np.testing.assert_array_equal(result.genes[2:9], initial)


def test_three_objectives() -> None:
    depth = Objective("depth", "", False, lambda genes: SPACE.active(genes).sum(axis=1).astype(float))
    result = run_nsga2(SPACE, (*OBJECTIVES, depth), budget=300, seed=0)
    volumes = [volume for _, volume in result.hypervolumes]
    assert volumes == sorted(volumes)


def test_mutation_is_no_mere_rounding() -> None:
    rng = np.random.default_rng(0)
    genes = SPACE.sample_genes(500, rng)
    children = _vary(np.stack([genes, genes]), SPACE.n_choices - 1, rng)  # equal parents: only mutation is left
    SPACE.canonical(children)  # raises outside the choices
    changed = (SPACE.canonical(children) != genes).any(axis=1)
    assert changed.mean() > 0.5


@pytest.mark.parametrize(
    ("objectives", "settings", "message"),
    [
        ((), {}, "axes of different names; got none"),
        (OBJECTIVES[:1] * 2, {}, "different names"),
        (OBJECTIVES, {"budget": 0}, "at least 1"),
        (OBJECTIVES, {"population": 2}, "at least 4"),
        (OBJECTIVES, {"reference": {"cost": 1.0}}, "needs a value of quality, cost"),
    ],
)
def test_impossible_searches_say_so(objectives, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        run_nsga2(SPACE, objectives, **{"budget": 10, "seed": 0, **settings})


def test_spread_picks_unmeasured_members_of_the_front_with_its_ends() -> None:
    result = run_nsga2(SPACE, OBJECTIVES, budget=2000, seed=0)
    front = SPACE.encode([candidate.arch for candidate in result.front])
    picked = select_spread(result, 8)
    assert {row.tobytes() for row in picked} <= {row.tobytes() for row in front}
    assert cost(picked).min() == cost(front).min()
    assert cost(picked).max() == cost(front).max()
    # Farthest-point picks leave smaller gaps than as many neighbours would.
    assert np.diff(np.sort(cost(picked))).max() < 0.5 * np.ptp(cost(front))
    again = select_spread(result, len(front) + 5, exclude=picked)
    assert len(again) == len(front) + 5 == len(np.unique(again, axis=0))
    assert not {row.tobytes() for row in again} & {row.tobytes() for row in picked}
