"""The predictors of this project, one function each; `pyproject.toml` registers them as any package would its own."""

from __future__ import annotations

from functools import partial

from predictors.features import Joined
from predictors.protocol import Predictor, Target
from predictors.registry import NotSuitedError, Subject

__all__ = ["block_table", "boosting", "ensemble", "gaussian_process", "k_nearest", "ridge", "transfer"]


def ridge(subject: Subject, target: Target, seed: int) -> Predictor:
    """A robust ridge on the costs of the blocks: latency from few measurements."""
    from predictors.ridge import RidgePredictor

    return RidgePredictor(subject.terms, target, seed=seed)


def gaussian_process(subject: Subject, target: Target, seed: int) -> Predictor:
    """A Gaussian process on the levels of all choices: accuracy from few scores."""
    from predictors.gaussian import GaussianProcessPredictor

    return GaussianProcessPredictor(subject.levels, target, seed=seed)


def boosting(subject: Subject, target: Target, seed: int) -> Predictor:
    """XGBoost on all choices and the counted costs, where they are known."""
    from predictors.boosting import BoostingPredictor

    features = subject.choices if subject.costs is None else Joined(subject.choices, subject.counted)
    return BoostingPredictor(features, target, seed=seed)


def k_nearest(subject: Subject, target: Target, seed: int) -> Predictor:
    """The mean of the most similar architectures."""
    from predictors.nearest import NearestPredictor

    return NearestPredictor(subject.levels, target, seed=seed)


def block_table(subject: Subject, target: Target, seed: int) -> Predictor:
    """The sum of what the blocks took alone, scaled, shifted and corrected by a ridge on their terms."""
    from predictors.ridge import RidgePredictor

    if subject.blocks is None:
        raise NotSuitedError("the blocks of these networks were not measured alone on the device")
    return RidgePredictor(Joined(subject.blocks, subject.terms), target, seed=seed)


def ensemble(subject: Subject, target: Target, seed: int) -> Predictor:
    """The ridge, the Gaussian process and XGBoost, weighted by what each has shown."""
    from predictors.ensemble import EnsemblePredictor

    return EnsemblePredictor([make(subject, target, seed) for make in (ridge, gaussian_process, boosting)])


def transfer(subject: Subject, target: Target, seed: int) -> Predictor:
    """A ridge on what other devices take: latency on a new device from ten measurements."""
    from predictors.transfer import TransferPredictor

    if subject.devices is None:
        raise NotSuitedError("no other device is known")
    features = Joined(subject.devices.columns, subject.terms)
    return TransferPredictor(features, target, partial(subject.devices.prior, subject.terms), seed=seed)
