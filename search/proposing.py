"""What to evaluate next, from models of the objectives: candidates, and which of them gain most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.front import Values, hypervolume, non_dominated
from search.objectives import Constraint, Objective
from search.running import run_search
from supernet.space import Genes, SearchSpace

__all__ = ["Model", "Proposal", "among", "choose", "hypervolume_gains", "one_gene_neighbours", "propose"]

_ROUNDS = 2  # of neighbours of the predicted front
_MEMBERS = 40  # of the front whose neighbours are looked at
_BEYOND = 0.05  # of the range of what is known: how far beyond its worst the reference point lies
_POINTS = 20_000  # by which hypervolumes of three objectives and more are estimated


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
class Proposal:
    """What a model says is worth evaluating."""

    genes: Genes
    """(n, n_genes), canonical, none of them known, the largest gain first."""
    gains: Values
    """(n,) what each is predicted to add to the hypervolume of all before it, as a share of that of what is known."""
    n_predicted: int
    """Calls of the models."""
    front: Genes
    """(n_front, n_genes) the predicted front from which they were chosen, known ones among it."""
    seconds: float
    """CPU time of this process."""


def propose(
    space: SearchSpace,
    objectives: Sequence[Objective],
    known: Genes,
    n: int,
    *,
    seed: int,
    constraints: Sequence[Constraint] = (),
    tactic: str = "nsga2",
    calls: int = 5_000,
    options: Mapping[str, Any] | None = None,
) -> Proposal:
    """Up to `n` new architectures that are predicted to add most to the front of what is known.

    A tactic searches on the models from the predicted front of the known ones; then all architectures are looked at
    that differ from the front found in one gene, twice. Gains are over the *predicted* front of the known ones, not the
    observed one: whoever compares with the best of noisy values looks for luck (which the noisy expected improvement of
    Letham et al. 2019 averts as well).

    Args:
        objectives: models, to be called with any genes.
        known: (n_known, n_genes) what was evaluated or is being evaluated, canonical.
        constraints: models of what candidates must keep.
        calls: of the models by the tactic.
        options: of the tactic.

    Returns:
        A proposal that is shorter where nothing else was found that keeps the constraints. Where the models say that
        nothing adds anything, it is filled with what comes nearest to that, of gain 0.
    """
    started = time.process_time()

    def losses_of(genes: Genes) -> Values:
        return np.stack([one.loss(one.values(genes)) for one in objectives], axis=1)

    def holding(genes: Genes) -> Genes:
        held = np.ones(len(genes), dtype=bool)
        for constraint in constraints:
            held &= constraint.violation(genes) <= 0
        return genes[held]

    before = losses_of(known)
    kept = holding(known)
    beginning = kept[non_dominated(losses_of(kept))] if len(kept) else known
    result = run_search(
        space,
        objectives,
        constraints=constraints,
        tactic=tactic,
        budget=min(max(calls, len(beginning) + 2), space.size),
        seed=seed,
        initial=beginning,
        **(options or {}),
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
        found = holding(one_gene_neighbours(space, genes[some]))
        n_predicted += len(found)
        genes, losses = np.concatenate([genes, found]), np.concatenate([losses, losses_of(found)])
    front = np.flatnonzero(non_dominated(losses))
    _, first = np.unique(genes, axis=0, return_index=True)
    new = np.sort(first[~among(genes[first], known)])
    reference = before.max(axis=0) + _BEYOND * np.ptp(before, axis=0)
    # What another new one dominates is never the largest gain.
    best = new[non_dominated(losses[new])]
    rows, gains = choose(losses[best], losses_of(kept), reference, n)
    rows = np.concatenate([best[rows], _others(losses, np.setdiff1d(new, best[rows]), reference, n - len(rows))])
    gains = np.concatenate([gains, np.zeros(len(rows) - len(gains))])
    return Proposal(genes[rows], gains, n_predicted, genes[front], time.process_time() - started)


def _others(losses: Values, rows: Genes, reference: Values, n: int) -> Genes:
    """Up to `n` of the rows, where a model says that nothing adds to what is known: it may be wrong.

    What would be the best front without what is known, then without that, and so on.
    """
    chosen: list[int] = []
    while len(chosen) < n and len(rows):
        layer = rows[non_dominated(losses[rows])]
        picked, _ = choose(losses[layer], losses[:0], reference, n - len(chosen))
        chosen += layer[picked if len(picked) else slice(n - len(chosen))].tolist()
        rows = np.setdiff1d(rows, layer)
    return np.array(chosen, dtype=np.int64)


def choose(losses: Values, known: Values, reference: Values, n: int) -> tuple[Genes, Values]:
    """Up to `n` rows of candidates, one after the other, each with the largest gain when those before are believed.

    Args:
        losses: (n_candidates, n_objectives) predicted, smaller is better.
        known: (n_known, n_objectives) likewise, of what is known.
        reference: (n_objectives,) up to which hypervolumes are.

    Returns:
        Rows and their gains, as shares of the hypervolume of what is known (of the first, where that is 0); both end
        where nothing adds anything.
    """
    rows: list[int] = []
    gains: list[float] = []
    whole = hypervolume(known, reference) if len(known) else 0.0
    for _ in range(min(n, len(losses))):
        gain = hypervolume_gains(losses, known, reference)
        best = int(np.argmax(gain))
        if not gain[best] > 1e-12 * whole:
            break
        rows.append(best)
        whole = whole or float(gain[best])
        gains.append(float(gain[best]) / whole)
        known = np.concatenate([known, losses[best : best + 1]])
    return np.array(rows, dtype=np.int64), np.array(gains)


def hypervolume_gains(losses: Values, known: Values, reference: Values) -> Values:
    """(n_candidates,) what each would add to the hypervolume of `known` alone, up to the reference.

    Of two objectives exactly; of more by the same 20,000 random points for all (Bader & Zitzler 2011).
    """
    inside = known[(known < reference).all(axis=1)]
    if losses.shape[1] == 1:
        best = inside.min() if len(inside) else reference[0]
        return np.maximum(best - losses[:, 0], 0.0)
    if losses.shape[1] > 2:
        return _estimated_gains(losses, inside, reference)
    front = inside[non_dominated(inside)]
    front = front[np.argsort(front[:, 0], kind="stable")]
    # A staircase: between edges i and i + 1 the second loss is heights[i]; its integral from the first edge on.
    edges = np.concatenate([[min(losses[:, 0].min(initial=reference[0]), reference[0])], front[:, 0], [reference[0]]])
    if len(front):
        edges[0] = min(edges[0], front[0, 0])
    heights = np.concatenate([[reference[1]], front[:, 1]])
    integral = np.concatenate([[0.0], np.cumsum(np.diff(edges) * heights)])
    x, y = np.minimum(losses, reference).T
    # The stairs lie above a candidate from its own place up to where they have come down to it.
    end = edges[np.searchsorted(-heights, -y, side="left")]
    beyond = np.maximum(end - x, 0.0)
    area = np.interp(np.maximum(end, x), edges, integral) - np.interp(x, edges, integral)
    return np.maximum(area - beyond * y, 0.0)


def _estimated_gains(losses: Values, known: Values, reference: Values) -> Values:
    lowest = np.minimum(np.concatenate([losses, known]).min(axis=0), reference)
    points = lowest + (reference - lowest) * np.random.default_rng(0).random((_POINTS, len(reference)))
    for row in known:
        points = points[(points < row).any(axis=1)]
    share = np.array([(points >= row).all(axis=1).sum() for row in losses]) / _POINTS
    return share * float(np.prod(reference - lowest))


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
