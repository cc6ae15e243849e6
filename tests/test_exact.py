"""Exact fronts of sums over stages: equal to brute force, and refused where a model is no such sum."""

import json
import time

import numpy as np
import pytest

from search import Objective, StageSums, run_search
from search.front import hypervolume, non_dominated
from search.optima import Optima
from search.testing import SPACES
from supernet.space import SearchSpace, Stage
from supernet.space.relation import Relation

SMALL = {
    "plain": SearchSpace((16, 24), (Stage.uniform((0, 1, 2), kernel=(3, 5)),) * 3),
    "shared and network settings": SearchSpace(
        (16,),
        (
            Stage((1, 2), ({"kernel": (3, 5, 7)}, {"kernel": (3, 5)}), {"width": (1, 2)}),
            Stage.uniform((1, 3), e=(2, 4)),
        ),
        {"head": (1, 2, 3)},
    ),
    "one stage": SearchSpace((8, 16, 24), (Stage.uniform((1, 2, 3), kernel=(3, 5, 7)),)),
    "relations within a stage": SearchSpace(
        (16, 24),
        (Stage.uniform((1, 2), kernel=(3, 5, 7)),) * 2,
        relations=(
            Relation.parse("stage1.block1.kernel <= stage1.block2.kernel"),
            Relation.parse("resolution >= stage2.block1.kernel"),
        ),
    ),
}


def sums(space, seed, n=2, whole=True):
    """Random objectives that are sums over blocks, other ones at every resolution and setting of the network.

    Whole numbers, so that there are ties, and no sum depends on its order.
    """
    rng = np.random.default_rng(seed)
    weights = [
        [rng.integers(0, 50, len(g.choices)) if whole else rng.random(len(g.choices)) for g in space.genes]
        for _ in range(n)
    ]
    of_network = [i for i, gene in enumerate(space.genes) if gene.stage is None]

    def evaluate(k):
        def values(genes):
            terms = np.stack([weights[k][i][genes[:, i]] for i in range(len(space.genes))], axis=1)
            scale = 1 + terms[:, of_network].sum(axis=1) // 10 if whole else 1 + terms[:, of_network].sum(axis=1)
            return (terms * space.active(genes)).sum(axis=1) * scale

        return values

    return [Objective(f"o{k}", "", k == 0, evaluate(k)) for k in range(n)]


def losses_of(objectives, genes):
    return np.stack([o.loss(o.values(genes)) for o in objectives], axis=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_the_front_is_that_of_all_architectures(name, n, seed):
    space = SMALL[name]
    objectives = sums(space, seed, n)
    everything = losses_of(objectives, space.encode(list(space)))
    expected = np.unique(everything[non_dominated(everything)], axis=0)
    found = StageSums.of(space, objectives).front()
    np.testing.assert_array_equal(found.losses, expected)
    np.testing.assert_array_equal(losses_of(objectives, found.genes), found.losses)
    np.testing.assert_array_equal(space.canonical(found.genes), found.genes)
    assert space.holds(found.genes).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SMALL)
def test_the_best_within_a_limit_is_that_of_all_architectures_and_its_bound_holds(name, seed):
    space = SMALL[name]
    objectives = sums(space, seed)
    everything = losses_of(objectives, space.encode(list(space)))
    halves = StageSums.of(space, objectives).halves()
    for limit in np.quantile(everything[:, 1], [0, 0.1, 0.5, 1]):
        found = halves.best(limit)
        best = everything[everything[:, 1] <= limit, 0].min()
        assert found.losses[0] == best and found.losses[1] <= limit
        np.testing.assert_array_equal(losses_of(objectives, found.genes[None])[0], found.losses)
        assert found.bound <= best + 1e-9
    unlimited = halves.best(np.inf if seed else everything[:, 1].max())
    assert unlimited.bound == pytest.approx(unlimited.losses[0])  # without a limit there is no gap


