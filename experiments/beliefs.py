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
from experiments.subjects import subject
from predictors.gaussian import GaussianProcessPredictor
from search.front import non_dominated
from search.posterior import Belief, believed, measured_again
from supernet.architecture import Architecture

__all__ = ["Beliefs"]

_FEWEST = 20  # scores from which noise is learned

Values = NDArray[np.float64]


class Beliefs:
    """Posteriors of the objectives of a goal that are learned and known with noise; all others are as they are.

    Accuracies are smoothed by a Gaussian process, whichever predictor the search uses: how large their noise is follows
    from how they scatter about it, and is not more than that of so many images. Latencies have the noise of their
    session and its tie, as logarithms, and are so well known that a prediction, out of fold, weighs little beside them.
    The noise of a metric of one's own nobody knows: it is taken as it was scored.

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
            column = columns[one]
            if one.kind.is_time:
                foretold = np.log(self._foretold(one, fitted[one], known))
                self.of[one] = believed(np.log(column.values), column.deviations, foretold)
            elif run.recipe.task is None and len(archs) >= _FEWEST:
                self.of[one] = self._smoothed(run, one, column.values)

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
        """The front of posterior means, its hypervolume with an interval, and how often each would be chosen again.

        Args:
            held: (n_archs,) which keep the limits of the goal.
            reference: up to which hypervolumes are.
        """
        rows = np.flatnonzero(held)
        corner = np.array([one.axis.loss(reference[one.name]) for one in self.goal.objectives])
        losses = self._losses({one: self.means(one) for one in self.goal.objectives})[rows]

        def again(rng: np.random.Generator) -> Values:
            found = {one: belief.again(rng) for one, belief in self.of.items()}
            told = {one: np.exp(values) if one.kind.is_time else values for one, values in found.items()}
            return self._losses({one: self._columns[one].values for one in self.goal.objectives} | told)[rows]

        repeated = measured_again(losses, again, corner, seed=seed)
        on = np.flatnonzero(non_dominated(losses))
        chances = zip(rows.tolist(), repeated.chances, strict=True)
        return {
            "front": [self.archs[i].id for i in rows[on[np.argsort(losses[on, -1], kind="stable")]].tolist()],
            "hypervolume": repeated.hypervolume,
            "interval": list(repeated.interval),
            "weights": {one.name: belief.weight for one, belief in self.of.items()},
            "membership": {self.archs[i].id: float(p) for i, p in chances if p > 0},
        }

    def _losses(self, values: Mapping[Quantity, Values]) -> Values:
        """(n_archs, n_objectives)."""
        return np.stack([one.axis.loss(values[one]) for one in self.goal.objectives], axis=1)

    def _smoothed(self, run: RunFolder, one: Quantity, values: Values) -> Belief:
        n = run.data.n_images("validation")
        p = np.clip(values, 1 / (n + 2), 1 - 1 / (n + 2))  # all right of few images is not certain
        noise = np.sqrt(p * (1 - p) / n)
        process = GaussianProcessPredictor(subject(run, one).levels, n_folds=2, seed=run.recipe.seed)
        found = process.fit(self._genes, values).smoothed(values, noise)
        return Belief(values, found.noise, found.means, found.deviations, found.pull)

    def _foretold(self, one: Quantity, fitted: Fitted, known: Known) -> Values:
        """(n_archs,) NaN where nothing can be said; on the level that the measured values have."""
        found = fitted.predictor.predict(self._genes)
        for i, arch in enumerate(self.archs):
            if arch.id in fitted.out_of_fold:
                found[i] = fitted.out_of_fold[arch.id]
            if fitted.level and one.device is not None:
                found[i] = known.measurements(one.device).brought(float(found[i]), fitted.level)
        return np.where(found > 0, found, np.nan) if one.kind.is_time else found
