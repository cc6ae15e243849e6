"""What a round of search measures and scores: per goal what its predictors say adds most to the front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import fitting
from experiments.goals import Goal
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from predictors.protocol import KnowsDeviation, Predictor
from search.focusing import Bound, focus
from search.objectives import Constraint
from search.proposing import Model, Proposal, propose
from supernet.architecture import Architecture
from supernet.space import Genes

__all__ = ["Proposed", "deviation_of", "propose_round", "shares"]

_DEVIATION = 0.68  # the share of measurements within one standard deviation

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Proposed:
    """Sub-networks of a round, why each is among them, and what they promise."""

    archs: tuple[Architecture, ...]
    notes: tuple[Mapping[str, Any], ...]
    gain: float
    """What they are predicted to add to the hypervolume of a goal, as a share of it: the largest of all goals'."""


@dataclass(frozen=True)
class _Foretold:
    """How a quantity is foretold for genes, and on the level of which session, if it is a latency."""

    model: Model
    level: str


def propose_round(
    run: RunFolder,
    wanted: Sequence[Goal],
    number: int,
    n: int,
    report: Reporter,
    device: str | None = None,
    focused: bool = False,
) -> Proposed:
    """Up to `n` sub-networks that no plan has yet, shared among the goals.

    A goal looks at everything that is known, what others have just proposed among it: scores serve them all.

    Args:
        focused: goals with limits look for the best within these (`search.focusing`) instead of for the front.

    Raises:
        ValueError: something was not fitted yet.
    """
    settings, space = run.recipe.search, run.untrained_supernet.space
    known = list(dict.fromkeys(arch for plan in search_plans(run, device) for arch in plan.archs))
    foretold = {one: _foretold(run, one, device) for goal in wanted for one in goal.quantities}
    chosen: dict[Architecture, dict[str, Any]] = {}
    gain = 0.0
    for goal, share in zip(wanted, shares(n, len(wanted), number), strict=True):
        if share == 0:
            continue
        genes = space.encode([*known, *chosen])
        models = [foretold[one].model for one in goal.objectives]
        seed = run.recipe.seed + number
        if focused and goal.limits:
            bounds = [_bound(foretold[one.quantity].model, one.value, one.upper) for one in goal.limits]
            found = focus(space, models[0], bounds, genes, share, seed=seed)
            what = f"within {' and '.join(map(str, goal.limits))}"
        else:
            found = propose(
                space,
                models,
                genes,
                share,
                constraints=_constraints(goal, foretold),
                seed=seed,
                tactic=settings.tactic,
                calls=settings.model_calls,
                options=settings.tactic_options,
            )
            gain = max(gain, float(found.gains.sum()))
            what = f"expected gain {found.gains.sum():.2%}"
        if len(found.genes) == 0:
            limits = f" that is predicted to hold {' and '.join(map(str, goal.limits))}" if goal.limits else ""
            report.say(f"  {goal.name}: nothing is left{limits}")
            continue
        for arch in space.decode(found.genes):
            chosen[arch] = {
                "origin": f"search round {number}",
                "proposed_for": goal.name,
                "evaluated": found.n_predicted,
                "within": [str(one) for one in goal.limits] if focused else [],
            }
        report.say(f"  {goal.name}: {len(found.genes)} of {_predicted(found)}, {what}")
    if chosen:
        genes = space.encode(list(chosen))
        predicted = {one.name: found.model.values(genes) for one, found in foretold.items()}
        levels = {one.name: found.level for one, found in foretold.items() if found.level}
        for i, notes in enumerate(chosen.values()):
            notes["predicted"] = {name: float(values[i]) for name, values in predicted.items()}
            notes["levels"] = levels
    return Proposed(tuple(chosen), tuple(chosen.values()), gain)


def shares(n: int, n_goals: int, number: int) -> list[int]:
    """How many of `n` each goal proposes; where they do not come out even, goals take turns from round to round."""
    return [len(range((goal - number) % n_goals, n, n_goals)) for goal in range(n_goals)]


def _foretold(run: RunFolder, quantity: Quantity, device: str | None) -> _Foretold:
    kind, supernet = quantity.kind, run.untrained_supernet
    count = kind.count
    if count is not None:
        counted = Model(
            quantity.name, kind.unit, kind.maximize, lambda genes: np.asarray(count(supernet, genes), dtype=float)
        )
        return _Foretold(counted, "")
    fitted = fitting.load(run, quantity, device)
    model = Model(quantity.name, kind.unit, kind.maximize, fitted.predictor.predict, deviation_of(fitted.predictor))
    return _Foretold(model, fitted.level)


def deviation_of(predictor: Predictor) -> Callable[[Genes], Values]:
    """Genes to the standard deviations (n_archs,) of predictions: the predictor's own, else half the interval of two
    thirds of all measurements."""
    if isinstance(predictor, KnowsDeviation):
        return predictor.deviation
    return lambda genes: np.ptp(predictor.predict_interval(genes, _DEVIATION), axis=1) / 2


def _constraints(goal: Goal, foretold: Mapping[Quantity, _Foretold]) -> Sequence[Constraint]:
    return [
        Constraint(
            str(one),
            foretold[one.quantity].model.evaluate,
            upper=one.value if one.upper else None,
            lower=None if one.upper else one.value,
        )
        for one in goal.limits
    ]


def _bound(model: Model, value: float, upper: bool) -> Bound:
    """A limit from above or below as one of a loss."""
    turned = Model(model.name, model.unit, not upper, model.evaluate, model.deviation)
    return turned, float(turned.loss(value))


def _predicted(found: Proposal) -> str:
    return f"{found.n_predicted:,} sub-networks predicted in {found.seconds:.1f} s"
