"""python experiments/benchmarks/noisy_fronts.py --scores ofa_mbv3_imagenet_accuracy.csv.gz --seeds 5

Are fronts true that are chosen from noisy accuracies? A model-based search evaluates a hundred networks with noise of
several sizes; then a front is chosen from what was seen, by the values as they were measured and as runs believe them
(`GaussianProcessPredictor.smoothed`, `search.posterior`). Shown, in points of the hypervolume of the best front known:

- what the front is reported to have, what it truly has, and the mean absolute difference of the two;
- how often intervals of 90 % hold the truth: about the means, of all networks and of members of the front, and of the
  hypervolume;
- how often members would be chosen again, beside how often they truly are on the front of what was evaluated.

Without a table it runs on the problem that needs none, with one on that of published scores.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.search_problems import Problem, imagenet, synthetic
from experiments.benchmarks.search_quality import Learner
from predictors import GaussianProcessPredictor
from search import non_dominated, run_search
from search.front import Values, hypervolume
from search.posterior import Belief, measured_again
from search.tactics.model_based import ModelBased

_NINETY = 1.645


@dataclass(frozen=True)
class Outcome:
    """One search; hypervolumes as shares of the best known."""

    raw_reported: float
    raw_true: float
    reported: float
    true: float
    weight: float
    held: float
    held_on_front: float
    volume_held: float
    claimed: float
    """How often, on average, members of the front would be chosen again."""
    happened: float
    """How many of them truly are on it."""


def outcome(problem: Problem, noise: float, evaluations: int, batch: int, seed: int) -> Outcome:
    """A search with that noise of the first objective, and what its front is worth."""
    noisy = replace(problem, noise=(noise, *problem.noise[1:]))
    tactic = ModelBased(noisy.space, len(noisy.objectives), seed, Learner(noisy))
    found = run_search(noisy.space, noisy.noisy(seed), tactic=tactic, budget=evaluations, seed=seed, batch=batch)
    genes, seen, truth = found.genes, found.losses, problem.losses(found.genes)
    good = problem.objectives[0]
    values, process = good.loss(seen[:, 0]), GaussianProcessPredictor(Learner(problem).subject.levels, n_folds=2)
    smoothed = process.fit(genes, values).smoothed(values, np.full(len(genes), noise))
    belief = Belief(values, smoothed.noise, smoothed.means, smoothed.deviations, smoothed.pull)

    def with_first(values: Values) -> Values:
        return np.concatenate([good.loss(values)[:, None], seen[:, 1:]], axis=1)

    def worth(losses: Values, rows: NDArray[np.bool_]) -> float:
        return hypervolume(losses[rows], problem.corner) / problem.best

    means = with_first(belief.means)
    repeated = measured_again(means, lambda rng: with_first(belief.again(rng)), problem.corner, seed=seed)
    raw, chosen = non_dominated(seen), non_dominated(means)
    held = np.abs(means[:, 0] - truth[:, 0]) <= _NINETY * belief.deviations
    true = worth(truth, chosen)
    return Outcome(
        worth(seen, raw),
        worth(truth, raw),
        repeated.hypervolume / problem.best,
        true,
        belief.weight,
        float(held.mean()),
        float(held[chosen].mean()),
        float(repeated.interval[0] <= true * problem.best <= repeated.interval[1]),
        float(repeated.chances[chosen].mean()),
        float(non_dominated(truth)[chosen].mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, help="table of scored sub-networks, gzipped CSV")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.3, 0.5], help="points of accuracy")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    problem = imagenet(arguments.scores) if arguments.scores else synthetic()
    header = ("noise", "raw: reported, true", "off by", "posterior: reported, true", "off by", "weight",
              "held: all, members, hypervolume", "members: again, true")  # fmt: skip
    table = Table(*header, title=problem.name)
    for noise in arguments.noise:
        found = [
            outcome(problem, noise / 100, arguments.evaluations, arguments.batch, seed)
            for seed in range(arguments.seeds)
        ]
        mean = {name: 100 * float(np.mean([getattr(one, name) for one in found])) for name in Outcome.__annotations__}
        off = [100 * np.mean([abs(getattr(one, a) - getattr(one, b)) for one in found])
               for a, b in (("raw_reported", "raw_true"), ("reported", "true"))]  # fmt: skip
        table.add_row(
            f"{noise:g}",
            f"{mean['raw_reported']:.1f}, {mean['raw_true']:.1f}",
            f"{off[0]:.1f}",
            f"{mean['reported']:.1f}, {mean['true']:.1f}",
            f"{off[1]:.1f}",
            f"{mean['weight'] / 100:.2f}",
            f"{mean['held']:.0f}, {mean['held_on_front']:.0f}, {mean['volume_held']:.0f} %",
            f"{mean['claimed']:.0f}, {mean['happened']:.0f} %",
        )
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
