"""BoTorch's noisy expected hypervolume improvement as a tactic; needs the extra ``botorch``."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

import numpy as np

from search.front import Values
from search.proposing import among, one_gene_neighbours
from search.tactics.evolution import one_changed
from search.tactics.ranking import best_spread, leading, spread
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["Qnehvi"]

_START = 10
_MEMBERS = 10  # of the front whose neighbours are looked at
_SAMPLES = 64  # of the posterior
_MOST_ROWS = 400  # that the models learn from: what they cost grows with the third power
_AT_A_TIME = 4  # that the criterion chooses; more of them are spread over what the models say


class Qnehvi(Remembering):
    """A `Tactic`: log noisy expected hypervolume improvement (Daulton et al. 2021; Ament et al. 2023) by BoTorch.

    A Gaussian process of every objective on one-hot genes; candidates are neighbours and offspring of the front and
    random architectures. Violations of constraints are one more output that must be at most 0.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        pool: candidates for every call.

    Raises:
        ValueError: BoTorch is not installed, or more than four objectives, whose boxes become too many.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, pool: int) -> None:
        try:
            import_module("botorch")
        except ImportError as error:
            raise ValueError(f"qnehvi cannot be used: {error}; pip install 'supernet-nas[botorch]'") from error
        if n_objectives > 4:
            raise ValueError(f"tactic 'qnehvi' is for up to four objectives, not {n_objectives}; take 'nsga3'")
        super().__init__(space, n_objectives, seed, population, start=_START)
        self.pool = pool

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """Of the pool, one after the other those of the largest criterion; then those that means say are best."""
        import torch

        pool = self._candidates(rng)
        if len(pool) == 0:
            return pool
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")  # of numerics, and of data that are not standardised
            torch.manual_seed(int(rng.integers(2**31)))
            model, known, held = self._model()
            columns = self._columns(pool)
            rows = self._chosen(model, known, held, columns, min(n, _AT_A_TIME, len(pool)))
            means = -model.posterior(columns).mean[:, : self.n_objectives].numpy()
        rest = np.setdiff1d(np.arange(len(pool)), rows)
        more = rest[best_spread(means[rest], n - len(rows))]
        return pool[np.concatenate([rows, more])]

    def _model(self) -> tuple[Any, Any, bool]:
        """A model of what is to be large, on scale 1; what it learned from; whether violations are its last output."""
        import torch

        models, likelihoods = import_module("botorch.models"), import_module("gpytorch.mlls")
        fit, standardize = import_module("botorch.fit"), import_module("botorch.models.transforms").Standardize

        rows = slice(-_MOST_ROWS, None)
        known, violations = self._columns(self.genes[rows]), self.violations[rows]
        values = self._scaled(self.values[rows])
        held = bool((violations > 0).any())
        if held:
            beyond = np.where(violations > 0, violations, -violations[violations > 0].mean())
            values = np.concatenate([values, -beyond[:, None] / beyond.std()], axis=1)
        found = []
        for column in values.T:
            y = torch.tensor(column, dtype=torch.double)[:, None]
            one = models.SingleTaskGP(known, y, outcome_transform=None if held else standardize(1))
            with torch.enable_grad():
                likelihood = likelihoods.ExactMarginalLogLikelihood(one.likelihood, one)
                fit.fit_gpytorch_mll(likelihood, optimizer_kwargs={"options": {"maxiter": 50}})
            found.append(one)
        return models.ModelListGP(*found), known, held

    def _chosen(self, model: Any, known: Any, held: bool, columns: Any, n: int) -> Genes:
        import torch

        criteria, goals = import_module("botorch.acquisition"), import_module("botorch.acquisition.multi_objective")
        hypervolumes = import_module("botorch.acquisition.multi_objective.logei")
        sampler = import_module("botorch.sampling").SobolQMCNormalSampler(torch.Size([_SAMPLES]), seed=0)
        constraints = [lambda samples: -samples[..., self.n_objectives]] if held else None
        rows: list[int] = []
        for _ in range(n):
            pending = columns[rows] if rows else None
            if self.n_objectives == 1:
                first = criteria.GenericMCObjective(lambda samples, X=None: samples[..., 0])
                criterion = criteria.qLogNoisyExpectedImprovement(
                    model, known, sampler=sampler, objective=first, X_pending=pending, constraints=constraints,
                    prune_baseline=True,
                )  # fmt: skip
            else:
                reference = np.asarray(self._scaled(self.values)).min(axis=0) - 0.1
                criterion = hypervolumes.qLogNoisyExpectedHypervolumeImprovement(
                    model, reference.tolist(), known, sampler=sampler, X_pending=pending, constraints=constraints,
                    objective=goals.IdentityMCMultiOutputObjective(outcomes=list(range(self.n_objectives))),
                    prune_baseline=True, alpha=0.0 if self.n_objectives <= 2 else 1e-3, cache_root=False,
                )  # fmt: skip
            worth = torch.cat([criterion(part[:, None]) for part in columns.split(100)]).numpy()
            worth[rows] = -np.inf
            rows.append(int(worth.argmax()))
        return np.array(rows, dtype=np.int64)

    def _candidates(self, rng: np.random.Generator) -> Genes:
        """(up to the pool, n_genes), none of them known."""
        front = leading(self.values, self.violations)
        members = self.genes[front[spread(self.values[front], _MEMBERS)]]
        near = rng.permutation(one_gene_neighbours(self.space, members))[: self.pool // 2]
        far = self.genes[rng.choice(front, size=self.pool // 4)]
        for _ in range(4):
            far = one_changed(self.space, far, rng)
        anything = self.space.sample_genes(self.pool // 4, rng)
        found = np.unique(np.concatenate([near, far, anything]), axis=0)
        found = found[self.space.holds(found)]
        return found[~among(found, np.concatenate([self.genes, self.pending]))]

    def _scaled(self, values: Values) -> Values:
        """Larger is better, with mean 0 and deviation 1 over all that was told."""
        spread_ = self.values.std(axis=0)
        return -(values - self.values.mean(axis=0)) / np.where(spread_ > 0, spread_, 1.0)

    def _columns(self, genes: Genes) -> Any:
        """(n, n_choices in all) one-hot genes as a tensor; absent ones light no column."""
        import torch

        n_choices = self.space.n_choices
        columns = np.zeros((len(genes), int(n_choices.sum())))
        rows, active = np.nonzero(self.space.active(genes))
        columns[rows, (np.cumsum(n_choices) - n_choices + genes)[rows, active]] = 1.0
        return torch.tensor(columns, dtype=torch.double)
