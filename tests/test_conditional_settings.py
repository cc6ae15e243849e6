"""Settings that exist only with another one: each architecture once, and what does not exist is not mentioned."""

from dataclasses import replace

import numpy as np
import pytest

from search.proposing import one_gene_neighbours
from supernet.architecture import Block
from supernet.space import SearchSpace, Stage

BLOCK = {"operator": (0, 1, 2), "kernel": (3, 5, 7), "heads": (1, 2), "window": (4, 8)}
WHEN = {"kernel": ("operator", (0, 1)), "heads": ("operator", (2,)), "window": ("heads", (2,))}  # one hangs on another


@pytest.fixture
def space():
    stage = Stage((1, 2), (BLOCK, {"operator": (0, 2), "heads": (1, 2), "width": (8, 16)}), when=WHEN)
    return SearchSpace((16,), (stage,), {"stem": (8, 16)})


def test_the_size_is_what_there_is(space):
    archs = list(space)
    first, second = 3 + 3 + 1 + 2, (1 + 2) * 2
    assert space.size == len(archs) == len(set(archs)) == 2 * (first + first * second)
    assert space.decode(space.encode(archs)) == archs
    assert {len(block) for arch in archs for block in arch.stages[0]} == {2, 3}


def test_what_does_not_exist_is_not_mentioned_and_changes_nothing(space):
    genes = space.sample_genes(200, np.random.default_rng(0))
    noise = np.random.default_rng(1).integers(0, space.n_choices, size=genes.shape)
    assert (space.canonical(np.where(space.active(genes), genes, noise)) == genes).all()
    for arch in space.decode(genes):
        for block in arch.stages[0]:
            assert ("heads" in block) == (block.operator == 2)
            assert ("window" in block) == (block.get("heads") == 2 and arch.stages[0].index(block) == 0)
    assert np.isnan(space.values(genes)[~space.active(genes)]).all()


def test_architectures_are_drawn_alike_where_that_is_asked_for(space):
    drawn = space.sample(20_000, np.random.default_rng(0), uniform="architectures")
    _, counts = np.unique([arch.id for arch in drawn], return_counts=True)
    expected = 20_000 / space.size
    assert len(counts) == space.size and np.abs(counts - expected).max() < 5 * expected**0.5


def test_wrong_blocks_are_told(space):
    arch = next(iter(space))
    wrong = replace(arch, stages=((Block(operator=2, kernel=3),),))
    with pytest.raises(ValueError, match="a block of stage 1 is set by heads, operator; got kernel, operator"):
        space.encode([wrong])
    with pytest.raises(ValueError, match="kernel exists when operator is 7, which no setting before it can be"):
        Stage((1,), (BLOCK,), when={"kernel": ("operator", (7,))})
    with pytest.raises(ValueError, match="heads exists when window is 4, which no setting before it can be"):
        Stage((1,), (BLOCK,), when={"heads": ("window", (4,))})
    with pytest.raises(ValueError, match="relations do not go with settings that exist only with others"):
        SearchSpace.from_dict({**space.to_dict(), "relations": ["stem == 8"]})


def test_spaces_made_of_it_keep_the_conditions(space):
    assert SearchSpace.from_dict(space.to_dict()).to_dict() == space.to_dict()
    smaller = space.restrict(operator=(0, 2), kernel=(5,))
    assert smaller.size == len(list(smaller)) and all(arch in space for arch in smaller)
    without = space.restrict(operator=(0,))
    assert "heads" not in {gene.name for gene in without.genes} and without.size == len(list(without))


def test_neighbours_differ_in_one_gene_that_exists(space):
    genes = space.encode([space.largest])
    near = space.decode(one_gene_neighbours(space, genes))
    assert len(set(near)) == len(near) == int((space.n_choices - 1)[space.active(genes)[0]].sum())
