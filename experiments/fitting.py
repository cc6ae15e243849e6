"""Predictors of a run: chosen among candidates by cross-validation, judged, and written down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.files import read_json, write_json
from experiments.run_folder import RunFolder
from predictors.boosting import BoostingPredictor
from predictors.card import error_card
from predictors.features import BlockCosts, BlockTerms, Features, Joined, OneHot
from predictors.protocol import Predictor, Target, Values
from predictors.ridge import RidgePredictor
from predictors.selection import fit_best
from predictors.storage import load_predictor, save_predictor
from supernet.architecture import Architecture
from supernet.space import Genes

if TYPE_CHECKING:
    from supernet.timm_supernet import TimmSupernet

__all__ = ["Fitted", "fit_and_save", "load"]


@dataclass(frozen=True)
class Fitted:
    """A predictor and every architecture it learned from, predicted without itself, by id."""

    predictor: Predictor
    out_of_fold: dict[str, float]
    level: str  # id of the session on whose level latencies are; "" for anything else


def fit_and_save(
    run: RunFolder, name: str, archs: Sequence[Architecture], values: Sequence[float], target: Target, level: str = ""
) -> str:
    """Fit the best of the candidates and write it with its error card; returns one line for people.

    A predictor that was fitted to the same values is kept.

    Args:
        level: id of the session on whose level latencies are, for `Measurements.brought`.

    Raises:
        ValueError: too few architectures.
    """
    supernet, seed = run.untrained_supernet, run.recipe.seed
    genes, y = supernet.space.encode(archs), np.array(values)
    learned = {arch.id: value for arch, value in zip(archs, values, strict=True)}
    path = run.predictors / f"{name}.card.json"
    if path.exists() and read_json(path)["values"] == learned:
        return f"  {name}: fitted to these {len(y)} architectures already"
    makers = _makers(_features(supernet), target, seed)
    best = fit_best(makers, genes, y, target=target, seed=seed)
    card = error_card(makers[best.name], genes, y, seed=seed)
    run.predictors.mkdir(exist_ok=True)
    save_predictor(best.predictor, run.predictors / f"{name}.json")  # type: ignore[arg-type]
    out_of_fold = dict(zip(learned, best.predictor.out_of_fold_.tolist(), strict=True))
    write_json(
        path,
        {
            "provenance": run.provenance,
            "chosen": best.name,
            "cross_validated_errors": dict(best.errors),
            "card": card.to_dict(),
            "values": learned,
            "out_of_fold": out_of_fold,
            "level": level,
        },
    )
    return f"  {name}: {best.name}; {card}"


def load(run: RunFolder, name: str) -> Fitted:
    """The predictor that `fit_and_save` wrote.

    Raises:
        ValueError: it was not fitted yet, or a file is damaged or of another space.
    """
    path = run.predictors / f"{name}.card.json"
    run.require(path, "fit")
    content = read_json(path)
    features = _features(run.untrained_supernet)[content["chosen"].partition(" on ")[2]]
    return Fitted(load_predictor(run.predictors / f"{name}.json", features), content["out_of_fold"], content["level"])


def _features(supernet: TimmSupernet[Any]) -> dict[str, Features]:
    def macs(genes: Genes) -> Values:
        return supernet.costs(genes).macs.astype(float)

    def written(genes: Genes) -> Values:
        return supernet.costs(genes).activations.astype(float)

    terms = BlockTerms(supernet.space)
    costs = Joined(BlockCosts(supernet.space, macs), BlockCosts(supernet.space, written))
    return {
        "block terms": terms,
        "block terms and costs": Joined(terms, costs),
        "genes and costs": Joined(OneHot(supernet.space), costs),
    }


def _makers(features: dict[str, Features], target: Target, seed: int) -> dict[str, Callable[[], Predictor]]:
    return {
        "ridge on block terms": lambda: RidgePredictor(features["block terms"], target),
        "ridge on block terms and costs": lambda: RidgePredictor(features["block terms and costs"], target),
        "XGBoost on genes and costs": lambda: BoostingPredictor(features["genes and costs"], target, seed=seed),
    }
