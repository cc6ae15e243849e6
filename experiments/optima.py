"""What the models of a run say is best over the whole space, where they are sums over stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.fitting import Fitted
from experiments.goals import Goal
from experiments.known import Known
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from search.front import Values
from search.objectives import Objective
from search.optima import Optima
from supernet.space import Genes

__all__ = ["optima_of"]


def optima_of(run: RunFolder, goal: Goal, known: Known, fitted: Mapping[Quantity, Fitted]) -> dict[str, Any] | None:
    """`search.optima.Optima` of the models of a goal, as plain data for ``front.json``.

    None where there are none: more than two objectives, limits on something else, or a model that is no sum over
    stages, such as a Gaussian process.

    Args:
        fitted: predictors of the quantities that are learned.
    """
    if len(goal.objectives) != 2 or any(one.quantity not in goal.objectives for one in goal.limits):
        return None
    space = run.untrained_supernet.space
    optima = Optima.of(space, [_objective(run, one, known, fitted) for one in goal.objectives], run.recipe.seed)
    return None if optima is None else optima.to_dict()


def _objective(run: RunFolder, one: Quantity, known: Known, fitted: Mapping[Quantity, Fitted]) -> Objective:
    """Counted, or foretold on the level that the measured values have."""
    kind, supernet = one.kind, run.untrained_supernet
    count = kind.count
    if count is not None:
        return Objective(one.name, kind.unit, kind.maximize, lambda genes: np.asarray(count(supernet, genes), float))
    predictor, level = fitted[one].predictor, fitted[one].level
    factor = known.measurements(one.device).brought(1.0, level) if level and one.device is not None else 1.0

    def evaluate(genes: Genes) -> Values:
        return factor * predictor.predict(genes)

    return Objective(one.name, kind.unit, kind.maximize, evaluate)
