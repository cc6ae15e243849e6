"""The loop of every search: ask, evaluate, tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from search.archive import Archive
from search.front import Axis, Values
from search.objectives import Constraint, Objective
from search.result import SearchResult
from search.tactic import Tactic, create_tactic
from supernet.space import Genes, SearchSpace

__all__ = ["run_search"]


def run_search(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    tactic: Tactic | str,
    budget: int,
    seed: int,
    constraints: Sequence[Constraint] = (),
    initial: Genes | None = None,
    batch: int | None = None,
    archive: Archive | None = None,
    **options: Any,
) -> SearchResult:
    """Search until `budget` distinct architectures are evaluated, or the whole space if it is smaller.

    The smallest and the largest architecture come first, since predictors do not extrapolate and a front that lacks its
    ends has no use for the middle; then `initial`; then what the tactic asks for.

    Args:
        space: where to search.
        objectives: at least one; no weights.
        tactic: a name (see `tactic_names`), or a tactic that was told nothing yet.
        budget: number of evaluations, those in `archive` among them.
        seed: everything random follows from it; the same seed gives the same result.
        constraints: architectures that hold them go before all others.
        initial: genes (n, n_genes) to begin with, such as the front of another device; they need not be canonical.
        batch: how many architectures are evaluated at a time, at most; by default as many as the tactic likes.
        archive: of these objectives and constraints, to go on with; it grows in place, so that whoever keeps it
            can go on from anywhere.
        options: of a tactic that is given by name.

    Raises:
        ValueError: no objective, names that repeat, a budget or batch below 1, an archive of something else, an unknown
            tactic or option, an objective or constraint whose values are of another shape or not finite.
    """
    started = time.perf_counter()
    archive = Archive(space, objectives) if archive is None else archive
    _check(archive, space, objectives, budget, batch)
    if isinstance(tactic, str):
        name, tactic = tactic, create_tactic(tactic, space, len(objectives), seed, **options)
    elif options:
        raise ValueError(f"option {next(iter(options))} for a tactic that is made already; give it when making it")
    else:
        name = type(tactic).__name__

    def evaluate(genes: Genes) -> tuple[Values, Values]:
        """Losses (n, n_objectives) and violations (n,); they are in the archive then."""
        values = np.stack([objective.values(genes) for objective in objectives], axis=1)
        losses = np.stack([objective.loss(values[:, i]) for i, objective in enumerate(objectives)], axis=1)
        beyond = np.zeros(len(genes))
        for constraint in constraints:
            beyond += np.maximum(constraint.violation(genes), 0.0)
        archive.add(genes, values, beyond)
        return losses, beyond

    if len(archive):
        tactic.tell(archive.genes, archive.losses, archive.violations)
    first = archive.new(_first(space, initial))[: max(budget - len(archive), 0)]
    if len(first):
        tactic.tell(first, *evaluate(first))
    while (left := budget - len(archive)) > 0 and len(genes := tactic.ask(min(left, batch or left))):
        tactic.tell(genes, *evaluate(genes))

    return SearchResult(
        tactic=name,
        seed=seed,
        seconds=time.perf_counter() - started,
        genes=archive.genes,
        values=archive.values,
        feasible=archive.feasible,
        front=archive.front(),
    )


def _first(space: SearchSpace, initial: Genes | None) -> Genes:
    """The smallest, the largest and `initial`."""
    ends = np.stack([np.zeros_like(space.n_choices), space.n_choices - 1])
    return ends if initial is None else np.concatenate([ends, space.canonical(initial)])


def _check(
    archive: Archive, space: SearchSpace, objectives: Sequence[Objective], budget: int, batch: int | None
) -> None:
    axes = tuple(Axis(axis.name, axis.unit, axis.maximize) for axis in objectives)
    if archive.axes != axes or archive.space != space:
        theirs = ", ".join(map(str, archive.axes))
        raise ValueError(f"an archive of {theirs} in its own space; this search is of {', '.join(map(str, axes))}")
    if budget < 1:
        raise ValueError(f"a budget of {budget} evaluations; at least 1 is needed")
    if batch is not None and batch < 1:
        raise ValueError(f"a batch of {batch} architectures; at least 1 is needed")