def test_a_space_of_ten_to_the_nineteenth_takes_less_than_a_second_and_no_search_finds_more():
    space = SPACES["10^19"]
    objectives = sums(space, 0, whole=False)
    tables = StageSums.of(space, objectives)
    started = time.process_time()
    front = tables.front()
    assert time.process_time() - started < 1
    assert len(front) > 200
    np.testing.assert_allclose(losses_of(objectives, front.genes), front.losses)
    searched = run_search(space, objectives, tactic="nsga2", budget=3000, seed=0)
    corner = searched.losses.max(axis=0)
    assert hypervolume(searched.losses, corner) < hypervolume(front.losses, corner)
    for genes in (searched.genes, space.sample_genes(2000, np.random.default_rng(0))):
        both = np.concatenate([front.losses - 1e-9, losses_of(objectives, genes)])
        assert not non_dominated(both)[len(front) :].any()
    halves = tables.halves()
    for limit in np.quantile(front.losses[:, 1], [0.1, 0.5, 0.9]):
        best = halves.best(limit)
        held = front.losses[front.losses[:, 1] <= limit + 1e-9]
        assert best.losses[0] == pytest.approx(held[:, 0].min())
        spread = np.ptp(front.losses[:, 0])
        assert best.losses[0] - 0.02 * spread < best.bound <= best.losses[0] + 1e-9


def test_what_cannot_be_exact_is_refused():
    space = SMALL["plain"]
    linear, other = sums(space, 0)
    product = Objective("p", "", False, lambda genes: np.log(1 + linear.values(genes)))
    with pytest.raises(ValueError, match="p is no sum over stages"):
        StageSums.of(space, [linear, product])
    tied = SearchSpace(space.resolutions, space.stages, relations=(Relation.parse("stage1.depth <= stage2.depth"),))
    with pytest.raises(ValueError, match="ties stages"):
        StageSums.of(tied, [linear, other])
    large = SearchSpace((16,), (Stage.uniform((9,), kernel=(3, 5, 7), expand=(3, 4, 6)),))
    with pytest.raises(ValueError, match="stage 1 has 387,420,489 settings"):
        StageSums.of(large, [linear, other])
    many = SearchSpace((16,), space.stages, {"a": tuple(range(40)), "b": tuple(range(40))})
    with pytest.raises(ValueError, match="1,600 settings of the whole network"):
        StageSums.of(many, [linear, other])
    tables = StageSums.of(space, [linear, other])
    with pytest.raises(ValueError, match="no architecture keeps the limit -1"):
        tables.best(-1)
    with pytest.raises(ValueError, match="3 objectives"):
        StageSums.of(space, sums(space, 0, 3)).best(1.0)


@pytest.mark.parametrize("name", SMALL)
def test_optima_of_sums_on_some_scale_are_those_of_all_architectures(name):
    """Accuracy whose error falls by factors, and a cost that is a product: neither is a sum, both are on a scale."""
    space = SMALL[name]
    good, cost = sums(space, 3, whole=False)
    accuracy = Objective("accuracy", "", True, lambda genes: 1 - 0.5 * np.exp(-good.values(genes) / 10))
    seconds = Objective("latency", "s", False, lambda genes: 1e-3 * np.exp(cost.values(genes) / 10))
    optima = Optima.of(space, [accuracy, seconds])
    assert optima is not None
    assert optima.scales == (("plain", "plain") if name == "one stage" else ("log error", "log"))
    optima = Optima.from_dict(json.loads(json.dumps(optima.to_dict())))
    everything = space.encode(list(space))
    values = np.stack([accuracy.values(everything), seconds.values(everything)], axis=1)
    for limit in np.quantile(values[:, 1], [0, 0.2, 0.6, 1]):
        found = optima.best(limit)
        assert found is not None
        best = values[values[:, 1] <= limit, 0].max()
        assert found.values[0] == pytest.approx(best, rel=1e-12) and found.values[1] <= limit
        assert accuracy.values(found.genes[None])[0] == found.values[0]
        assert best <= found.bound + 1e-12 and found.bound <= 1
    unlimited = optima.best()
    assert unlimited is not None and unlimited.bound == pytest.approx(values[:, 0].max())
    assert optima.best(0.5 * values[:, 1].min()) is None
    assert optima.best(floor=-1.0) is None


def test_what_is_no_sum_on_any_scale_or_too_large_has_no_optima():
    space = SMALL["plain"]
    linear, other = sums(space, 0)
    product = Objective("p", "", False, lambda genes: np.sqrt(1 + linear.values(genes) * other.values(genes)))
    assert Optima.of(space, [linear, product]) is None
    assert Optima.of(space, sums(space, 0, 3)) is None
    large = SearchSpace((16,), (Stage.uniform((9,), kernel=(3, 5, 7), expand=(3, 4, 6)),))
    assert Optima.of(large, sums(large, 0)) is None
