"""Samplers: a pure function of space, seed and step; the sandwich always has both ends."""

import numpy as np
import pytest

from supernet import SearchSpace, Stage
from supernet.training import Evenly, Largest, Sampler, Sandwich, Uniform

SPACE = SearchSpace((16, 24, 32), (Stage.uniform((1, 2), kernel=(3, 5), expand=(2, 3, 4)), Stage.uniform((1, 2, 3))))
SAMPLERS: list[Sampler] = [
    Largest(),
    Uniform(1),
    Uniform(4),
    Uniform(4, Evenly()),
    Sandwich(0),
    Sandwich(3),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_architectures_depend_on_seed_and_step_alone(sampler: Sampler) -> None:
    forward = [sampler(SPACE, 7, step) for step in range(20)]
    np.random.seed(1)  # noqa: NPY002  the global generator must not matter
    assert [sampler(SPACE, 7, step) for step in reversed(range(20))] == forward[::-1]
    assert all(arch in SPACE for archs in forward for arch in archs)


@pytest.mark.parametrize("sampler", [Uniform(4), Sandwich(3)], ids=str)
def test_other_seeds_and_steps_give_other_architectures(sampler: Sampler) -> None:
    draws = [tuple(sampler(SPACE, seed, step)) for seed in range(5) for step in range(20)]
    assert len(set(draws)) > 95


@pytest.mark.parametrize("n_random", range(4))
def test_sandwich_is_largest_first_smallest_last(n_random: int) -> None:
    for step in range(50):
        archs = Sandwich(n_random)(SPACE, 0, step)
        assert len(archs) == n_random + 2
        assert (archs[0], archs[-1]) == (SPACE.largest, SPACE.smallest)


def test_a_descending_sandwich_has_the_same_from_large_to_small() -> None:
    for step in range(50):
        archs = Sandwich(4, descending=True)(SPACE, 0, step)
        assert sorted(map(str, archs)) == sorted(map(str, Sandwich(4)(SPACE, 0, step)))
        sizes = (SPACE.encode(archs) / (SPACE.n_choices - 1)).sum(1)
        assert (np.diff(sizes) <= 0).all()


def test_a_sandwich_of_one_architecture_trains_it_once() -> None:
    one = SearchSpace((32,), (Stage.uniform((2,), kernel=(5,)),))
    assert Sandwich(3)(one, 0, 7) == [one.largest] == Sandwich(0, smallest=False)(one, 0, 7)


def test_uniform_has_one_resolution_per_step_and_reaches_every_choice() -> None:
    steps = [Uniform(4)(SPACE, 0, step) for step in range(200)]
    assert all(len({arch.resolution for arch in archs}) == 1 for archs in steps)
    genes = SPACE.encode([arch for archs in steps for arch in archs])
    assert (genes.max(axis=0) == SPACE.n_choices - 1).all()
    mixed = [Uniform(4, Evenly())(SPACE, 0, step) for step in range(200)]
    assert any(len({arch.resolution for arch in archs}) > 1 for archs in mixed)


def test_choices_are_drawn_alike() -> None:
    archs = [arch for step in range(3000) for arch in Uniform(1)(SPACE, 3, step)]
    counts = np.unique([arch.resolution for arch in archs], return_counts=True)[1]
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(1000)


def test_impossible_numbers_of_subnetworks_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot train 0 sub-networks"):
        Uniform(0)
    with pytest.raises(ValueError, match="-1 random"):
        Sandwich(-1)
