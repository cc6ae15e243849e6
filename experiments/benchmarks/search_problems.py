"""Problems of search whose objectives cost nothing: published scores and latencies, fitted, with noise put on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel
from sklearn.neural_network import MLPRegressor

from experiments.benchmarks.latency_predictors import read_genes
from predictors import OneHot
from search import Constraint, Objective, StageSums, non_dominated, run_search
from search.front import Values, hypervolume
from search.proposing import one_gene_neighbours
from supernet import create_supernet
from supernet.space import Genes, SearchSpace

__all__ = ["Problem", "competition", "gpu_latency", "imagenet", "synthetic"]

Function = Callable[[Genes], Values]

_LONG = 40_000  # evaluations of each search for the best front
_TUNED_ON = 400  # rows: more of them hardly change the settings of a Gaussian process
_ENDED = 1e-4  # a share of the hypervolume: smaller gains of a round of neighbours end the search for the best front
_SEEN = 300_000  # rows that a network learns from, those of all epochs together
_BOX = np.array([[0.20918, 4_610_136, 213_223_824 / 2], [0.29796, 10_197_992, 1_376_797_630 / 2]])
"""The competition's best and worst error, parameters and operations (`_utopian_point`, `_nadir_point`): two operations
for every multiply-accumulate, as the smallest network shows, of which 100 million are counted here."""
_SLOTS = 4  # of a stage in the tables of the competition


@dataclass
class Problem:
    """Objectives by their true functions, and what is put on them when they are evaluated.

    A share of the best is of the hypervolume up to `corner`: of each objective the worse one of the smallest and the
    largest network.
    """

    name: str
    supernet: Any
    objectives: Sequence[Objective]
    """The truth."""
    noise: Sequence[float]
    """(n_objectives,) standard deviations of an evaluation: of accuracies in their unit, of costs as shares."""
    exact: Sequence[bool]
    """(n_objectives,) whether a search may know it without evaluating, as counted costs are known."""
    ideal: float | None = None
    """The hypervolume of the best front, if it is known."""
    reference: Values | None = None
    """(n_objectives,) losses up to which hypervolumes are, where somebody has said so."""
    merit: Objective | None = None
    """A sum over stages that the first objective grows with, if there is one."""

    @property
    def space(self) -> SearchSpace:
        """Where the search goes on."""
        return self.supernet.space

    def losses(self, genes: Genes) -> Values:
        """(n, n_objectives) the true ones."""
        return np.stack([one.loss(one.values(genes)) for one in self.objectives], axis=1)

    def noisy(self, seed: int) -> list[Objective]:
        """What a search sees."""
        return [self._seen(i, np.random.default_rng([seed, i])) for i in range(len(self.objectives))]

    def _seen(self, i: int, rng: np.random.Generator) -> Objective:
        one, size = self.objectives[i], self.noise[i]

        def evaluate(genes: Genes) -> Values:
            values = one.values(genes)
            return values + size * rng.normal(size=len(genes)) * (1.0 if one.maximize else values)

        return Objective(one.name, one.unit, one.maximize, evaluate if size else one.evaluate)

    @cached_property
    def corner(self) -> Values:
        """(n_objectives,) the reference point, of losses."""
        if self.reference is not None:
            return self.reference
        return self.losses(self.space.encode([self.space.smallest, self.space.largest])).max(axis=0)

    @cached_property
    def best(self) -> float:
        """The hypervolume of the best front known: long searches of the truth, and neighbours until none helps."""
        if self.ideal is not None:
            return self.ideal
        searches = [
            run_search(self.space, self.objectives, tactic="nsga2", budget=_LONG, seed=seed, population=200)
            for seed in (1_000, 1_001)
        ]
        genes = np.concatenate([search.genes for search in searches])
        losses = np.concatenate([search.losses for search in searches])
        before, now = 0.0, hypervolume(losses, self.corner)
        while now > before * (1 + _ENDED):
            kept = np.flatnonzero(non_dominated(losses))
            genes, losses = genes[kept], losses[kept]
            some = np.random.default_rng(0).permutation(len(genes))[:200]
            more = one_gene_neighbours(self.space, genes[some])
            genes, losses = np.concatenate([genes, more]), np.concatenate([losses, self.losses(more)])
            before, now = now, hypervolume(losses, self.corner)
        return now

    def best_within(self, limit: float) -> float:
        """The smallest first loss known while the second is at most `limit`: of a long search of the truth."""
        first, second = self.objectives[:2]
        held = Constraint(second.name, lambda genes: second.loss(second.values(genes)), upper=limit)
        found = run_search(
            self.space, [first], tactic="nsga2", budget=_LONG, seed=1_000, population=200, constraints=[held]
        )
        genes = found.genes[found.feasible]
        best, loss = genes, np.inf
        while (losses := first.loss(first.values(genes))).min(initial=np.inf) < loss:
            best, loss = genes[[np.argmin(losses)]], float(losses.min())
            near = one_gene_neighbours(self.space, best)
            genes = near[held.violation(near) <= 0]
        return loss

    def share(self, genes: Genes) -> float:
        """The hypervolume that these architectures truly have, of the best known."""
        return hypervolume(self.losses(genes), self.corner) / self.best


def imagenet(scores: Path, learner: str = "process") -> Problem:
    """Accuracy and multiply-accumulates of the published once-for-all MobileNetV3 at 224 pixels: P1.

    Accuracy is a function fitted to published scores of the table: a Gaussian process on one-hot genes ("process"), or
    the mean of three small networks ("networks"); no search has such models. An evaluation has the noise of scores.
    """
    supernet = _published(1.0, (224,))
    accuracy = Objective("accuracy", "", True, _accuracy(scores, supernet.space, learner))
    macs = Objective("macs", "", False, _counted(supernet.macs))
    return Problem(f"accuracy ({learner}), MACs", supernet, (accuracy, macs), (3e-4, 0.0), (False, True))


def gpu_latency(scores: Path, latencies: Path, device: str, noise: float = 0.02) -> Problem:
    """The accuracy of `imagenet`, and latency on a GPU at 224 pixels, from a table of all resolutions.

    Latency is the mean of three networks that learned its logarithm; both are evaluated with noise.
    """
    supernet, of_all = _published(1.0, (224,)), _published(1.0, range(128, 225, 4))
    genes, rows = read_genes(latencies, of_all.space)
    seconds = np.array([float(row[f"lat_ms_{device}"]) / 1e3 for row in rows])
    fitted = _networks(OneHot(of_all.space), genes, np.log(seconds))
    last = len(of_all.space.resolutions) - 1

    def latency(genes: Genes) -> Values:
        there = genes.copy()
        there[:, 0] = last
        return np.exp(fitted(there))

    objectives = (
        Objective("accuracy", "", True, _accuracy(scores, supernet.space, "process")),
        Objective("latency", "s", False, latency),
    )
    return Problem(f"accuracy, latency on {device}", supernet, objectives, (3e-4, noise), (False, False))


def competition(table: Path, n_objectives: int = 2) -> Problem:
    """Error, parameters and, if there are three, multiply-accumulates of w1.2 at five resolutions.

    MOP7 and MOP8 of the IEEE CEC 2023 competition on EvoXBench (Lu et al. 2023), with an error that three networks
    learned from its public results, and without its noise. Hypervolumes are shares of the box between the best and the
    worst that it has published of every objective, as there.
    """
    supernet = _published(1.2, range(160, 225, 16))
    with np.load(table, allow_pickle=False) as data:
        genes = _from_slots(supernet.space, data["genes"].astype(np.int64))
        error = _networks(OneHot(supernet.space), genes, np.asarray(data["err"], dtype=float))
    objectives = (
        Objective("error", "", False, error),
        Objective("parameters", "", False, _counted(supernet.n_parameters)),
        Objective("macs", "", False, _counted(supernet.macs)),
    )
    names = "MOP7" if n_objectives == 2 else "MOP8"
    exact = (False, True, True)[:n_objectives]
    low, high = _BOX[:, :n_objectives]
    return Problem(
        f"like {names}",
        supernet,
        objectives[:n_objectives],
        (0.0,) * n_objectives,
        exact,
        ideal=float(np.prod(high - low)),
        reference=high,
    )


def synthetic(seed: int = 0) -> Problem:
    """No data: accuracy saturates with a sum over blocks of random worth, so that the best front is exactly known."""
    supernet = _published(1.0, (224,))
    space, rng = supernet.space, np.random.default_rng(seed)
    worth = [np.cumsum(rng.gamma(1.0, size=len(gene.choices))) for gene in space.genes]

    def merit(genes: Genes) -> Values:
        terms = np.stack([worth[i][genes[:, i]] for i in range(len(worth))], axis=1)
        return (terms * space.active(genes)).sum(axis=1)

    low, high = merit(space.encode([space.smallest, space.largest]))

    def accuracy(genes: Genes) -> Values:
        return 0.78 - 0.08 * np.exp(-2.5 * (merit(genes) - low) / (high - low))

    macs = Objective("macs", "", False, _counted(supernet.macs))
    front = StageSums.of(space, (Objective("merit", "", True, merit), macs)).front()
    objectives = (Objective("accuracy", "", True, accuracy), macs)
    problem = Problem(
        "sums", supernet, objectives, (3e-4, 0.0), (False, True), merit=Objective("merit", "", True, merit)
    )
    problem.ideal = hypervolume(problem.losses(front.genes), problem.corner)
    return problem


# -- inside -----------------------------------------------------------------------------------------------------------


def _published(width: float, resolutions: Sequence[int]) -> Any:
    """The published once-for-all space of that width, at some resolutions."""
    supernet = create_supernet(f"ofa_mobilenetv3_w{width}")
    return type(supernet)(supernet._template[0], supernet.space.restrict(resolution=tuple(resolutions)))


def _counted(count: Callable[[Genes], Any]) -> Function:
    return lambda genes: np.asarray(count(genes), dtype=float)


def _accuracy(scores: Path, space: SearchSpace, learner: str) -> Function:
    """A share from 0 to 1, whose error is learned as a logarithm."""
    genes, rows = read_genes(scores, space)
    y = np.log(1 - np.array([float(row["top1_mean"]) / 100 for row in rows]))
    learn = {"process": _process, "networks": _networks}[learner]
    fitted = learn(OneHot(space), genes, y)
    return lambda genes: 1 - np.exp(fitted(genes))


def _process(features: OneHot, genes: Genes, y: Values) -> Function:
    kernel = ConstantKernel(0.01) * DotProduct() + ConstantKernel(0.3) * RBF(5.0) + WhiteKernel(0.01)
    some = np.random.default_rng(0).permutation(len(genes))[:_TUNED_ON]
    tuned = GaussianProcessRegressor(kernel, normalize_y=True).fit(features(genes[some]), y[some])
    model = GaussianProcessRegressor(tuned.kernel_, optimizer=None, normalize_y=True)  # type: ignore[arg-type]
    model.fit(features(genes), y)
    return _by_pieces(lambda rows: np.asarray(model.predict(features(rows)), dtype=float))


def _networks(features: OneHot, genes: Genes, y: Values) -> Function:
    level, spread = float(y.mean()), float(y.std())
    # Smooth and shrunken: on a fifth of the published scores held out as good as the Gaussian process (τ 0.963).
    n_epochs = int(np.clip(_SEEN // len(genes), 20, 150))
    networks = [
        MLPRegressor(hidden_layer_sizes=(64, 64), activation="tanh", alpha=0.1, max_iter=n_epochs, random_state=seed)
        for seed in range(3)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it ends after as many epochs as are good
        for network in networks:
            network.set_params(learning_rate_init=3e-3).fit(features(genes), (y - level) / spread)

    def predict(rows: Genes) -> Values:
        return level + spread * np.mean([np.asarray(network.predict(features(rows))) for network in networks], axis=0)

    return _by_pieces(predict)


def _by_pieces(function: Function, size: int = 4096) -> Function:
    return lambda genes: np.concatenate([function(genes[i : i + size]) for i in range(0, max(len(genes), 1), size)])


def _from_slots(space: SearchSpace, slots: Genes) -> Genes:
    """Canonical genes of (n, 21): the resolution, and per block 0 or 1 + 3 × expand index + kernel index."""
    genes = np.zeros((len(slots), len(space.genes)), dtype=np.int64)
    genes[:, 0] = slots[:, 0]
    for i, gene in enumerate(space.genes[1:], start=1):
        own = slots[:, 1 + _SLOTS * (gene.stage or 0) :][:, :_SLOTS]
        if gene.block is None:
            genes[:, i] = (own > 0).sum(axis=1) - gene.choices[0]
        else:
            chosen = np.maximum(own[:, gene.block] - 1, 0)
            genes[:, i] = chosen // 3 if gene.name == "expand" else chosen % 3
    return space.canonical(genes)
