"""What a search is compared with at equal cost: sub-networks that simpler ways would have chosen."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import fitting
from experiments.goals import Goal
from experiments.known import Known
from experiments.measuring.measure import measure_architectures
from experiments.plans import initial_plan, search_plans
from experiments.progress import Reporter
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from search.gains import Standing, choose
from search.tactic import create_tactic
from supernet.architecture import Architecture
from supernet.space import Genes, SearchSpace
from supernet.space.roles import ROLES, Role, roles_of

__all__ = ["controls", "uniform_architectures"]

_DRAWN = 2_000  # random architectures that predictors judge
_AT_A_TIME = 16  # evaluations of local search between two looks


def controls(
    run: RunFolder, wanted: Sequence[Goal], scorer: Scorer, report: Reporter
) -> dict[str, tuple[Architecture, ...]]:
    """The sub-networks of every control by its name, scored on validation; each has as many as the search had."""
    found = {"random search": _random(run), "uniform scaling": _uniform(run)}
    asked = run.recipe.baselines.controls
    if "random search, filtered" in asked:
        found["random search, filtered"] = _filtered(run, wanted, scorer, report)
    if "local search" in asked:
        found["local search"] = _local(run, wanted, scorer, report)
    scorer.score(list(dict.fromkeys(arch for archs in found.values() for arch in archs)), "validation", report)
    return found


def _random(run: RunFolder) -> tuple[Architecture, ...]:
    """As many architectures as the search measured, drawn at random."""
    found = run.plan("random")
    if found is not None:
        return found.archs
    n, space = _n_searched(run), run.untrained_supernet.space
    rng = np.random.default_rng(run.recipe.seed)
    drawn: dict[Architecture, None] = {}
    while len(drawn) < min(n, space.size):
        drawn.update(dict.fromkeys(space.sample(n, rng)))
    archs = list(drawn)[:n]
    return run.write_plan("random", archs, [{"origin": "random search"}] * len(archs)).archs


def _uniform(run: RunFolder) -> tuple[Architecture, ...]:
    """The same depth and width everywhere, at the largest kernel and resolution: scaling by hand."""
    supernet = run.untrained_supernet
    archs = uniform_architectures(supernet.space, roles_of(supernet))
    plan = run.plan("uniform") or run.write_plan("uniform", archs, [{"origin": "uniform scaling"}] * len(archs))
    return plan.archs


def _filtered(run: RunFolder, wanted: Sequence[Goal], scorer: Scorer, report: Reporter) -> tuple[Architecture, ...]:
    """The first design, and of random architectures those that predictors say add most, all at once: no rounds.

    The predictors are of the kind that the run has, and have seen the first design alone.
    """
    found, first = run.plan("filtered"), initial_plan(run).archs
    if found is None:
        space, known = run.untrained_supernet.space, Known(run, scorer, report)
        rng = np.random.default_rng([run.recipe.seed, 1])
        drawn = np.unique(space.sample_genes(_DRAWN, rng), axis=0)
        before = {row.tobytes() for row in space.encode(first)}
        drawn = rng.permutation(drawn[[row.tobytes() not in before for row in drawn]])
        losses = {
            one: _foretold(run, one, first, drawn, known)
            for one in dict.fromkeys(one for goal in wanted for one in goal.objectives)
        }
        standings = []
        for goal in wanted:
            both = np.stack([losses[one] for one in goal.objectives], axis=1)
            new, old = both[: len(drawn)], both[len(drawn) :]
            standings.append(Standing(new, old, old.max(axis=0) + 0.05 * np.ptp(old, axis=0)))
        n = max(_n_searched(run) - len(first), 0)
        rows, _ = choose(standings, n)
        rows = np.concatenate([rows, np.setdiff1d(np.arange(len(drawn)), rows, assume_unique=True)])[:n]
        archs = space.decode(drawn[rows])
        found = run.write_plan("filtered", archs, [{"origin": "random search, filtered"}] * len(archs))
    return tuple(dict.fromkeys((*first, *found.archs)))


def _foretold(
    run: RunFolder, quantity: Quantity, learned: Sequence[Architecture], drawn: Genes, known: Known
) -> np.ndarray:
    """(n_drawn + n_learned,) losses, by a model that knows the values of `learned` alone."""
    space = run.untrained_supernet.space
    genes = np.concatenate([drawn, space.encode(learned)])
    if quantity.kind.count is not None:
        values = np.asarray(quantity.kind.count(run.untrained_supernet, genes), dtype=float)
    else:
        values = fitting.refitted(run, quantity, learned, known.column(quantity, learned).values).predict(genes)
    return quantity.axis.loss(values)


def _local(run: RunFolder, wanted: Sequence[Goal], scorer: Scorer, report: Reporter) -> tuple[Architecture, ...]:
    """What local search evaluates, told what was measured and scored, from as many random ones on as the first design
    has. It is told all objectives of all goals, from which its front is."""
    space = run.untrained_supernet.space
    traded = list(dict.fromkeys(one for goal in wanted for one in goal.objectives))
    n, start = _n_searched(run), len(initial_plan(run).archs)
    tactic = create_tactic("local", space, len(traded), run.recipe.seed, population=max(start, 4))
    archs: list[Architecture] = []
    number = 0
    while len(archs) < n:
        number += 1
        plan = run.plan("local", number=number)
        if plan is None:
            asked = tactic.ask(min(start if number == 1 else _AT_A_TIME, n - len(archs)))
            if len(asked) == 0:
                break  # the space has no more
            plan = run.write_plan(
                "local", space.decode(asked), [{"origin": "local search"}] * len(asked), number=number
            )
        report.say(f"  local search: {len(archs) + len(plan.archs)} of {n}")
        measure_architectures(run, plan.archs, report)
        scorer.score(plan.archs, "validation", report)
        known = Known(run, scorer, report)
        columns = np.stack([one.axis.loss(known.column(one, plan.archs).values) for one in traded], axis=1)
        there = np.isfinite(columns).all(axis=1)  # others do not run on a device
        tactic.tell(space.encode(plan.archs)[there], columns[there], np.zeros(int(there.sum())))
        archs += plan.archs
    return tuple(archs)


def _n_searched(run: RunFolder) -> int:
    return sum(len(plan.archs) for plan in search_plans(run))


def uniform_architectures(space: SearchSpace, roles: Mapping[str, Role] = ROLES) -> list[Architecture]:
    """One architecture for every pair of a depth level and a width level that all stages and blocks share.

    Args:
        roles: of the choices; whatever has none is scaled as a width.
    """
    widths = {gene.name for gene in space.genes if roles.get(gene.name) not in ("resolution", "depth", "kernel")}
    n_depths = max(len(stage.depths) for stage in space.stages)
    n_widths = max((len(gene.choices) for gene in space.genes if gene.name in widths), default=1)
    archs = []
    for depth, width in itertools.product(range(n_depths), range(n_widths)):
        genes = space.encode([space.largest])
        for column, gene in enumerate(space.genes):
            if roles.get(gene.name) == "depth" or gene.name in widths:
                level = width if gene.name in widths else depth
                genes[:, column] = min(level, len(gene.choices) - 1)
        archs += space.decode(genes[space.holds(genes)])
    return list(dict.fromkeys(archs))
