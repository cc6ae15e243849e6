"""NSGA-II on genes: pymoo's sorting, crowding and operators in a loop over whole arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pymoo.operators.crossover.sbx import cross_sbx
from pymoo.operators.mutation.pm import mut_pm
from pymoo.operators.survival.rank_and_crowding.metrics import get_crowding_function
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from search.archive import Archive
from search.front import Values
from search.objectives import Constraint, Objective
from search.result import SearchResult
from supernet.space import Genes, SearchSpace

__all__ = ["run_nsga2"]

_ETA = 3.0  # of crossover and mutation: wide steps
_MUTATED = 0.15  # share of the genes that are moved; rounding puts many of them back
_ROUNDS = 4  # of mating per generation, before random architectures fill the places that repeats left empty


def run_nsga2(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    constraints: Sequence[Constraint] = (),
    population: int = 100,
    initial: Genes | None = None,
    reference: Mapping[str, float] | None = None,
) -> SearchResult:
    """Search with NSGA-II (Deb et al. 2002) until `budget` distinct architectures are evaluated.

    No architecture is evaluated twice: children are brought to canonical form and compared with the whole history, not
    with the population alone. A space smaller than the budget is evaluated completely.

    Every step takes a generation as arrays. pymoo's own loop keeps each individual in an object, which makes the search
    two to four times as slow, two predictors included (experiments/benchmarks/search_throughput.py).

    Args:
        space: where to search.
        objectives: at least one; no weights.
        budget: number of evaluations.
        seed: everything random follows from it; the same seed gives the same result.
        constraints: architectures that hold them go before all others (constrained domination).
        population: architectures per generation.
        initial: genes (n_archs, n_genes) to start from, for example a front of another device; they need not be
            canonical. The smallest and the largest architecture are always there, random ones fill the population.
        reference: value per objective at which hypervolume ends; by default the worst of the first generation.

    Raises:
        ValueError: no objective, names that repeat, a budget or population that is too small, an objective or
            constraint whose values are of another shape or not finite.
    """
    if population < 4:
        raise ValueError(f"a population of {population}; NSGA-II needs at least 4")
    archive = Archive(space, objectives, constraints, budget, reference)
    rng = np.random.default_rng(seed)
    genes = archive.start(population, initial, rng)
    losses, violations = archive.evaluate(genes)
    while archive.left:
        kept = _best_first(losses, violations, population, rng)
        genes, losses, violations = genes[kept], losses[kept], violations[kept]
        children = _offspring(archive, genes, min(population, archive.left), rng)
        child_losses, child_violations = archive.evaluate(children)
        genes = np.concatenate([genes, children])
        losses = np.concatenate([losses, child_losses])
        violations = np.concatenate([violations, child_violations])
    return archive.result("nsga2", seed)


def _best_first(losses: Values, violations: Values, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The best `n` rows, best first: by front, within a front those with most room around them, ties at random.

    Rows that violate a constraint come after all others, by the sum of their violations.
    """
    violation = np.maximum(violations, 0).sum(axis=1)
    holding = np.flatnonzero(violation == 0)
    crowding = get_crowding_function("cd")
    order = []
    for front in NonDominatedSorting().do(losses[holding], n_stop_if_ranked=n):
        room = np.asarray(crowding.do(losses[holding[front]]), dtype=float)
        order.append(holding[front[np.lexsort((rng.random(len(front)), -room))]])
    broken = np.flatnonzero(violation > 0)
    order.append(broken[np.argsort(violation[broken], kind="stable")])
    return np.concatenate(order)[:n]


def _offspring(archive: Archive, parents: Genes, n: int, rng: np.random.Generator) -> Genes:
    """`n` children (n, n_genes) of `parents`, best first, that were never evaluated; `archive` has that many left."""
    children = [parents[:0]]
    missing = n
    for _ in range(_ROUNDS):
        if missing == 0:
            break
        # Parents are ordered, so the winner of a binary tournament is the one that comes first.
        winners = rng.integers(len(parents), size=(2, 2, missing)).min(axis=0)
        children.append(archive.take(_vary(parents[winners], archive.space.n_choices - 1, rng)))
        missing -= len(children[-1])
    return np.concatenate([*children, archive.take_random(missing, rng)])


def _vary(pairs: Genes, highest: Genes, rng: np.random.Generator) -> Genes:
    """One child (n_pairs, n_genes) of each of pairs (2, n_pairs, n_genes), whose genes go from 0 to `highest`.

    Simulated binary crossover and polynomial mutation (Deb & Agrawal 1995; Deb & Goyal 1996), then rounding. With
    pymoo's defaults of eta 15 to 20, rounding to two or three choices would undo nearly every mutation.
    """
    n, n_genes = pairs.shape[1:]
    lowest = np.zeros(n_genes)
    eta, half = np.full((n, 1), _ETA), np.full((n, 1), 0.5)
    crossed = cross_sbx(pairs.astype(float), lowest, highest, eta, half, half, random_state=rng)[0]
    moved = np.full(n, _MUTATED)
    mutated = mut_pm(crossed, lowest, highest, eta[:, 0], moved, at_least_once=False, random_state=rng)
    return np.rint(mutated).astype(np.int64)
