"""Predictors of latency and accuracy: genes in, numbers with intervals out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictors.boosting import BoostingPredictor
    from predictors.card import ErrorCard, error_card
    from predictors.cost_terms import CostTerms, KnownCosts
    from predictors.ensemble import EnsemblePredictor
    from predictors.features import BlockCosts, BlockTerms, Features, Joined, OneHot
    from predictors.gaussian import GaussianProcessPredictor
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

__all__ = [
    "BlockCosts",
    "BlockTerms",
    "BoostingPredictor",
    "CostTerms",
    "EnsemblePredictor",
    "ErrorCard",
    "Features",
    "GaussianProcessPredictor",
    "Joined",
    "KnownCosts",
    "Levels",
    "NearestPredictor",
    "NotSuitedError",
    "OneHot",
    "Predictor",
    "RidgePredictor",
    "Selection",
    "Subject",
    "Target",
    "create_predictor",
    "error_card",
    "fit_best",
    "load_predictor",
    "predictor_names",
    "register_predictor",
    "save_predictor",
    "suitable_predictors",
]

_HOME = {
    "BlockCosts": "features",
    "BlockTerms": "features",
    "BoostingPredictor": "boosting",
    "ErrorCard": "card",
    "Features": "features",
    "Joined": "features",
    "NotSuitedError": "registry",
    "OneHot": "features",
    "Predictor": "protocol",
    "RidgePredictor": "ridge",
    "Selection": "selection",
    "Subject": "registry",
    "Target": "protocol",
    "create_predictor": "registry",
    "error_card": "card",
    "fit_best": "selection",
    "load_predictor": "storage",
    "predictor_names": "registry",
    "register_predictor": "registry",
    "CostTerms": "cost_terms",
    "EnsemblePredictor": "ensemble",
    "GaussianProcessPredictor": "gaussian",
    "KnownCosts": "cost_terms",
    "Levels": "levels",
    "NearestPredictor": "nearest",
    "save_predictor": "storage",
    "suitable_predictors": "registry",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package stays free of scipy and xgboost (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
