"""python experiments/benchmarks/search_quality.py --scores ofa_mbv3_imagenet_accuracy.csv.gz

What searches with few evaluations reach, on problems whose objectives cost nothing: of the front that a search would
report after 20, 50, 100, 250 and 500 evaluations, the hypervolume that it *truly* has, as a share of the best known;
means over seeds with intervals of 90 % by bootstrap. Evaluations are noisy as scores and latencies are. Rows:

- every registered tactic that is named, with options behind it ("stagewise then='linas'"), which is told what was
  evaluated and knows nothing else;
- the model-based search with this project's predictors: a Gaussian process for accuracies, the ridge for latencies, and
  exact counts where the problem has them. What it reports it chooses by its models, not by noisy values.

`--within` shows instead how much worse the best network found within a limit is than the best known there: with the
search for the front, with its last five evaluations focused on the limit, and with focus from the start.

`--exact` says how far a search of the tactics on models, the inner one of the model-based search, is from the optimum,
which is known where models are sums over stages. Without a table it runs on the problem that needs none.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.search_problems import Problem, competition, gpu_latency, imagenet, synthetic
from experiments.proposing import deviation_of
from predictors import GaussianProcessPredictor, Predictor, RidgePredictor, Subject
from search import Objective, StageSums, create_tactic, non_dominated, run_search, tactic_names
from search.front import Values, hypervolume
from search.proposing import Aim, Model, propose
from search.tactics.model_based import START, ModelBased
from supernet.space import Genes

MODEL_BASED = "model-based"
_AT = (20, 50, 100, 250, 500)
_WITHIN_AT = (20, 50)
_ONE_BY_ONE = ("optuna", "qnehvi")  # tactics that have models as well, and are asked for as few at a time
_INNER = 5_000  # calls of models by a search on them
_POPULATION = 50  # of tactics without a model: with 100, as many evaluations would be random


class Learner:
    """Models of a problem's objectives for `ModelBased`: exact ones, and predictors of what must be evaluated."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.subject = Subject(problem.space, problem.supernet.cost_table)

    def __call__(self, genes: Genes, losses: Values) -> list[Model]:
        """See `Learn`."""
        models = []
        for i, one in enumerate(self.problem.objectives):
            evaluate, deviation = one.evaluate, None
            if not self.problem.exact[i]:
                predictor = self._predictor(one).fit(genes, one.loss(losses[:, i]))
                evaluate, deviation = predictor.predict, deviation_of(predictor)
            models.append(Model(one.name, one.unit, one.maximize, evaluate, deviation))
        return models

    def _predictor(self, objective: Objective) -> Predictor:
        if objective.name.startswith("latency"):
            return RidgePredictor(self.subject.terms, "relative")
        return GaussianProcessPredictor(self.subject.levels, n_folds=2)


def reported(problem: Problem, learner: Learner | None, genes: Genes, losses: Values) -> Genes:
    """The front that a search reports: of what its models say of what it evaluated, or of what it saw."""
    if learner is not None:
        models = learner(genes, losses)
        losses = np.stack([one.loss(one.values(genes)) for one in models], axis=1)
    return genes[non_dominated(losses)]


def search(problem: Problem, name: str, at: Sequence[int], seed: int, batch: int) -> tuple[dict[int, float], float]:
    """True shares of the best after so many evaluations each, and CPU seconds of the search's own in all."""
    objectives, learner = problem.noisy(seed), Learner(problem) if name == MODEL_BASED else None
    spent = [0.0]

    def timed(one: Objective) -> Objective:
        def evaluate(genes: Genes) -> Values:
            started = process_time()
            values = one.evaluate(genes)
            spent[0] += process_time() - started
            return values

        return Objective(one.name, one.unit, one.maximize, evaluate)

    tactic: Any
    if learner is not None:
        tactic = ModelBased(problem.space, len(objectives), seed, learner)
    else:
        known, options = named(name)
        tactic = create_tactic(known, problem.space, len(objectives), seed, population=_POPULATION, **options)
    started = process_time()
    found = run_search(
        problem.space,
        [timed(one) for one in objectives],
        tactic=tactic,
        budget=max(at),
        seed=seed,
        batch=batch if learner is not None or name.split()[0] in _ONE_BY_ONE else None,
    )
    own = process_time() - started - spent[0]
    shares = {}
    for n in at:
        shares[n] = problem.share(reported(problem, learner, found.genes[:n], found.losses[:n]))
    return shares, own


def named(text: str) -> tuple[str, dict[str, Any]]:
    """A tactic as it is written on the command line: its name, and options as in a recipe."""
    name, *options = text.split()
    return name, tomllib.loads("\n".join(options))


def regret(problem: Problem, way: str, limit: float, best: float, budget: int, seed: int, batch: int) -> float:
    """By how many points the network that is chosen after `budget` evaluations is truly worse than the best known.

    Chosen is, of those evaluated that truly keep the limit of the second objective (as measuring side by side in the
    end would show), the one that the model says is best.
    """
    learner = Learner(problem)
    focus_from = {"front": None, "front, five focused": budget - 5, "focus": START}[way]
    limits = None if focus_from is None else {1: limit}
    tactic = ModelBased(problem.space, 2, seed, learner, limits=limits, focus_from=focus_from)
    found = run_search(problem.space, problem.noisy(seed), tactic=tactic, budget=budget, seed=seed, batch=batch)
    held = found.genes[problem.losses(found.genes)[:, 1] <= limit]
    good = learner(found.genes, found.losses)[0]
    chosen = held[[np.argmin(good.loss(good.values(held)))]]
    return 100 * (float(problem.losses(chosen)[0, 0]) - best)


