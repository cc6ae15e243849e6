"""The quality of searches does not fall: the standing benchmark in small, on its problem that needs no data."""

import numpy as np
import pytest

from experiments.benchmarks.search_problems import synthetic
from experiments.benchmarks.search_quality import MODEL_BASED, Learner, interval, search
from search import ModelBased, StageSums, run_search


@pytest.fixture(scope="module")
def problem():
    return synthetic()


def test_its_best_front_is_exact_and_noise_is_as_large_as_it_says(problem):
    front = StageSums.of(problem.space, [problem.merit, problem.objectives[1]]).front()
    assert problem.share(front.genes) == pytest.approx(1.0)
    genes = problem.space.sample_genes(2_000, np.random.default_rng(0))
    assert problem.share(genes) < 0.9
    for truth, seen, size in zip(problem.objectives, problem.noisy(0), problem.noise, strict=True):
        error = seen.values(genes) - truth.values(genes)
        assert error.std() == pytest.approx(size, rel=0.1)


def test_forty_evaluations_with_a_model_are_worth_hundreds_without(problem):
    found, seconds = search(problem, MODEL_BASED, (20, 40), seed=0, batch=5)
    plain, _ = search(problem, "nsga2", (40, 250), seed=0, batch=5)
    assert found[20] > 0.8 > plain[40]
    assert found[40] > 0.91 > plain[250] - 0.02
    assert seconds < 10


def test_tactics_of_the_field_keep_their_places(problem):
    """LINAS is beyond NSGA-II; stages alone are the best beginning without a model."""
    linas, plain = (search(problem, name, (100, 200), seed=0, batch=5)[0] for name in ("linas", "nsga2"))
    assert linas[200] > plain[200] + 0.01
    stages, _ = search(problem, "stagewise then='linas'", (100, 150), seed=0, batch=5)
    assert stages[100] > 0.9 > plain[100] and stages[150] > stages[100]


def test_a_model_that_learns_nothing_is_seen(problem):
    class Spoiled(Learner):
        """Learns from values of other architectures."""

        def __call__(self, genes, losses):
            order = np.random.default_rng(len(genes)).permutation(len(genes))
            return super().__call__(genes, losses[order])

    result = run_search(
        problem.space,
        problem.noisy(0),
        tactic=ModelBased(problem.space, 2, 0, Spoiled(problem), calls=500),
        budget=30,
        seed=0,
        batch=10,
    )
    assert problem.share(result.genes) < 0.86


def test_intervals_are_of_the_mean():
    rng = np.random.default_rng(0)
    low, high = interval([0.5] * 4, rng)
    assert low == high == 0.5
    low, high = interval(rng.normal(size=400).tolist(), rng)
    assert low < 0 < high and high - low == pytest.approx(2 * 1.645 / 20, rel=0.15)
