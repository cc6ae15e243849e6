"""The best by the predictors of what nobody has measured yet, and how surely it keeps its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments import fitting
from experiments.known import Known
from experiments.progress import Reporter
from experiments.quantities import Limit, Quantity
from experiments.querying import objectives
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from predictors.protocol import Predictor
from search.focusing import surest
from supernet.space import Genes

__all__ = ["unmeasured_answer"]

_COVERAGE = 0.9

Values = NDArray[np.float64]


def unmeasured_answer(
    run: RunFolder, results: Mapping[str, Any], limits: Sequence[Limit], top: int, report: Reporter, probability: float
) -> list[dict[str, Any]]:
    """The `top` sub-networks with the best predicted quality among those that were not measured and keep all limits
    with a probability, the best first, as plain data.

    ``probability`` of a row is that all its limits are kept when it is measured and scored (of several, as if they were
    independent); ``intervals`` hold in nine of ten.

    Args:
        results: of the goal, as `querying.goal_results` reads them: its first objective is what is to be good.
        probability: with which each must keep the limits.

    Raises:
        ValueError: something that is limited has no predictor, or nothing is predicted to keep the limits so surely.
    """
    if not 0 < probability < 1:
        raise ValueError(f"probability {probability:g} must be between 0 and 1, such as 0.95")
    space = run.untrained_supernet.space
    known = Known(run, Scorer(run), report)
    names = [name for name in results["devices"] if name in run.added_devices()]
    foretold = _Foretold(run, known, names[0] if names else None)
    wanted = objectives(results)
    measured = space.encode([arch for plan in run.all_plans() for arch in plan.archs])

    def loss(genes: Genes) -> Values:
        return wanted[0].axis.loss(foretold.values(wanted[0], genes))

    def chance(genes: Genes) -> Values:
        return np.prod([foretold.chances(one, genes) for one in limits], axis=0) if limits else np.ones(len(genes))

    found = surest(space, loss, chance, np.unique(measured, axis=0), top, probability, seed=run.recipe.seed)
    if len(found) == 0:
        what = " and ".join(map(str, limits))
        raise ValueError(f"nothing that was not measured is predicted to keep {what} with {probability:.0%}")
    shown = list(dict.fromkeys([*wanted, *(one.quantity for one in limits)]))
    columns = {one.name: foretold.values(one, found) for one in shown}
    intervals = {one.name: foretold.intervals(one, found) for one in shown if one.kind.learned}
    return [
        {
            "id": arch.id,
            "settings": str(arch),
            "architecture": arch.to_dict(),
            "predicted": {name: float(values[i]) for name, values in columns.items()},
            "intervals": {name: values[i].tolist() for name, values in intervals.items() if np.isfinite(values).all()},
            "probability": p,
        }
        for i, (arch, p) in enumerate(zip(space.decode(found), chance(found).tolist(), strict=True))
    ]


@dataclass
class _Foretold:
    """What the predictors of a run say of genes (n_archs, n_genes), on the level of what is known now."""

    run: RunFolder
    known: Known
    device: str | None  # one that was added, which has predictors of its own

    def __post_init__(self) -> None:
        self._fitted: dict[Quantity, tuple[Predictor, float]] = {}

    def values(self, one: Quantity, genes: Genes) -> Values:
        """(n_archs,) predicted, or counted."""
        count = one.kind.count
        if count is not None:
            return np.asarray(count(self.run.untrained_supernet, genes), dtype=float)
        predictor, level = self._predictor(one)
        return predictor.predict(genes) * level

    def intervals(self, one: Quantity, genes: Genes) -> Values:
        """(n_archs, 2) which hold in nine of ten; NaN where too little is known to say so."""
        predictor, level = self._predictor(one)
        try:
            return predictor.predict_interval(genes, _COVERAGE) * level
        except ValueError:
            return np.full((len(genes), 2), np.nan)

    def chances(self, one: Limit, genes: Genes) -> Values:
        """(n_archs,) that each keeps the limit."""
        if one.quantity.kind.count is not None:
            values = self.values(one.quantity, genes)
            return ((values <= one.value) if one.upper else (values >= one.value)).astype(float)
        predictor, level = self._predictor(one.quantity)
        below = predictor.probability_below(genes, one.value / level)
        return below if one.upper else 1 - below

    def _predictor(self, one: Quantity) -> tuple[Predictor, float]:
        """The predictor, and what its values are multiplied by to be on the level of the measured ones."""
        if one not in self._fitted:
            fitted = fitting.load(self.run, one, self.device)
            level = 1.0
            if fitted.level and one.device is not None:
                level = self.known.measurements(one.device).brought(1.0, fitted.level)
            self._fitted[one] = fitted.predictor, level
        return self._fitted[one]