def print_regrets(problem: Problem, arguments: argparse.Namespace, console: Console, rng: np.random.Generator) -> None:
    """One table per limit."""
    for limit in arguments.within:
        best = problem.best_within(limit)
        table = Table(f"{problem.name}: points below the best within {limit:g}", *map(str, _WITHIN_AT))
        for way in ("front", "front, five focused", "focus"):
            cells = []
            for n in _WITHIN_AT:
                found = [
                    regret(problem, way, limit, best, n, seed, 1 if way == "focus" else arguments.batch)
                    for seed in range(arguments.seeds)
                ]
                low, high = interval(found, rng)
                cells.append(f"{np.mean(found):.2f} ({low:.2f} to {high:.2f})")
            table.add_row(way, *cells)
        console.print(table)


def interval(values: Sequence[float], rng: np.random.Generator) -> tuple[float, float]:
    """In which the mean lies with 90 %, by bootstrap over seeds (Efron 1979)."""
    means = rng.choice(np.asarray(values), size=(2_000, len(values))).mean(axis=1)
    low, high = np.quantile(means, [0.05, 0.95])
    return float(low), float(high)


def inner_distance(problem: Problem, names: Sequence[str], console: Console) -> None:
    """What searches on models that are sums over stages reach of their exact front."""
    genes = problem.space.sample_genes(60, np.random.default_rng(0))
    good = problem.objectives[0]
    fitted = RidgePredictor(Subject(problem.space).terms).fit(genes, good.values(genes))
    models = [Objective(good.name, good.unit, good.maximize, fitted.predict), problem.objectives[1]]
    started = process_time()
    sums = StageSums.of(problem.space, models)
    tables = process_time() - started
    front = sums.front()
    merging = process_time() - started - tables
    corner = front.losses.max(axis=0)
    table = Table("on the model alone", "members", "share of the exact hypervolume", "CPU s")
    table.add_row("exact", f"{len(front):,}", "100 %", f"{tables:.2f} + {merging:.3f}")
    for name, n in [*((name, _INNER) for name in names if name != MODEL_BASED), ("nsga2", 10 * _INNER)]:
        tactic, options = named(name)
        started = process_time()
        found = run_search(problem.space, models, tactic=tactic, budget=n, seed=0, **options)
        share = hypervolume(found.losses, corner) / hypervolume(front.losses, corner)
        table.add_row(
            f"{name}, {n:,} calls", f"{len(found.front):,}", f"{share:.2%}", f"{process_time() - started:.2f}"
        )
    started = process_time()
    aim = Aim(models)
    proposal = propose(problem.space, [aim], genes[:10], 4, seed=0)
    losses = aim.losses(proposal.fronts[0])
    share = hypervolume(losses, corner) / hypervolume(front.losses, corner)
    seconds = process_time() - started
    table.add_row(
        f"as in a proposal, {proposal.n_predicted:,} calls",
        f"{len(proposal.fronts[0]):,}",
        f"{share:.2%}",
        f"{seconds:.2f}",
    )
    console.print(table)


def problems(arguments: argparse.Namespace) -> list[Callable[[], Problem]]:
    """Those whose tables were given."""
    found: list[Callable[[], Problem]] = []
    if arguments.scores and arguments.latencies:
        found += [
            lambda device=device: gpu_latency(arguments.scores, arguments.latencies, device)
            for device in arguments.devices
        ]
    elif arguments.scores:
        found += [lambda: imagenet(arguments.scores), lambda: imagenet(arguments.scores, "networks")]
    if arguments.competition:
        found += [lambda n=n: competition(arguments.competition, n) for n in (2, 3)]
    return found or [synthetic]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, help="table of scored sub-networks, gzipped CSV")
    parser.add_argument("--latencies", type=Path, help="table of measured sub-networks: latency instead of MACs")
    parser.add_argument(
        "--devices", nargs="+", default=["v100_32", "titan_rtx_64", "2080ti_1"], help="its columns lat_ms_..."
    )
    parser.add_argument("--competition", type=Path, help="architectures of the competition with their errors, npz")
    parser.add_argument(
        "--tactics", nargs="+", default=["random", "nsga2", MODEL_BASED], help="with options as in TOML, or 'all'"
    )
    parser.add_argument("--evaluations", type=int, default=100, help="of every search")
    parser.add_argument("--batch", type=int, default=2, help="evaluations at a time of searches with models")
    parser.add_argument("--seeds", type=int, default=3, help="searches of each kind")
    parser.add_argument("--within", type=float, nargs="+", default=[], help="limits of the second objective")
    parser.add_argument("--exact", action="store_true", help="also the distance of the inner search from the optimum")
    arguments = parser.parse_args()
    names = [*tactic_names(), MODEL_BASED] if arguments.tactics == ["all"] else arguments.tactics
    console, rng = Console(width=140), np.random.default_rng(0)
    for make in problems(arguments):
        problem = make()
        if arguments.exact:
            inner_distance(problem, names, console)
        if arguments.within:
            print_regrets(problem, arguments, console, rng)
            continue
        at = [n for n in _AT if n <= arguments.evaluations]
        table = Table(f"{problem.name}, % of the best", *map(str, at), "own CPU s")
        for name in names:
            results = [search(problem, name, at, seed, arguments.batch) for seed in range(arguments.seeds)]
            cells = []
            for n in at:
                shares = [100 * shares[n] for shares, _ in results]
                low, high = interval(shares, rng)
                cells.append(f"{np.mean(shares):.1f} ({low:.1f} to {high:.1f})")
            table.add_row(name, *cells, f"{np.mean([own for _, own in results]):.1f}")
        console.print(table)


if __name__ == "__main__":
    main()
