"""Predictors of latency and accuracy: genes in, numbers with intervals out."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from predictors.boosting import BoostingPredictor
    from predictors.card import ErrorCard, error_card
    from predictors.cost_terms import CostTerms, KnownCosts
    from predictors.ensemble import EnsemblePredictor
    from predictors.features import BlockCosts, BlockTerms, Features, Joined, OneHot
    from predictors.gaussian import GaussianProcessPredictor
    from predictors.judged import JudgedPredictor
    from predictors.known_devices import KnownDevice, KnownDevices
    from predictors.levels import Levels
    from predictors.nearest import NearestPredictor
    from predictors.protocol import Predictor, Target
    from predictors.registry import (
        NotSuitedError,
        Subject,
        create_predictor,
        predictor_names,
        register_predictor,
        suitable_predictors,
    )
    from predictors.ridge import RidgePredictor
    from predictors.selection import Selection, fit_best
    from predictors.storage import load_predictor, save_predictor
    from predictors.transfer import TransferPredictor

__getattr__, __dir__ = lazy(__name__, __file__)
