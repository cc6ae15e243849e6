"""What is evaluated next: gains of hypervolume, proposals, focus on limits, and how large a round is."""

import numpy as np
import pytest

from experiments.proposing import shares
from experiments.rounds import LARGEST_BATCH, RoundCost
from search import Aim, Constraint, Model, Objective, Standing, choose, focus, non_dominated, propose, run_search
from search.focusing import log_expected_improvement, log_feasibility
from search.front import hypervolume
from search.gains import hypervolume_gains
from search.proposing import among, one_gene_neighbours
from search.tactics.model_based import ModelBased, spread_start
from search.testing import SPACES, Toy
from supernet.space import SearchSpace, Stage
from supernet.space.relation import Relation

RELATED = SearchSpace(
    (16, 24),
    (Stage.uniform((1, 2, 3), kernel=(3, 5)),) * 2,
    relations=(Relation.parse("stage1.depth <= stage2.depth"),),
)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("n_known", [0, 1, 12])
def test_gains_are_what_candidates_add_to_the_hypervolume(n, n_known):
    rng = np.random.default_rng(n_known)
    reference = np.full(n, 0.9)
    # Of coarse numbers many are equal, on an edge, or beyond the reference.
    known, new = np.round(rng.random((n_known, n)), 1), np.round(rng.random((60, n)), 1)
    before = hypervolume(known, reference) if n_known else 0.0
    expected = [hypervolume(np.concatenate([known, row[None]]), reference) - before for row in new]
    error = 1e-12 if n < 3 else 0.02
    np.testing.assert_allclose(hypervolume_gains(new, known, reference), expected, atol=error)


def test_choices_are_believed_one_after_the_other_and_end_where_nothing_adds():
    known, reference = np.array([[0.5, 0.5]]), np.ones(2)
    new = np.array([[0.15, 0.6], [0.16, 0.6], [0.6, 0.2], [0.7, 0.7], [0.2, 0.6]])
    rows, gains = choose([Standing(new, known, reference)], 5)
    assert rows.tolist() == [0, 2]  # not the neighbour of 0, which would be second by its gain alone
    whole = hypervolume(np.concatenate([known, new[:3]]), reference)
    assert gains.sum() == pytest.approx(whole / 0.25 - 1)


@pytest.mark.parametrize("space", [SPACES["98"], RELATED])
def test_neighbours_are_everything_that_differs_in_one_gene(space):
    everything = space.encode(list(space))
    row = everything[len(everything) // 2][None]
    changed = [
        space.canonical(np.where(np.arange(row.shape[1]) == gene, choice, row))
        for gene, n in enumerate(space.n_choices)
        for choice in range(n)
    ]
    changed = np.unique(np.concatenate(changed), axis=0)
    expected = changed[space.holds(changed) & ~(changed == row).all(axis=1)]
    np.testing.assert_array_equal(np.unique(one_gene_neighbours(space, row), axis=0), expected)


def test_a_proposal_is_new_holds_what_it_must_and_gains_most():
    space, toy = SPACES["98"], Toy(SPACES["98"])
    everything = space.encode(list(space))
    known = everything[::5]
    limit = toy.limit(0.6)
    found = propose(space, [Aim(toy.objectives(2), [limit])], known, 3, seed=0, calls=200)
    assert len(found.genes) == len(found.gains) == 3 and not among(found.genes, known).any()
    assert (limit.violation(found.genes) <= 0).all()

    def losses(genes):
        return np.stack([one.loss(one.values(genes)) for one in toy.objectives(2)], axis=1)

    allowed = everything[limit.violation(everything) <= 0]
    of_known = losses(known)
    reference = of_known.max(axis=0) + 0.05 * np.ptp(of_known, axis=0)
    gains = hypervolume_gains(losses(allowed), of_known[limit.violation(known) <= 0], reference)
    np.testing.assert_array_equal(found.genes[0], allowed[np.argmax(gains)])  # the whole space was looked at
    assert len(propose(space, [Aim(toy.objectives(2))], everything, 3, seed=0).genes) == 0
    front = everything[non_dominated(losses(everything))]
    filled = propose(space, [Aim(toy.objectives(2))], front, 5, seed=0, calls=200)  # models say that nothing adds
    assert len(np.unique(filled.genes, axis=0)) == 5 and not filled.gains.any() and not among(filled.genes, front).any()
    rest = everything[~among(everything, front)]
    assert among(filled.genes, rest[non_dominated(losses(rest))]).any()
    nothing = Constraint("never", toy.cost, upper=-1.0)
    assert len(propose(space, [Aim(toy.objectives(2), [nothing])], known, 3, seed=0).genes) == 0


def test_one_proposal_serves_several_fronts_by_the_sum_of_what_it_adds():
    """Also where one of them counts in a unit that is a thousand times as large, and one forbids what others may."""
    space, toy = SPACES["98"], Toy(SPACES["98"])
    everything = space.encode(list(space))
    known = everything[::7]
    good, cost = toy.objectives(2)
    slow = Objective("other cost", "", False, lambda genes: 1e3 * (cost.evaluate(genes) - genes.sum(axis=1) / 9) ** 2)
    limit = toy.limit(0.6)
    aims = [Aim([good, cost]), Aim([good, slow], [limit])]
    found = propose(space, aims, known, 4, seed=0, calls=400)
    assert found.gains.shape == (4, 2) and not among(found.genes, known).any()
    sums = np.zeros(len(everything))
    for aim in aims:
        losses = aim.losses(known)
        reference = losses.max(axis=0) + 0.05 * np.ptp(losses, axis=0)
        gains = hypervolume_gains(aim.losses(everything), losses[aim.held(known)], reference)
        sums += np.where(aim.held(everything), gains, 0) / np.prod(np.ptp(losses[aim.held(known)], axis=0))
    np.testing.assert_array_equal(found.genes[0], everything[np.argmax(sums)])
    forbidden = ~aims[1].held(found.genes)
    assert not found.gains[forbidden, 1].any()


def test_expected_improvements_are_those_of_a_million_draws_and_never_vanish():
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.0, 1.0, -2.0, 0.5]), np.array([1.0, 0.5, 0.3, 2.0])
    draws = mean + deviation * rng.standard_normal((1_000_000, 4))
    expected = np.maximum(0.2 - draws, 0).mean(axis=0)
    np.testing.assert_allclose(np.exp(log_expected_improvement(mean, deviation, 0.2)), expected, rtol=0.03)
    far = log_expected_improvement(np.array([10.0, 40.0, 900.0, 1100.0, 1e6]), np.ones(5), 0.0)
    assert np.isfinite(far).all() and (np.diff(far) < 0).all()
    sure = log_expected_improvement(np.array([1.0, 3.0]), np.zeros(2), 2.0)
    assert np.exp(sure[0]) == pytest.approx(1.0) and np.exp(sure[1]) == 0


