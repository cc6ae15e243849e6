"""Draws and what samplers make of them: laws of the distributions, the same in every process."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare

from supernet import Architecture, SearchSpace, Stage, create_supernet, elastic
from supernet.space import Genes
from supernet.space.nested import NestedFamily
from supernet.training import Attentive, Draw, Evenly, MacBins, Nested, Sandwich, Shift, Uniform

SPACE = SearchSpace(
    (16, 24, 32), (Stage.uniform((1, 2, 3), kernel=(3, 5), expand=(2, 3, 4)), Stage.uniform((1, 2), expand=(2, 4, 6)))
)


@dataclass
class Counted:
    """Just enough of a supernet: the cost is the area times the sum of the expansions."""

    space: SearchSpace

    def macs(self, genes: Genes) -> NDArray[np.float64]:
        values = self.space.values(genes)
        expands = [i for i, gene in enumerate(self.space.genes) if gene.name == "expand"]
        return values[:, 0] ** 2 * np.nansum(values[:, expands], axis=1)


NET = Counted(SPACE)
FAMILY = NestedFamily.between(SPACE, 6)
DRAWS: list[Draw] = [
    Evenly(),
    Evenly("architectures"),
    Evenly(one_resolution=True),
    MacBins(NET, 6),
    MacBins(NET, 6, "natural"),
    Nested(FAMILY),
]
PLACES: list[Callable[[Draw], Uniform | Sandwich]] = [
    partial(Uniform, 3),
    partial(Sandwich, 2),
    partial(Sandwich, 1, smallest=False),
]


def probe(archs: object) -> NDArray[np.float64]:
    """Losses that nobody can guess but that are the same in every process."""
    return np.array([int(arch.id, 16) % 997 / 997 for arch in archs])  # type: ignore[attr-defined]


@pytest.mark.parametrize("draw", DRAWS, ids=repr)
@pytest.mark.parametrize("places", PLACES, ids=str)
def test_every_draw_fits_every_sampler(draw: Draw, places: Callable[[Draw], Uniform | Sandwich]) -> None:
    sampler = places(draw)
    for step in range(30):
        archs = sampler(SPACE, 0, step)
        assert (
            len(archs) == 3 if isinstance(sampler, Uniform) else len(archs) == sampler.n_random + 1 + sampler.smallest
        )
        assert all(arch in SPACE for arch in archs)
        assert (archs[0] == SPACE.largest) >= sampler.largest_first


def _all_ids() -> list[list[str]]:
    samplers = [places(draw) for draw in DRAWS for places in PLACES]
    steps = (0, 1, 9000, 2)  # the pools of MAC bins are drawn anew on the way
    ids = [[arch.id for step in steps for arch in sampler(SPACE, 5, step)] for sampler in samplers]
    for adaptive in (Attentive(Sandwich(2, MacBins(NET, 6))), Shift(Uniform(3, MacBins(NET, 6)), every=2)):
        state, chosen = adaptive.start(SPACE), []
        for step in range(8):
            archs = adaptive.choose(SPACE, 5, step, state, probe)
            state = adaptive.learn(SPACE, state, archs, probe(archs))
            chosen += [arch.id for arch in archs]
        ids.append(chosen)
    return ids


@pytest.mark.slow
def test_every_process_draws_the_same() -> None:
    code = f"import sys, json; sys.path.insert(0, {str(sys.path[0])!r}); import runpy; "
    code += f"print(json.dumps(runpy.run_path({__file__!r})['_all_ids']()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == _all_ids()


def test_macs_are_uniform_over_the_bins(small_supernet) -> None:
    space, draw = small_supernet.space, MacBins(small_supernet, 10)
    macs = small_supernet.macs(space.encode([arch for step in range(400) for arch in draw(space, 8, 3, step)]))
    ends = small_supernet.macs(space.encode([space.smallest, space.largest]))
    edges = np.linspace(ends[0], ends[1], 11)
    counts = np.histogram(macs, edges)[0]
    assert chisquare(counts).pvalue > 0.01, counts
    uniform = small_supernet.macs(space.sample_genes(3200, np.random.default_rng(0)))
    starved = np.histogram(uniform, edges)[0]
    assert starved[-3:].sum() < 0.1 * 3200 and chisquare(starved).pvalue < 1e-9  # what the bins are there for


def test_a_natural_prior_is_that_of_uniform_genes(small_supernet) -> None:
    space, draw = small_supernet.space, MacBins(small_supernet, 8, "natural")
    bins = draw.bins(space, 0, 0)
    chosen = draw.bins_of(space, [arch for step in range(300) for arch in draw(space, 8, 0, step)])
    uniform = draw.bins_of(space, space.sample(20_000, np.random.default_rng(9)))
    expected = np.bincount(uniform, minlength=8) / 20_000
    assert np.abs(bins.natural - expected).max() < 0.03
    assert np.abs(np.bincount(chosen, minlength=8) / 2400 - expected).max() < 0.04


def test_bins_of_a_part_of_the_space_are_counted_by_the_whole(small_supernet) -> None:
    part = small_supernet.space.restrict(kernel=(5, 7), depth=(2,))
    draw = MacBins(small_supernet, 5)
    archs = [arch for step in range(100) for arch in draw(part, 4, 0, step)]
    assert all(arch in part for arch in archs)
    assert chisquare(np.bincount(draw.bins_of(part, archs), minlength=5)).pvalue > 0.01


def test_empty_bins_are_reported_and_share_their_part() -> None:
    net = Counted(SearchSpace((16,), (Stage.uniform((1,), expand=(1, 2, 9)), Stage.uniform((1,), expand=(1, 2)))))
    draw = MacBins(net, 10)
    with pytest.warns(RuntimeWarning, match=r"5 of 10 MAC bins hold no architecture that was found \(.*share their"):
        archs = [arch for step in range(1000) for arch in draw(net.space, 2, 0, step)]
    counts = np.bincount(draw.bins_of(net.space, archs), minlength=10)
    assert (counts > 0).sum() == 5 and chisquare(counts[counts > 0]).pvalue > 0.01


def test_bins_are_quick_to_draw_from() -> None:
    """No draw of a step may look for architectures: the pool of thousands of steps is filled at once."""
    draw, looked = MacBins(NET, 6), []
    draw.supernet.macs = lambda genes: (looked.append(len(genes)), Counted.macs(NET, genes))[1]  # type: ignore[method-assign]
    try:
        for step in range(500):
            draw(SPACE, 4, 0, step)
    finally:
        del draw.supernet.macs
    assert len(looked) < 70


# -- nested families --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_levels", [2, 5, 9, 14])
def test_levels_lie_between_the_ends_in_order_of_macs(n_levels: int) -> None:
    levels = NestedFamily.between(SPACE, n_levels).levels
    assert (levels[0], levels[-1], len(levels)) == (SPACE.smallest, SPACE.largest, n_levels)
    assert (np.diff(NET.macs(SPACE.encode(levels))) >= 0).all()  # kernels are free here


def test_weights_of_a_level_are_among_those_of_the_next() -> None:
    net = elastic("test_vit", model_args={"num_classes": 10})
    levels = NestedFamily.between(net.space, 4).levels
    values = [
        {name: set(tensor.flatten().tolist()) for name, tensor in net.extract(level).named_parameters()}
        for level in levels
    ]
    for less, more in pairwise(values):
        assert less.keys() <= more.keys()
        assert all(less[name] <= more[name] for name in less)
    assert sum(map(len, values[0].values())) < 0.9 * sum(map(len, values[-1].values()))


def test_what_is_not_nested_is_refused() -> None:
    deep, wide = SPACE.restrict(depth=(1, 2), expand=(2,)).largest, SPACE.restrict(depth=(1,)).largest
    with pytest.raises(ValueError, match=r"level 2 .* depth 1 of stage 1 is below 2"):
        NestedFamily((deep, wide))
    with pytest.raises(ValueError, match=r"level 2 .* expand 2 is below 4 in block 1 of stage 1"):
        NestedFamily((wide, deep))
    with pytest.raises(ValueError, match="they are the same"):
        NestedFamily((deep, deep))
    with pytest.raises(ValueError, match="give at least 2"):
        NestedFamily((deep,))
    with pytest.raises(ValueError, match="has no 40 nested levels"):
        NestedFamily.between(SPACE, 40)
    with pytest.raises(ValueError, match="0 stages, not 2"):
        NestedFamily((deep, Architecture(32, ())))


def test_levels_come_by_their_weights() -> None:
    draw = Nested(FAMILY, (1, 0, 1, 1, 1, 4))
    counts = np.zeros(6)
    for step in range(500):
        for arch in draw(SPACE, 2, 1, step):
            counts[FAMILY.levels.index(arch)] += 1
    assert counts[1] == 0 and chisquare(counts[counts > 0], np.array([1, 1, 1, 1, 4]) * 125).pvalue > 0.01
    for weights in ((1, 2), (0,) * 6, (1, 1, 1, 1, 1, -1)):
        with pytest.raises(ValueError, match="weights"):
            Nested(FAMILY, weights)


# -- adaptive samplers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train", ["best", "worst"])
def test_attentive_trains_the_candidate_it_should(train: str) -> None:
    draw = MacBins(NET, 6)
    sampler = Attentive(Sandwich(2, draw), 4, train)  # type: ignore[arg-type]
    asked: list[list[Architecture]] = []

    def spying(archs: list[Architecture]) -> NDArray[np.float64]:
        asked.append(archs)
        return probe(archs)

    for step in range(50):
        archs = sampler.choose(SPACE, 0, step, sampler.start(SPACE), spying)  # type: ignore[arg-type]
        assert (archs[0], archs[-1], len(archs)) == (SPACE.largest, SPACE.smallest, 4)
        for place, chosen in enumerate(archs[1:3]):
            candidates = asked[-1][place::2]
            assert len(candidates) == 4 and len(set(draw.bins_of(SPACE, candidates))) == 1
            best = min if train == "best" else max
            assert probe([chosen])[0] == best(probe(candidates))
    assert len(asked) == 50


@pytest.mark.parametrize("places", [Sandwich(2, MacBins(NET, 6)), Uniform(2, MacBins(NET, 6))], ids=str)
@pytest.mark.parametrize("hard", [0, 3, 5])
def test_a_bin_that_is_behind_is_trained_more_often(places: Uniform | Sandwich, hard: int) -> None:
    sampler, draw, rng = Shift(places), places.draw, np.random.default_rng(hard)
    assert isinstance(draw, MacBins)
    state = sampler.start(SPACE)
    chosen = np.zeros(6)
    for step in range(600):
        archs = sampler.choose(SPACE, 0, step, state, probe)
        bins = draw.bins_of(SPACE, archs)
        losses = 2.0 - step / 600 + 0.3 * (bins == hard) + 0.1 * rng.standard_normal() + 0.1 * rng.random(len(archs))
        losses[0] -= 0.3 * (bins[0] == hard and sampler.largest_first)
        state = json.loads(json.dumps(sampler.learn(SPACE, state, archs, losses)))  # plain: it goes into checkpoints
        probabilities = sampler.probabilities(draw.bins(SPACE, 0, step), state)
        assert probabilities.min() >= 0.2 / 6 - 1e-12 and probabilities.sum() == pytest.approx(1)
        if step >= 299:
            assert probabilities.argmax() == hard and probabilities[hard] > 1.5 / 6, probabilities
            chosen += np.bincount(bins, minlength=6)
    if not sampler.largest_first:
        assert chosen.argmax() == hard and chosen[hard] > 1.3 * chosen.sum() / 6


def test_shifting_waits_and_updates_now_and_then() -> None:
    sampler, changes = Shift(Uniform(2, MacBins(NET, 6)), every=10, wait=25), []
    state = sampler.start(SPACE)
    before = None
    for step in range(60):
        archs = sampler.choose(SPACE, 0, step, state, probe)
        state = sampler.learn(SPACE, state, archs, probe(archs))
        if state["used_gaps"] != before:
            changes.append(step + 1)
            before = state["used_gaps"]
    assert changes == [30, 40, 50, 60]


@pytest.mark.parametrize("sampler", [Attentive, Shift])
def test_adaptive_samplers_need_bins_and_no_family(sampler: type[Attentive] | type[Shift]) -> None:
    with pytest.raises(ValueError, match="compares MAC bins; draw by these"):
        sampler(Sandwich(2))
    with pytest.raises(ValueError, match="both decide what is trained how often"):
        sampler(Uniform(2, Nested(FAMILY)))


def test_impossible_settings_are_refused() -> None:
    places = Uniform(1, MacBins(NET, 6))
    for wrong, says in (
        (lambda: MacBins(NET, 1), "the least is 2"),
        (lambda: Attentive(places, 1), "the least is 2"),
        (lambda: Shift(places, temperature=0), "temperature 0"),
        (lambda: Shift(places, even_share=0), "a bin could starve"),
        (lambda: Shift(places, every=0), "every 0"),
        (lambda: Shift(places, momentum=1), "momentum 1"),
    ):
        with pytest.raises(ValueError, match=says):
            wrong()


def test_published_spaces_have_no_empty_bins() -> None:
    net = create_supernet("ofa_mobilenetv3_w1.0", seed=0)
    draw = MacBins(net, 24)
    assert draw.bins(net.space, 0, 0).filled.all()
