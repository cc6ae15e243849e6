import pickle

import numpy as np
import pytest

from supernet import Architecture, Block, SearchSpace, Stage
from supernet.space.relation import Relation
from supernet.space.sampling import sample_in_bins

PUBLISHED = SearchSpace(tuple(range(128, 225, 4)), (Stage.uniform((2, 3, 4), kernel=(3, 5, 7), expand=(3, 4, 6)),) * 5)
TINY = SearchSpace(
    (8, 16),
    (Stage.uniform((0, 1, 2), kernel=(3, 5)), Stage((1, 2), ({"expand": (2, 3)},) * 2, {"kernel": (3, 5)})),
    {"stem": (8, 16)},
)


def test_the_size_is_the_number_of_distinct_architectures():
    assert len(set(TINY)) == len(list(TINY)) == TINY.size == 336
    every_gene = np.stack(np.meshgrid(*(range(n) for n in TINY.n_choices), indexing="ij"), axis=-1)
    assert len(set(TINY.decode(every_gene.reshape(-1, len(TINY.genes))))) == TINY.size


def test_the_published_space_has_its_published_size():
    assert PUBLISHED.size == 7371**5 * 25
    assert PUBLISHED.restrict(resolution=(224,)).size == 7371**5


@pytest.mark.parametrize("space", [TINY, PUBLISHED])
@pytest.mark.parametrize("uniform", ["genes", "architectures"])
def test_encode_and_decode_are_inverse(space, uniform):
    archs = space.sample(300, np.random.default_rng(0), uniform)
    genes = space.encode(archs)
    assert space.decode(genes) == archs
    assert (space.canonical(genes) == genes).all()
    assert all(arch in space for arch in archs)
    fresh = [Architecture.from_dict(arch.to_dict()) for arch in archs]  # equal, but none of it the same object
    assert (space.encode(fresh) == genes).all()


def test_genes_of_absent_blocks_mean_nothing():
    rng = np.random.default_rng(0)
    genes = PUBLISHED.sample_genes(200, rng)
    active = PUBLISHED.active(genes)
    assert not active.all()
    noise = np.where(active, genes, rng.integers(0, PUBLISHED.n_choices, genes.shape))
    assert (noise != genes).any()
    assert PUBLISHED.decode(noise) == PUBLISHED.decode(genes)
    assert np.isnan(PUBLISHED.values(genes)[~active]).all()


def test_smallest_and_largest():
    assert PUBLISHED.smallest == Architecture(128, ((Block(kernel=3, expand=3),) * 2,) * 5)
    assert PUBLISHED.largest == Architecture(224, ((Block(kernel=7, expand=6),) * 4,) * 5)


def test_sampling_is_uniform_over_architectures_when_asked():
    counts = dict.fromkeys(TINY, 0)
    n = 400 * TINY.size
    for arch in TINY.sample(n, np.random.default_rng(0), "architectures"):
        counts[arch] += 1
    expected = n / TINY.size
    chi_square = sum((count - expected) ** 2 / expected for count in counts.values())
    assert chi_square < TINY.size + 5 * np.sqrt(2 * TINY.size)
    shallow = [len(a.stages[0]) == 0 for a in TINY.sample(5000, np.random.default_rng(0), "genes")]
    assert 0.28 < np.mean(shallow) < 0.39  # uniform over genes: a third, although only a seventh of all architectures


def test_restricting_keeps_the_given_choices():
    space = PUBLISHED.restrict(depth=(4,), expand=(6,))
    assert space.size == 3**20 * 25
    assert all(arch in PUBLISHED for arch in space.sample(20, np.random.default_rng(0)))
    assert PUBLISHED.smallest not in space
    assert space.largest == PUBLISHED.largest
    assert PUBLISHED.restrict(middle_width=(6,)) == PUBLISHED.restrict(expand=(6,))  # a role


def test_a_relation_about_blocks_that_are_gone_goes_with_them():
    stage = Stage((1, 2), ({"kernel": (3, 5)},) * 2)
    tied = (Relation.parse("stage1.block1.kernel <= stage1.block2.kernel"), Relation.parse("stage1.depth >= 1"))
    space = SearchSpace((8,), (stage,), relations=tied)
    assert (space.size, space.restrict(depth=(1,)).size, space.restrict(depth=(2,)).size) == (2 + 3, 2, 3)
    assert space.restrict(depth=(1,)).relations == tied[1:]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"kernel": (4,)}, "kernel 4 is not a choice; possible are 3, 5, 7"),
        ({"width": (1,)}, "no choice is named 'width'; there are resolution, depth, kernel, expand"),
    ],
)
def test_impossible_restrictions_are_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        PUBLISHED.restrict(**choices)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        (Architecture(128, ((Block(kernel=4, expand=3),) * 2,) * 5), "stage1.block1.kernel 4 is not a choice"),
        (
            Architecture(128, ((Block(kernel=3, expand=3),),) * 5),
            "stage1.depth 1 is not a choice; possible are 2, 3, 4",
        ),
        (Architecture(100, ((Block(kernel=3, expand=3),) * 2,) * 5), "resolution 100 is not a choice"),
        (Architecture(128, ((Block(kernel=3),) * 2,) * 5), "set by expand, kernel; got kernel"),
        (Architecture(128, ((Block(kernel=3, expand=3),) * 2,) * 4), "4 stages; this space has 5"),
    ],
)
def test_what_is_not_in_the_space_is_refused_by_name(arch, message):
    assert arch not in PUBLISHED
    with pytest.raises(ValueError, match=message):
        PUBLISHED.encode([arch])