def test_focus_finds_the_best_within_a_limit_and_weighs_an_unsure_one():
    space, toy = SPACES["98"], Toy(SPACES["98"])
    quality, cost = (Model(o.name, o.unit, o.maximize, o.evaluate) for o in toy.objectives(2))
    everything = space.encode(list(space))
    limit = float(np.quantile(toy.cost(everything), 0.4))
    held = everything[toy.cost(everything) <= limit]
    best = held[np.argmax(toy.quality(held))]
    known = everything[[0, -1]]
    unsure = Model(quality.name, "", True, quality.evaluate, lambda genes: np.full(len(genes), 0.05))
    found = focus(space, unsure, [(cost, limit)], known, 2, seed=0)
    np.testing.assert_array_equal(found.genes[0], best)
    assert len(np.unique(np.concatenate([known, found.genes]), axis=0)) == 4
    # Nothing known holds the limit: then whatever may hold it.
    heavy = everything[toy.cost(everything) > limit][:3]
    assert toy.cost(focus(space, unsure, [(cost, limit)], heavy, 1, seed=0).genes)[0] <= limit
    assert len(focus(space, unsure, [(cost, limit)], everything, 2, seed=0).genes) == 0
    doubtful = Model("cost", "s", False, cost.evaluate, lambda genes: 0.1 * toy.cost(genes))
    at_limit, below = log_feasibility([(doubtful, limit)], np.stack([held[np.argmax(toy.cost(held))], held[0]]))
    assert at_limit < below <= 0 and np.exp(at_limit) >= 0.5


def test_a_start_has_both_ends_and_levels_between_them():
    space = SPACES["10^19"]
    start = spread_start(space, 10, seed=0)
    assert len(np.unique(start, axis=0)) == 10
    np.testing.assert_array_equal(start[:2], space.encode([space.smallest, space.largest]))
    toy = Toy(space)
    uniform = space.sample_genes(10, np.random.default_rng(0))
    assert toy.cost(start[2:]).std() > 1.5 * toy.cost(uniform).std()
    for small in (SPACES["one"], SPACES["two"], SPACES["98"], RELATED):
        found = spread_start(small, 10, seed=0)
        assert len(np.unique(found, axis=0)) == len(found) == min(small.size, 10)
        assert small.holds(found).all()


@pytest.fixture
def exact():
    """Makes a model-based search of a toy whose models are the truth."""

    def create(toy, seed=0, **settings):
        return ModelBased(toy.space, 2, seed, lambda genes, losses: _models(toy), calls=300, **settings)

    return create


def _models(toy):
    return [Model(o.name, o.unit, o.maximize, o.evaluate) for o in toy.objectives(2)]


