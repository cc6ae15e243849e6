"""The one place where a search evaluates: it knows what was seen, counts the budget and watches the front grow."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from search.front import Candidate, ParetoFront, Values, hypervolume, non_dominated
from search.objectives import Constraint, Objective
from search.result import SearchResult
from supernet.space import Genes, SearchSpace

__all__ = ["Archive"]


class Archive:
    """Every architecture that a search has evaluated, none of them twice.

    Args:
        space: of the genes.
        objectives, constraints: what is evaluated.
        budget: how many architectures may be evaluated.
        reference: value per objective at which hypervolume ends; None takes the worst values of the first batch.

    Raises:
        ValueError: no objective, names that repeat, or a budget below 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        budget: int,
        reference: Mapping[str, float] | None,
    ) -> None:
        self._axes = ParetoFront((), objectives).axes  # which checks them
        if budget < 1:
            raise ValueError(f"a budget of {budget} evaluations; at least 1 is needed")
        if reference is not None and reference.keys() != {axis.name for axis in self._axes}:
            names = ", ".join(axis.name for axis in self._axes)
            raise ValueError(f"reference of {', '.join(reference) or 'nothing'}; it needs a value of {names}")
        self.space = space
        self.objectives = tuple(objectives)
        self.constraints = tuple(constraints)
        self.left = min(budget, space.size)
        self._reference = reference
        self._started = time.perf_counter()
        self._seen: set[bytes] = set()
        self._genes: list[Genes] = []
        self._values: list[Values] = []
        self._violations: list[Values] = []
        self._best = np.empty((0, len(self.objectives)))  # losses of the front so far
        self._hypervolumes: list[tuple[int, float]] = []

    def take(self, genes: Genes) -> Genes:
        """The rows, canonical, that were never taken before, the first of equals; they count as taken from now on.

        Rows that break a relation of the space are left out: they are no architectures.
        """
        genes = self.space.canonical(genes)
        genes = genes[self.space.holds(genes)]
        # Equal genes are equal bytes: exact, and one set look-up of some 100 ns per architecture.
        packed = np.ascontiguousarray(genes, dtype=np.uint16)
        blob, width = packed.tobytes(), packed.shape[1] * packed.itemsize
        fresh = []
        for i in range(len(genes)):
            key = blob[i * width : (i + 1) * width]
            if key not in self._seen:
                self._seen.add(key)
                fresh.append(i)
        return genes[fresh]

    def take_random(self, n: int, rng: np.random.Generator) -> Genes:
        """Up to `n` random architectures that were never taken; fewer only when the space is exhausted."""
        taken = [np.empty((0, len(self.space.genes)), dtype=np.int64)]
        missing = max(n, 0)
        while missing and len(self._seen) <= self.space.size // 2:
            taken.append(self.take(self.space.sample_genes(missing, rng)))
            missing -= len(taken[-1])
        if missing:  # most of the space is taken: drawing would hit what is left ever more rarely
            everything = self.space.encode(list(self.space))
            for row in rng.permutation(len(everything)):
                if missing == 0:
                    break
                taken.append(self.take(everything[row : row + 1]))
                missing -= len(taken[-1])
        return np.concatenate(taken)

    def start(self, n: int, initial: Genes | None, rng: np.random.Generator) -> Genes:
        """The first batch, up to `n` rows and the budget: the smallest, the largest, `initial`, then random ones.

        Trees and the like do not extrapolate, and a front that lacks its ends has no use for the middle.
        """
        ends = np.stack([np.zeros_like(self.space.n_choices), self.space.n_choices - 1])
        given = ends if initial is None else np.concatenate([ends, self.space.canonical(initial)])
        first = np.unique(self.space.canonical(given), axis=0, return_index=True)[1]
        taken = self.take(given[np.sort(first)][: min(max(n, len(given)), self.left)])
        return np.concatenate([taken, self.take_random(min(n, self.left) - len(taken), rng)])

    def evaluate(self, genes: Genes) -> tuple[Values, Values]:
        """Losses (n_archs, n_objectives) and violations (n_archs, n_constraints) of rows that `take` returned."""
        values = np.stack([objective.values(genes) for objective in self.objectives], axis=1)
        losses = np.stack([o.loss(values[:, i]) for i, o in enumerate(self.objectives)], axis=1)
        violations = np.zeros((len(genes), len(self.constraints)))
        for i, constraint in enumerate(self.constraints):
            violations[:, i] = constraint.violation(genes)
        self.left -= len(genes)
        self._genes.append(genes)
        self._values.append(values)
        self._violations.append(violations)
        self._grow(losses[(violations <= 0).all(axis=1)], values)
        return losses, violations

    def result(self, tactic: str, seed: int) -> SearchResult:
        """Everything so far; the front is decoded."""
        genes, values = np.concatenate(self._genes), np.concatenate(self._values)
        feasible = np.concatenate(self._violations).max(axis=1, initial=0.0) <= 0
        losses = np.stack([axis.loss(values[:, i]) for i, axis in enumerate(self._axes)], axis=1)
        rows = np.flatnonzero(feasible)
        rows = rows[non_dominated(losses[rows])]
        names = [axis.name for axis in self._axes]
        candidates = [
            Candidate(arch, dict(zip(names, row.tolist(), strict=True)))
            for arch, row in zip(self.space.decode(genes[rows]), values[rows], strict=True)
        ]
        return SearchResult(
            tactic=tactic,
            seed=seed,
            seconds=time.perf_counter() - self._started,
            genes=genes,
            values=values,
            feasible=feasible,
            front=ParetoFront(candidates, self._axes),
            reference=dict(self._reference or {}),
            hypervolumes=tuple(self._hypervolumes),
        )

    def _grow(self, losses: Values, values: Values) -> None:
        """Merge feasible `losses` into the front; `values` of the first batch may set the reference."""
        if self._reference is None:
            worst = [axis.loss(axis.loss(values[:, i]).max()) for i, axis in enumerate(self._axes)]
            self._reference = {axis.name: float(worst[i]) for i, axis in enumerate(self._axes)}
        merged = np.concatenate([self._best, losses])
        self._best = merged[non_dominated(merged)]
        corner = np.array([axis.loss(self._reference[axis.name]) for axis in self._axes])
        evaluated = sum(map(len, self._genes))
        self._hypervolumes.append((evaluated, hypervolume(self._best, corner)))
