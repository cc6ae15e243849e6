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
from search.proposing import Aim, Model, Proposal, propose
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
    """Up to `n` sub-networks that no plan has yet.

    Fronts are searched for together: a score is that of a network on every device, so each is chosen by the sum of what
    it is predicted to add to all of them.

    Args:
        focused: goals with limits look for the best within these (`search.focusing`) instead of for the front.

    Raises:
        ValueError: something was not fitted yet.
    """
    settings, space = run.recipe.search, run.untrained_supernet.space
    known = list(dict.fromkeys(arch for plan in search_plans(run, device) for arch in plan.archs))
    foretold = {one: _foretold(run, one, device) for goal in wanted for one in goal.quantities}
    seed = run.recipe.seed + number
    chosen: dict[Architecture, dict[str, Any]] = {}
    gain = 0.0
    limited = [goal for goal in wanted if goal.limits] if focused else []
    if focused:
        for goal, share in zip(limited, shares(n, len(limited), number), strict=True):
            bounds = [_bound(foretold[one.quantity].model, one.value, one.upper) for one in goal.limits]
            model = foretold[goal.objectives[0]].model
            found = focus(space, model, bounds, space.encode([*known, *chosen]), share, seed=seed)
            _tell(report, goal, len(found.genes), found, f"within {' and '.join(map(str, goal.limits))}")
            for arch in space.decode(found.genes):
                chosen[arch] = _notes(number, goal, found) | {"within": [str(one) for one in goal.limits]}
    else:
        aims = [Aim([foretold[one].model for one in goal.objectives], _constraints(goal, foretold)) for goal in wanted]
        found = propose(
            space,
            aims,
            space.encode(known),
            n,
            seed=seed,
            tactic=settings.tactic,
            calls=settings.model_calls,
            options=settings.tactic_options,
        )
        gains = found.gains.sum(axis=0)
        gain = float(gains.max(initial=0.0))
        mainly = found.gains.argmax(axis=1) if len(found.gains) else np.empty(0, dtype=int)
        for arch, goal in zip(space.decode(found.genes), mainly, strict=True):
            chosen[arch] = _notes(number, wanted[goal], found) | {"within": []}
        for i, goal in enumerate(wanted):
            _tell(report, goal, int((mainly == i).sum()), found, f"expected gain {gains[i]:.2%}")
    if chosen:
        genes = space.encode(list(chosen))
        predicted = {one.name: found.model.values(genes) for one, found in foretold.items()}
        levels = {one.name: found.level for one, found in foretold.items() if found.level}
        for i, notes in enumerate(chosen.values()):
            notes["predicted"] = {name: float(values[i]) for name, values in predicted.items()}
            notes["levels"] = levels
    return Proposed(tuple(chosen), tuple(chosen.values()), gain)


def shares(n: int, n_goals: int, number: int) -> list[int]:
    """How many of `n` are for the limits of each goal; where they do not come out even, goals take turns from round to
    round."""
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


def _notes(number: int, goal: Goal, found: Proposal) -> dict[str, Any]:
    """Why a sub-network is in a round; `goal` is that to which it adds most."""
    return {"origin": f"search round {number}", "proposed_for": goal.name, "evaluated": found.n_predicted}


def _tell(report: Reporter, goal: Goal, n: int, found: Proposal, what: str) -> None:
    if len(found.genes) == 0:
        limits = f" that is predicted to hold {' and '.join(map(str, goal.limits))}" if goal.limits else ""
        report.say(f"  {goal.name}: nothing is left{limits}")
    else:
        report.say(
            f"  {goal.name}: {n} of {found.n_predicted:,} sub-networks predicted in {found.seconds:.1f} s, {what}"
        )
