"""The predictors of this project, one function each; `pyproject.toml` registers them as any package would its own."""

from __future__ import annotations

from predictors.features import Joined
from predictors.protocol import Predictor, Target
from predictors.registry import Subject

__all__ = ["boosting", "ridge", "ridge_with_costs"]


def ridge(subject: Subject, target: Target, seed: int) -> Predictor:
    """A ridge on the terms of the blocks: latency from few measurements."""
    from predictors.ridge import RidgePredictor

    return RidgePredictor(subject.terms, target)


def ridge_with_costs(subject: Subject, target: Target, seed: int) -> Predictor:
    """A ridge on the terms and the counted costs of the blocks."""
    from predictors.ridge import RidgePredictor

    return RidgePredictor(Joined(subject.terms, subject.counted), target)


def boosting(subject: Subject, target: Target, seed: int) -> Predictor:
    """XGBoost on all choices and the counted costs, where they are known."""
    from predictors.boosting import BoostingPredictor

    features = Joined(subject.choices, subject.counted) if subject.costs else subject.choices
    return BoostingPredictor(features, target, seed=seed)
