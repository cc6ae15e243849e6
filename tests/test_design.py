"""The plan of a campaign: covers every choice, spreads over the cost, and only ever grows."""

import numpy as np
import pytest

from supernet import SearchSpace, Stage
from supernet.space.design import covering_design, covering_subset
from supernet.space.relation import Relation

PUBLISHED = SearchSpace(tuple(range(128, 225, 4)), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5)
TINY = SearchSpace(
    (8, 16),
    (Stage.uniform((0, 1, 2), kernel=(3, 5)), Stage((1, 2), ({"expand": (2, 3)},) * 2, {"kernel": (3, 5)})),
    {"stem": (8, 16)},
)
TIED = SearchSpace(
    (8, 12, 16),
    (Stage.uniform((1, 2, 3), kernel=(3, 5), expand=(2, 3, 4)),) * 3,
    relations=(Relation.parse("stage1.depth <= stage2.depth"),),
)


def cost_of(space):
    """Like multiply-accumulates: a sum over the blocks that exist, times the area."""

    def cost(genes):
        values = np.nan_to_num(space.values(genes))
        return values[:, 0] ** 2 * values[:, 1:].sum(axis=1)

    return cost


def counts(space, genes):
    """How often each choice of each gene occurs where it means something."""
    offsets = np.cumsum(space.n_choices) - space.n_choices
    found = np.zeros(space.n_choices.sum(), dtype=int)
    np.add.at(found, (genes + offsets)[space.active(genes)], 1)
    return found


@pytest.mark.parametrize("space", [PUBLISHED, TIED, TINY])
@pytest.mark.parametrize("seed", range(2))
def test_a_design_is_distinct_canonical_and_has_both_ends(space, seed):
    genes = covering_design(space, 50, cost_of(space), seed)
    assert genes.shape == (50, len(space.genes))
    assert len({row.tobytes() for row in genes}) == 50
    assert (space.canonical(genes) == genes).all() and space.holds(genes).all()
    assert space.decode(genes[:2]) == [space.smallest, space.largest]


@pytest.mark.parametrize("space", [PUBLISHED, TIED, TINY])
@pytest.mark.parametrize("seed", range(2))
def test_every_choice_at_every_position_is_in_it(space, seed):
    # A choice takes an architecture each, and what is rare is not in every bin of the cost.
    n = 2 * max(space.n_choices) + 10
    assert counts(space, covering_design(space, n, cost_of(space), seed)).min() >= 1


def test_it_covers_what_drawing_at_random_leaves_out():
    cost = cost_of(PUBLISHED)
    missing = [(counts(PUBLISHED, covering_design(PUBLISHED, 40, cost, seed)) == 0).sum() for seed in range(2)]
    drawn = [
        (counts(PUBLISHED, PUBLISHED.sample_genes(40, np.random.default_rng(seed))) == 0).sum() for seed in range(2)
    ]
    assert max(missing) < min(drawn)


@pytest.mark.parametrize("n", [20, 60, 200])
def test_it_is_spread_evenly_over_the_cost(n):
    cost = cost_of(PUBLISHED)
    costs = cost(covering_design(PUBLISHED, n, cost, seed=0))
    found, _ = np.histogram(costs, bins=10, range=(costs.min(), costs.max()))
    assert ((found - n / 10) ** 2 / (n / 10)).sum() <= 1.0  # chi-square; by chance it would be about 9


def test_a_longer_design_begins_with_the_shorter_and_seeds_decide():
    cost = cost_of(PUBLISHED)
    long = covering_design(PUBLISHED, 270, cost, seed=0)  # more than comes from one pool
    for n in (1, 7, 100):
        assert (covering_design(PUBLISHED, n, cost, seed=0) == long[:n]).all()
    assert (covering_design(PUBLISHED, 50, cost, seed=1) != long[:50]).any()


def test_a_space_that_has_no_more_gives_all_it_has():
    genes = covering_design(TINY, 1000, cost_of(TINY), seed=0)
    assert len(genes) == TINY.size and set(TINY.decode(genes)) == set(TINY)
    with pytest.raises(ValueError, match="at least 1"):
        covering_design(TINY, 0, cost_of(TINY), seed=0)


def test_a_subset_of_a_table_has_its_ends_and_shows_more_than_a_random_one():
    cost, rng = cost_of(PUBLISHED), np.random.default_rng(0)
    table = np.unique(PUBLISHED.encode(PUBLISHED.sample(500, rng)), axis=0)
    places = covering_subset(PUBLISHED, table, 20, cost, seed=0)
    costs = cost(table)
    assert len(set(places)) == 20 and list(places[:2]) == [costs.argmin(), costs.argmax()]
    missing = (counts(PUBLISHED, table[places]) == 0).sum()
    random = [(counts(PUBLISHED, table[rng.permutation(len(table))[:20]]) == 0).sum() for _ in range(10)]
    assert missing < min(random)
    assert sorted(covering_subset(PUBLISHED, table[:7], 7, cost, seed=0)) == list(range(7))
    assert list(covering_subset(PUBLISHED, table[:1], 1, cost, seed=0)) == [0]
    with pytest.raises(ValueError, match="a design of 8 architectures out of 7"):
        covering_subset(PUBLISHED, table[:7], 8, cost, seed=0)
