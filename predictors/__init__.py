"""Predictors of latency and accuracy: genes in, numbers with intervals out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from predictors.boosting import BoostingPredictor
    from predictors.card import ErrorCard, error_card
    from predictors.features import BlockCosts, BlockTerms, Features, Joined, OneHot
    from predictors.protocol import Predictor, Target
    from predictors.ridge import RidgePredictor
    from predictors.selection import Selection, fit_best
    from predictors.storage import load_predictor, save_predictor

__all__ = [
    "BlockCosts",
    "BlockTerms",
    "BoostingPredictor",
    "ErrorCard",
    "Features",
    "Joined",
    "OneHot",
    "Predictor",
    "RidgePredictor",
    "Selection",
    "Target",
    "error_card",
    "fit_best",
    "load_predictor",
    "save_predictor",
]

_HOME = {
    "BlockCosts": "features",
    "BlockTerms": "features",
    "BoostingPredictor": "boosting",
    "ErrorCard": "card",
    "Features": "features",
    "Joined": "features",
    "OneHot": "features",
    "Predictor": "protocol",
    "RidgePredictor": "ridge",
    "Selection": "selection",
    "Target": "protocol",
    "error_card": "card",
    "fit_best": "selection",
    "load_predictor": "storage",
    "save_predictor": "storage",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package stays free of scipy and xgboost (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
