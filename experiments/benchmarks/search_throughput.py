"""python experiments/benchmarks/search_throughput.py --evaluations 20000

Candidates a second of our NSGA-II on arrays against pymoo's, once stock (with its default elimination of duplicates)
and once as a tactic (`search/pymoo_adapter.py`), all with the same two predictors of the published once-for-all space,
the same operators, population and evaluations, in turns within one run. Seconds are those of one thread, not of the
clock on the wall. The goal is 20,000 with both predictors, and ours stays while it is at least twice as fast as pymoo's
under the same laws. The shares of hypervolume and of distinct architectures show that speed is not bought with quality.

`--tactics` adds one row for every registered tactic, on the fastest predictors.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Sequence
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from rich.console import Console
from rich.table import Table

from predictors import BlockCosts, BlockTerms, BoostingPredictor, Joined, OneHot, Predictor, RidgePredictor
from search import Objective, SearchResult, run_search, tactic_names
from search.front import hypervolume
from supernet import create_supernet
from supernet.space import Genes, SearchSpace


class StockProblem(Problem):
    """The same objectives for pymoo; keeps everything that it evaluates."""

    def __init__(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        super().__init__(n_var=len(space.genes), n_obj=len(objectives), xl=0, xu=space.n_choices - 1, vtype=int)
        self.space, self.objectives = space, objectives
        self.genes: list[Genes] = []
        self.losses: list[Any] = []

    def _evaluate(self, x: Genes, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        out["F"] = np.stack([objective.loss(objective.evaluate(x)) for objective in self.objectives], axis=1)
        self.genes.append(self.space.canonical(x))
        self.losses.append(out["F"])


def stock(space: SearchSpace, objectives: Sequence[Objective], budget: int, population: int, seed: int) -> StockProblem:
    """pymoo's NSGA-II as its documentation sets it up for integers, with the operators' settings that suit genes."""
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, prob_var=0.15, eta=3, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    problem = StockProblem(space, objectives)
    minimize(problem, algorithm, ("n_eval", budget), seed=seed)
    return problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluations", type=int, default=20_000, help="candidates per search")
    parser.add_argument("--populations", type=int, nargs="+", default=[100, 200], help="sizes of the population")
    parser.add_argument("--rounds", type=int, default=3, help="searches of each kind, each with its own seed")
    parser.add_argument("--tactics", action="store_true", help="also time every registered tactic")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    supernet = create_supernet("ofa_mobilenetv3_w1.0")
    space, rng = supernet.space, np.random.default_rng(0)
    costs = BlockCosts(space, lambda genes: supernet.costs(genes).macs.astype(float))
    train = space.sample_genes(300, rng)
    macs = supernet.macs(train)
    # Values with the shape of the real ones: accuracy saturates with MACs, latency is a sum over blocks; both noisy.
    accuracy = np.log(macs) + space.active(train) @ rng.uniform(0, 0.05, len(space.genes)) + rng.normal(0, 0.02, 300)
    latency = (macs / 1e8 + space.active(train).sum(axis=1) / 20) * rng.normal(1, 0.02, 300) * 1e-3
    pairs: dict[str, tuple[Predictor, Predictor]] = {
        "two ridges on block terms": (
            RidgePredictor(BlockTerms(space)),
            RidgePredictor(BlockTerms(space), "relative"),
        ),
        "two ridges on block terms and MACs": (
            RidgePredictor(Joined(BlockTerms(space), costs)),
            RidgePredictor(Joined(BlockTerms(space), costs), "relative"),
        ),
        "XGBoost and ridge": (BoostingPredictor(OneHot(space)), RidgePredictor(BlockTerms(space), "relative")),
    }
    columns = ("predictors", "population", "ours /s", "pymoo /s", "ratio", "as a tactic /s", "ratio", "hypervolume")
    table = Table(*columns, "distinct in pymoo's")
    fitted: dict[str, list[Objective]] = {}
    for name, (best, fast) in pairs.items():
        fitted[name] = objectives = [
            Objective("accuracy", "", True, best.fit(train, accuracy).predict),
            Objective("latency", "s", False, fast.fit(train, latency).predict),
        ]
        corner = np.array([objectives[0].loss(accuracy.min()), objectives[1].loss(latency.max())])
        for population in arguments.populations:
            times: list[tuple[float, ...]] = []
            volumes, distinct = [], []
            for seed in range(arguments.rounds):
                ticks = [process_time()]
                ours = run(space, objectives, "nsga2", arguments.evaluations, population, seed)
                ticks.append(process_time())
                theirs = stock(space, objectives, arguments.evaluations, population, seed)
                ticks.append(process_time())
                run(space, objectives, "pymoo", arguments.evaluations, population, seed)
                ticks.append(process_time())
                times.append(tuple(np.diff(ticks)))
                volumes.append(hypervolume(ours.losses, corner) / hypervolume(np.concatenate(theirs.losses), corner))
                distinct.append(len(np.unique(np.concatenate(theirs.genes), axis=0)) / arguments.evaluations)
            speeds = [f"{arguments.evaluations / median(column):,.0f}" for column in zip(*times, strict=True)]
            ratios = [f"{median(one[i] / one[0] for one in times):.1f}×" for i in (1, 2)]
            table.add_row(
                name,
                str(population),
                speeds[0],
                speeds[1],
                ratios[0],
                speeds[2],
                ratios[1],
                f"{np.mean(volumes):.1%} of pymoo's",
                f"{np.mean(distinct):.0%}",
            )
    Console().print(table)
    if arguments.tactics:
        objectives = fitted["two ridges on block terms"]
        corner = np.array([objectives[0].loss(accuracy.min()), objectives[1].loss(latency.max())])
        table = Table("tactic", "candidates /s", "hypervolume")
        found = {
            name: [run(space, objectives, name, arguments.evaluations, 100, seed) for seed in range(arguments.rounds)]
            for name in tactic_names()
        }
        control = np.mean([hypervolume(result.losses, corner) for result in found["random"]])
        for name, results in found.items():
            volume = np.mean([hypervolume(result.losses, corner) for result in results])
            speed = arguments.evaluations / median(result.seconds for result in results)
            table.add_row(name, f"{speed:,.0f}", f"{volume / control:.1%} of random search's")
        Console().print(table)


def run(
    space: SearchSpace, objectives: Sequence[Objective], tactic: str, budget: int, population: int, seed: int
) -> SearchResult:
    """One search with a registered tactic."""
    return run_search(space, objectives, tactic=tactic, budget=budget, seed=seed, population=population)


if __name__ == "__main__":
    main()