def test_a_shared_choice_holds_for_the_whole_stage():
    mixed = Architecture(8, ((), (Block(kernel=3, expand=2), Block(kernel=5, expand=2))), TINY.smallest.settings)
    with pytest.raises(ValueError, match=r"stage2.kernel is one for the whole stage, but its blocks have 3, 5"):
        TINY.encode([mixed])


@pytest.mark.parametrize("genes", [np.zeros((1, 3), int), np.full((1, 9), 5), np.full((1, 9), -1)])
def test_malformed_genes_are_refused(genes):
    with pytest.raises(ValueError, match="gene"):
        TINY.decode(genes)


def test_no_architectures_at_all():
    assert TINY.decode(TINY.encode([])) == []


def test_a_space_survives_json_and_pickle_and_prints_itself():
    for space in (TINY, PUBLISHED):
        assert SearchSpace.from_dict(space.to_dict()) == space
        space.encode([space.smallest])  # fills the caches, which do not travel
        assert pickle.loads(pickle.dumps(space)) == space  # noqa: S301
    assert "stage 2: depth 1, 2, one kernel 3, 5" in str(TINY)
    with pytest.raises(ValueError, match="not a search space"):
        SearchSpace.from_dict({"stages": []})


@pytest.mark.parametrize(
    "make", [lambda: Stage.uniform(()), lambda: Stage.uniform((1, 2), kernel=()), lambda: Stage((1,), ())]
)
def test_impossible_stages_are_refused(make):
    with pytest.raises(ValueError, match=r"depth|choices"):
        make()


# -- relations, products, bins ----------------------------------------------------------------------------------------

ORDERED = SearchSpace(
    TINY.resolutions,
    TINY.stages,
    TINY.settings,
    tuple(map(Relation.parse, ("stage1.depth <= stage2.depth", "stage1.block2.kernel >= stage1.block1.kernel"))),
)


def test_relations_hold_everywhere_and_are_counted_exactly():
    archs = list(ORDERED)
    assert len(set(archs)) == ORDERED.size
    expected = [
        a
        for a in TINY
        if len(a.stages[0]) <= len(a.stages[1])
        and (len(a.stages[0]) < 2 or a.stages[0][1].kernel >= a.stages[0][0].kernel)
    ]
    assert archs == expected and 0 < len(archs) < TINY.size
    for uniform in ("genes", "architectures"):
        drawn = ORDERED.sample(500, np.random.default_rng(0), uniform)
        assert len(drawn) == 500 and set(drawn) <= set(archs)
    assert SearchSpace.from_dict(ORDERED.to_dict()) == ORDERED == pickle.loads(pickle.dumps(ORDERED))  # noqa: S301
    assert "where stage1.depth <= stage2.depth" in str(ORDERED)


def test_what_breaks_a_relation_is_refused_by_name():
    broken = next(arch for arch in TINY if arch not in ORDERED)
    with pytest.raises(ValueError, match="does not hold stage1"):
        ORDERED.encode([broken])
    with pytest.raises(ValueError, match="do not hold stage1"):
        ORDERED.decode(TINY.encode([broken]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage1.depth", "not of the form"),
        ("stage1.depth =< stage2.depth", "operator '=<'; possible are"),
        ("stage9.depth <= stage2.depth", "no gene is named 'stage9.depth'"),
        ("stage1.depth > stage2.depth", "must hold every relation; stage1.depth > stage2.depth fails"),
    ],
)
def test_impossible_relations_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(TINY.resolutions, TINY.stages, TINY.settings, (Relation.parse(text),))


def test_a_product_has_the_stages_of_both():
    left = SearchSpace((8, 16), TINY.stages[:1], {"stem": (8, 16)})
    right = SearchSpace((8, 16), (*TINY.stages, TINY.stages[0]), {}, (Relation.parse("stage1.depth <= stage3.depth"),))
    product = left * right
    assert len(product.stages) == 4 and product.size == left.size * right.size // 2
    assert str(product.relations[0]) == "stage2.depth <= stage4.depth"
    with pytest.raises(ValueError, match="stem is a setting of both"):
        _ = left * TINY
    with pytest.raises(ValueError, match="different resolutions"):
        _ = left * right.restrict(resolution=(8,))


def test_sampling_in_bins_is_even_over_the_cost(small_supernet):
    space = small_supernet.space
    genes = sample_in_bins(space, 500, np.random.default_rng(0), small_supernet.macs)
    assert (space.canonical(genes) == genes).all()
    ends = small_supernet.macs(space.encode([space.smallest, space.largest]))

    def thirds(genes):
        return np.histogram(small_supernet.macs(genes), bins=3, range=tuple(ends))[0] / len(genes)

    assert thirds(genes).min() > 0.28
    assert thirds(space.sample_genes(5000, np.random.default_rng(0)))[-1] < 0.1
