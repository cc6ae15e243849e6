"""What to evaluate next, from models of the objectives: candidates, and which of them gain most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.front import Values, non_dominated
from search.gains import Standing, choose
from search.objectives import Constraint, Objective
from search.running import run_search
from supernet.space import Genes, SearchSpace

__all__ = ["Aim", "Model", "Proposal", "among", "one_gene_neighbours", "propose"]

_ROUNDS = 2  # of neighbours of the predicted front
_MEMBERS = 40  # of the front whose neighbours are looked at
_BEYOND = 0.05  # of the range of what is known: how far beyond its worst the reference point lies


@dataclass(frozen=True)
class Model(Objective):
    """An objective that is foretold: `evaluate` is its posterior mean, for canonical genes (n_archs, n_genes)."""

    deviation: Callable[[Genes], Values] | None = None
    """Genes to the standard deviations (n_archs,) of what is not known, in the unit of the objective; None where it is
    known exactly."""

    def deviations(self, genes: Genes) -> Values:
        """(n_archs,)."""
        return np.zeros(len(genes)) if self.deviation is None else np.asarray(self.deviation(genes), dtype=float)


@dataclass(frozen=True)
class Aim:
    """A front that is searched for: its objectives, and what its members keep, as models."""

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()

    def losses(self, genes: Genes) -> Values:
        """(n, n_objectives) of genes (n, n_genes)."""
        return np.stack([one.loss(one.values(genes)) for one in self.objectives], axis=1)

    def held(self, genes: Genes) -> NDArray[np.bool_]:
        """(n,) whether each keeps the constraints."""
        held = np.ones(len(genes), dtype=bool)
        for constraint in self.constraints:
            held &= constraint.violation(genes) <= 0
        return held


@dataclass(frozen=True)
class Proposal:
    """What models say is worth evaluating."""

    genes: Genes
    """(n, n_genes), canonical, none of them known, the largest gain first."""
    gains: Values
    """(n, n_aims) what each is predicted to add to the hypervolume of every front after all before it, as a share of
    that of what is known."""
    n_predicted: int
    """Calls of the models."""
    fronts: Sequence[Genes]
    """Per aim (n_front, n_genes) the predicted front from which they were chosen, known ones among it."""
    seconds: float
    """CPU time of this process."""


def propose(
    space: SearchSpace,
    aims: Sequence[Aim],
    known: Genes,
    n: int,
    *,
    seed: int,
    tactic: str = "nsga2",
    calls: int = 5_000,
    options: Mapping[str, Any] | None = None,
) -> Proposal:
    """Up to `n` new architectures that are predicted to add most to the fronts of what is known.

    For every aim a tactic searches on the models from the predicted front of the known ones; then all architectures are
    looked at that differ from the front found in one gene, twice. Gains are over the *predicted* front of the known
    ones, not the observed one: whoever compares with the best of noisy values looks for luck (which the noisy expected
    improvement of Letham et al. 2019 averts as well). What is evaluated serves all aims, as a network's accuracy is the
    same on every device: so candidates of all are judged by the sum of what they add to each.

    Args:
        aims: fronts that are searched for; their models are called with any genes.
        known: (n_known, n_genes) what was evaluated or is being evaluated, canonical.
        calls: of the models by the tactic; of several aims, each has half as many.
        options: of the tactic.

    Returns:
        A proposal that is shorter where nothing else was found that keeps the constraints. Where the models say that
        nothing adds anything, it is filled with what comes nearest to that, of gain 0.
    """
    started = time.process_time()
    each = calls if len(aims) == 1 else calls // 2
    found = [_explore(space, aim, known, each, seed, tactic, options or {}) for aim in aims]
    # What another new one dominates is never the largest gain of its front.
    best = np.unique(
        np.concatenate([one.new[non_dominated(one.losses)] for one in found]),
        axis=0,
    )
    before = [aim.losses(known) for aim in aims]
    references = [losses.max(axis=0) + _BEYOND * np.ptp(losses, axis=0) for losses in before]
    standings = [
        Standing(aim.losses(best), losses[aim.held(known)], reference, aim.held(best))
        for aim, losses, reference in zip(aims, before, references, strict=True)
    ]
    rows, gains = choose(standings, n)
    genes = best[rows]
    for i, (one, reference) in enumerate(zip(found, references, strict=True)):
        share = math.ceil((n - len(genes)) / (len(aims) - i))
        if share > 0:
            rest = np.flatnonzero(~among(one.new, genes))
            genes = np.concatenate([genes, one.new[_others(one.losses, rest, reference, share)]])
    gains = np.concatenate([gains, np.zeros((len(genes) - len(gains), len(aims)))])
    n_predicted = sum(one.n_predicted for one in found)
    return Proposal(genes, gains, n_predicted, [one.front for one in found], time.process_time() - started)


@dataclass(frozen=True)
class _Explored:
    """What was looked at for one aim."""

    new: Genes  # (n, n_genes), each once, none of them known, all keeping the constraints
    losses: Values  # (n, n_objectives) of these
    front: Genes  # (n_front, n_genes) of everything that was looked at
    n_predicted: int


def _explore(
    space: SearchSpace, aim: Aim, known: Genes, calls: int, seed: int, tactic: str, options: Mapping[str, Any]
) -> _Explored:
    """A search on the models of an aim from the predicted front of what is known, and the neighbours of its end."""
    kept = known[aim.held(known)]
    beginning = kept[non_dominated(aim.losses(kept))] if len(kept) else known
    result = run_search(
        space,
        aim.objectives,
        constraints=aim.constraints,
        tactic=tactic,
        budget=min(max(calls, len(beginning) + 2), space.size),
        seed=seed,
        initial=beginning,
        **options,
    )
    genes, losses = result.genes[result.feasible], result.losses[result.feasible]
    n_predicted = result.n_evaluated
    looked_at = known[:0]
    for _ in range(_ROUNDS):
        front = np.flatnonzero(non_dominated(losses))
        front = front[np.argsort(losses[front, 0], kind="stable")]
        front = front[~among(genes[front], looked_at)]
        some = front[np.unique(np.linspace(0, len(front) - 1, _MEMBERS).astype(int))] if len(front) else front
        looked_at = np.concatenate([looked_at, genes[some]])
        near = one_gene_neighbours(space, genes[some])
        near = near[aim.held(near)]
        n_predicted += len(near)
        genes, losses = np.concatenate([genes, near]), np.concatenate([losses, aim.losses(near)])
    _, first = np.unique(genes, axis=0, return_index=True)
    new = np.sort(first[~among(genes[first], known)])
    return _Explored(genes[new], losses[new], genes[non_dominated(losses)], n_predicted)


def _others(losses: Values, rows: Genes, reference: Values, n: int) -> Genes:
    """Up to `n` of the rows, where a model says that nothing adds to what is known: it may be wrong.

    What would be the best front without what is known, then without that, and so on.
    """
    chosen: list[int] = []
    while len(chosen) < n and len(rows):
        layer = rows[non_dominated(losses[rows])]
        picked, _ = choose([Standing(losses[layer], losses[:0], reference)], n - len(chosen))
        chosen += layer[picked if len(picked) else slice(n - len(chosen))].tolist()
        rows = np.setdiff1d(rows, layer)
    return np.array(chosen, dtype=np.int64)


def one_gene_neighbours(space: SearchSpace, genes: Genes) -> Genes:
    """(n, n_genes), canonical, all that differ from one of the rows (n_archs, n_genes) in one gene of theirs.

    What differs so from several rows is there as often.
    """
    gene = np.repeat(np.arange(len(space.n_choices)), space.n_choices)
    choice = np.concatenate([np.arange(n) for n in space.n_choices])
    row, change = np.nonzero(space.active(genes)[:, gene] & (genes[:, gene] != choice))
    neighbours = genes[row]
    neighbours[np.arange(len(row)), gene[change]] = choice[change]
    neighbours = space.canonical(neighbours)
    return neighbours[space.holds(neighbours)]


def among(genes: Genes, others: Genes) -> NDArray[np.bool_]:
    """(n,) whether a row (n_genes,) is one of `others`."""
    known = {row.tobytes() for row in np.ascontiguousarray(others, dtype=np.int64)}
    return np.array([row.tobytes() in known for row in np.ascontiguousarray(genes, dtype=np.int64)], dtype=bool)