def test_a_model_based_search_goes_on_from_its_archive_and_never_asks_twice(exact):
    toy = Toy(SPACES["10^19"])

    def losses(genes):
        return np.stack([o.loss(o.values(genes)) for o in toy.objectives(2)], axis=1)

    first = exact(toy)
    told = [first.ask(4), first.ask(4), first.ask(4)]
    assert [len(genes) for genes in told] == [4, 4, 2]
    for genes in told:
        first.tell(genes, losses(genes), np.zeros(len(genes)))
    again = exact(toy)
    for genes in told:
        again.tell(genes, losses(genes), np.zeros(len(genes)))
    asked = first.ask(3)
    np.testing.assert_array_equal(asked, again.ask(3))
    pending = first.ask(3)
    everything = np.concatenate([*told, asked, pending])
    assert len(np.unique(everything, axis=0)) == len(everything) == 16


def test_a_small_space_is_searched_completely(exact):
    toy = Toy(SPACES["98"])
    result = run_search(toy.space, toy.objectives(2), tactic=exact(toy), budget=200, seed=0, batch=7)
    assert result.n_evaluated == toy.space.size


def test_with_the_truth_as_model_few_evaluations_are_a_good_front(exact):
    toy = Toy(SPACES["10^19"])
    corner = np.array([o.loss(o.values(toy.space.encode([toy.space.largest]))).max() for o in toy.objectives(2)])
    corner[0] = 0.0
    few = run_search(toy.space, toy.objectives(2), tactic=exact(toy), budget=40, seed=0, batch=4)
    many = run_search(toy.space, toy.objectives(2), tactic="nsga2", budget=400, seed=0, population=50)
    assert hypervolume(few.losses, corner) > hypervolume(many.losses, corner)


def test_the_last_ones_are_focused_on_a_limit(exact):
    toy = Toy(SPACES["10^19"])
    limit = float(toy.limit(0.3).upper or 0)
    focused = run_search(
        toy.space,
        toy.objectives(2),
        tactic=exact(toy, limits={1: limit}, focus_from=10),
        budget=14,
        seed=0,
        batch=2,
    )
    values = focused.values[:, 0][focused.values[:, 1] <= limit]
    before = focused.values[:10]
    assert values.max() > before[before[:, 1] <= limit, 0].max()
    assert (focused.values[10:, 1] <= limit).all()
    with pytest.raises(ValueError, match="limits and focus_from go together"):
        exact(toy, limits={1: limit})


def test_a_round_is_as_large_as_makes_its_networks_cost_what_the_rest_costs():
    def batch(n, **seconds):
        return RoundCost(n, seconds).batch()

    assert batch(4, profile=12.0, score=4.0, fit=2.0, propose=2.0) == 6  # 1 s of measuring each: (8 + 4) / (1 + 1)
    assert batch(4, profile=12.0, score=400.0, fit=2.0) == 1  # scores on ImageNet: choose them one by one
    assert batch(4, profile=1.2, score=0.4, fit=20.0) == LARGEST_BATCH
    assert batch(2) == LARGEST_BATCH
    cost = RoundCost(3)
    for what in ("fit", "fit", "score"):
        with cost.of(what):
            pass
    assert cost.seconds.keys() == {"fit", "score"}


def test_goals_share_a_round_and_take_turns_where_it_does_not_come_out_even():
    assert shares(4, 2, 1) == [2, 2]
    turns = np.array([shares(1, 3, number) for number in (1, 2, 3)])
    assert (turns.sum(axis=0) == 1).all() and (turns.sum(axis=1) == 1).all()
    assert sum(shares(7, 3, 5)) == 7


@pytest.mark.parametrize("n_objectives", [1, 2, 3])
def test_those_that_add_most_are_those_of_looking_at_all_every_time(n_objectives):
    """Of two fronts together, the second of which does not allow all."""
    rng = np.random.default_rng(n_objectives)
    new = [np.round(rng.random((60, n_objectives)), 2) for _ in range(2)]
    known = [rng.random((5, n_objectives)) for _ in range(2)]
    reference, held = np.ones(n_objectives), [np.ones(60, dtype=bool), rng.random(60) < 0.5]
    standings = [Standing(a, b, reference, c) for a, b, c in zip(new, known, held, strict=True)]
    rows, _ = choose(standings, 12)
    units = [np.prod(np.ptp(points, axis=0)) for points in known]
    for row in rows:
        found = [hypervolume_gains(a, b, reference) * c / u for a, b, c, u in zip(new, known, held, units, strict=True)]
        total = np.sum(found, axis=0)
        assert row == np.argmax(total)
        known = [np.concatenate([b, a[[row]]]) if c[row] else b for a, b, c in zip(new, known, held, strict=True)]
    assert len(rows) == len(set(rows.tolist())) > 1
