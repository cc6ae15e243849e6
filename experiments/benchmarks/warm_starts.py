"""python experiments/benchmarks/warm_starts.py --seeds 5

What an earlier search is worth at the start of another, and what one costs that misleads: a model-based search begins
with a few members of the front of

- a problem whose accuracy is the same in parts (``--like`` of it), searched without noise;
- a problem where accuracy is the other way round: the worst networks of every size;

or has as a prior mean (`predictors.earlier`) what a model of eighty scores says

- of the problem whose accuracy is the same in parts;
- of one whose accuracy has nothing to do with it.

Shown is the true share of the best hypervolume after so many evaluations, as in ``search_quality.py``, and the
difference from the search without. It needs no data.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.search_problems import Problem, synthetic
from experiments.benchmarks.search_quality import Learner, interval, reported
from predictors import GaussianProcessPredictor
from predictors.earlier import Earlier
from search import Objective, non_dominated, run_search
from search.tactics.model_based import ModelBased
from supernet.space import Genes

_AT = (20, 50, 100)
_SCORED = 80  # networks of an earlier run


def like_it(problem: Problem, other: Problem, like: float, seed: int) -> Genes:
    """The front of a search where accuracy is that of both problems, in these parts, ordered by cost."""
    good, theirs, cost = problem.objectives[0], other.objectives[0], problem.objectives[1]
    mixed = Objective("accuracy", "", True, lambda genes: like * good.values(genes) + (1 - like) * theirs.values(genes))
    return _front(problem, [mixed, cost], seed)


def misleading(problem: Problem, seed: int) -> Genes:
    """The worst networks of every size, ordered by it."""
    good, cost = problem.objectives
    worst = Objective("accuracy", "", False, good.evaluate), Objective("macs", "", True, cost.evaluate)
    return _front(problem, worst, seed)


def _front(problem: Problem, objectives: Sequence[Objective], seed: int) -> Genes:
    found = run_search(problem.space, objectives, tactic="nsga2", budget=2_000, seed=seed, population=100)
    genes = found.genes[non_dominated(found.losses)]
    return genes[np.argsort(problem.objectives[1].values(genes), kind="stable")]


def scored(problem: Problem, other: Problem, like: float, seed: int) -> Earlier:
    """What a model says that has seen noisy scores of a problem where accuracy is that of both, in these parts."""
    rng = np.random.default_rng([seed, 1])
    genes = np.unique(problem.space.sample_genes(_SCORED, rng), axis=0)
    good, theirs = problem.objectives[0], other.objectives[0]
    values = like * good.values(genes) + (1 - like) * theirs.values(genes)
    levels = Learner(problem).subject.levels
    model = GaussianProcessPredictor(levels, n_folds=2).fit(
        genes, values + problem.noise[0] * rng.normal(size=len(genes))
    )
    return Earlier(problem.space, {"earlier": model.predict})


def shares(problem: Problem, earlier: Genes | Earlier | None, seed: int, batch: int) -> list[float]:
    """True shares of the best, in percent."""
    learner = Learner(problem)
    if isinstance(earlier, Earlier):
        learner.subject, earlier = replace(learner.subject, earlier=earlier), None
    tactic = ModelBased(problem.space, 2, seed, learner, earlier=earlier)
    found = run_search(problem.space, problem.noisy(seed), tactic=tactic, budget=max(_AT), seed=seed, batch=batch)
    return [100 * problem.share(reported(problem, learner, found.genes[:n], found.losses[:n])) for n in _AT]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--like", type=float, default=0.7, help="share of the accuracy that is the same")
    arguments = parser.parse_args()
    problem, other, rng = synthetic(), synthetic(seed=1), np.random.default_rng(0)
    table = Table("begins with", *map(str, _AT), title="% of the best, and what that is more than without")
    without: list[list[float]] = []
    beginnings: dict[str, Callable[[int], Genes | Earlier | None]] = {
        "nothing": lambda seed: None,
        "a front like it": lambda seed: like_it(problem, other, arguments.like, 1_000 + seed),
        "a misleading front": lambda seed: misleading(problem, 1_000 + seed),
        "scores like it": lambda seed: scored(problem, other, arguments.like, 1_000 + seed),
        "scores of something else": lambda seed: scored(problem, other, 0.0, 1_000 + seed),
    }
    for name, begin in beginnings.items():
        rows = [shares(problem, begin(seed), seed, arguments.batch) for seed in range(arguments.seeds)]
        without = without or rows
        cells = []
        for column, before in zip(zip(*rows, strict=True), zip(*without, strict=True), strict=True):
            low, high = interval([a - b for a, b in zip(column, before, strict=True)], rng)
            cells.append(f"{np.mean(column):.1f}" + ("" if rows is without else f" ({low:+.1f} to {high:+.1f})"))
        table.add_row(name, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
