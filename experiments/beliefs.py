"""What is believed of the networks of a goal: measured values and predictions together, and who is on the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.fitting import Fitted
from experiments.goals import Goal
from experiments.known import Column, Known
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from search.front import hypervolume, non_dominated
from search.posterior import Belief, believed, membership
from supernet.architecture import Architecture

__all__ = ["Beliefs"]

_OWN_NOISE = 0.56
"""Share of the binomial variance of an accuracy that is not common to all networks: the rest of it is that of the
images, which are the same for all. As the demo has it."""

Values = NDArray[np.float64]


class Beliefs:
    """Posteriors of the objectives of a goal that are learned and known with noise; all others are as they are.

    Accuracies have the noise of so many images, latencies that of their session and its tie, as logarithms. A
    prediction is out of fold where the predictor has learned from a network. The noise of a metric of one's own nobody
    knows: it is taken as it was scored.

    Args:
        archs: of which everything is known that the goal is about.
        columns: of its quantities.
        fitted: predictors of those that are learned.
    """

    def __init__(
        self,
        run: RunFolder,
        goal: Goal,
        known: Known,
        archs: Sequence[Architecture],
        columns: Mapping[Quantity, Column],
        fitted: Mapping[Quantity, Fitted],
    ) -> None:
        self.goal = goal
        self.archs = archs
        self._genes = run.untrained_supernet.space.encode(archs)
        self._columns = columns
        self.of: dict[Quantity, Belief] = {}
        """Of logarithms for times."""
        for one in goal.objectives:
            if one not in fitted or not (one.kind.is_time or one.kind.source == "score"):
                continue
            foretold = self._foretold(one, fitted[one], known)
            column = columns[one]
            if one.kind.is_time:
                self.of[one] = believed(np.log(column.values), column.deviations, np.log(foretold))
            elif run.recipe.task is None:
                p = np.clip(column.values, 0.0, 1.0)
                noise = np.sqrt(_OWN_NOISE * p * (1 - p) / run.data.n_images("validation"))
                self.of[one] = believed(column.values, noise, foretold)

    def means(self, one: Quantity) -> Values:
        """(n_archs,) in the unit of the quantity."""
        if one not in self.of:
            return self._columns[one].values
        means = self.of[one].means
        return np.exp(means) if one.kind.is_time else means

    def told(self, i: int) -> dict[str, dict[str, float]]:
        """Of one network, for ``front.json``; deviations of times are shares."""
        return {
            one.name: {"value": float(self.means(one)[i]), "deviation": float(belief.deviations[i])}
            for one, belief in self.of.items()
        }

    def front(self, held: NDArray[np.bool_], reference: Mapping[str, float], seed: int) -> dict[str, Any]:
        """The front of posterior means and its hypervolume, and how often each is on it in draws of the posteriors.

        Args:
            held: (n_archs,) which keep the limits of the goal.
            reference: up to which hypervolumes are.
        """
        rows = np.flatnonzero(held)
        losses = np.stack([one.axis.loss(self.means(one)) for one in self.goal.objectives], axis=1)
        deviations = np.zeros_like(losses)
        for i, one in enumerate(self.goal.objectives):
            if one in self.of:  # of a logarithm as a share
                size = np.abs(losses[:, i]) if one.kind.is_time else 1.0
                deviations[:, i] = self.of[one].deviations * size
        corner = np.array([one.axis.loss(reference[one.name]) for one in self.goal.objectives])
        chances = membership(losses[rows], deviations[rows], seed=seed)
        on = rows[non_dominated(losses[rows])]
        return {
            "front": [self.archs[i].id for i in on[np.argsort(losses[on, -1], kind="stable")].tolist()],
            "hypervolume": hypervolume(losses[on], corner),
            "weights": {one.name: belief.weight for one, belief in self.of.items()},
            "membership": {self.archs[i].id: float(p) for i, p in zip(rows.tolist(), chances, strict=True) if p > 0},
        }

    def _foretold(self, one: Quantity, fitted: Fitted, known: Known) -> Values:
        """(n_archs,) NaN where nothing can be said; on the level that the measured values have."""
        found = fitted.predictor.predict(self._genes)
        for i, arch in enumerate(self.archs):
            if arch.id in fitted.out_of_fold:
                found[i] = fitted.out_of_fold[arch.id]
            if fitted.level and one.device is not None:
                found[i] = known.measurements(one.device).brought(float(found[i]), fitted.level)
        return np.where(found > 0, found, np.nan) if one.kind.is_time else found
