"""Latency on a device of which ten networks are measured, from devices that are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from predictors.features import Features
from predictors.line import Groups, Line, Prior
from predictors.protocol import Target, Values
from predictors.ridge import RidgePredictor
from predictors.roofline import Roofline

__all__ = ["TransferPredictor"]


class TransferPredictor(RidgePredictor):
    """A ridge on what other devices take for the same networks, and on costs where these say more.

    With few rows it believes the other devices; as rows grow, it learns how this one differs.

    Args:
        features: `DeviceColumns` joined with terms of the costs.
        target: see `RidgePredictor`.
        prior: of the variances, asked for when it fits, such as `KnownDevices.prior`; default: what is usual.
        n_folds, seed: see `JudgedPredictor`.
    """

    kind = "transfer"

    def __init__(
        self,
        features: Features,
        target: Target = "relative",
        prior: Callable[[], Prior] | None = None,
        *,
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        super().__init__(features, target, n_folds=n_folds, seed=seed)
        self._prior = prior

    def _model(self, columns: Values, y: Values, start: Roofline | None = None) -> Roofline:
        groups = Groups.of(self.features.groups)
        prior = groups.prior if self._prior is None else self._prior()
        line = Line.fit(columns, y, self.target, groups, start.logs[0] if start else None, prior=prior)
        return Roofline(line.coefficients[None], np.array([line.intercept]), line.without_itself, (line.logs, None))
