"""Predictors of a run: chosen among candidates by cross-validation, judged, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from experiments.files import read_json, write_json
from experiments.measuring.block_profiles import measured_blocks
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from predictors.card import error_card
from predictors.cost_terms import KnownCosts
from predictors.protocol import Predictor, Values
from predictors.registry import Subject, create_predictor, suitable_predictors
from predictors.selection import fit_best
from predictors.storage import load_predictor, save_predictor
from supernet.architecture import Architecture
from supernet.space import Genes

__all__ = ["Fitted", "fit_and_save", "load", "predictor_folder", "subject"]


@dataclass(frozen=True)
class Fitted:
    """A predictor and every architecture it learned from, predicted without itself, by id."""

    predictor: Predictor
    out_of_fold: dict[str, float]
    level: str  # id of the session on whose level latencies are; "" for anything else


def fit_and_save(
    run: RunFolder,
    quantity: Quantity,
    archs: Sequence[Architecture],
    values: Sequence[float],
    *,
    device: str | None = None,
    level: str = "",
) -> str:
    """Fit the best of all predictors that suit, or of the recipe's, and write it with its error card.

    Returns one line for people.
    A predictor that was fitted to the same values is kept.

    Args:
        device: what an added device makes known of any quantity is learned for its own search, and changes no other.
        level: id of the session on whose level latencies are, for `Measurements.brought`.

    Raises:
        ValueError: too few architectures, a quantity that no predictor is needed for, or predictors that do not suit.
    """
    name, target = quantity.name, quantity.kind.learned
    if target is None:
        raise ValueError(f"{name} is counted, not predicted")
    supernet, seed = run.untrained_supernet, run.recipe.seed
    genes, y = supernet.space.encode(archs), np.array(values)
    learned = {arch.id: value for arch, value in zip(archs, values, strict=True)}
    folder = predictor_folder(run, device)
    path = folder / f"{name}.card.json"
    if path.exists() and read_json(path)["values"] == learned:
        return f"  {name}: fitted to these {len(y)} architectures already"
    makers = suitable_predictors(subject(run, quantity), target, seed, run.recipe.fit.predictors)
    best = fit_best(makers, genes, y, target=target)
    card = error_card(makers[best.name], genes, y, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_predictor(best.predictor, folder / f"{name}.json")  # type: ignore[arg-type]
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


def predictor_folder(run: RunFolder, device: str | None) -> Path:
    """Where predictors lie: those of an added device's own search in a folder of its own."""
    return run.predictors / device if device is not None and device in run.added_devices() else run.predictors


def load(run: RunFolder, quantity: Quantity, device: str | None = None) -> Fitted:
    """The predictor that `fit_and_save` wrote.

    Raises:
        ValueError: it was not fitted yet, or a file is damaged or of another space.
    """
    folder = predictor_folder(run, device)
    path = folder / f"{quantity.name}.card.json"
    run.require(path, "fit")
    content = read_json(path)
    target = quantity.kind.learned or "value"
    like = create_predictor(content["chosen"], subject(run, quantity), target, run.recipe.seed)
    return Fitted(load_predictor(folder / f"{quantity.name}.json", like), content["out_of_fold"], content["level"])


def subject(run: RunFolder, quantity: Quantity) -> Subject:
    """What predictors of a quantity can know of the networks of a run without measuring them."""
    supernet = run.untrained_supernet
    blocks = measured_blocks(run, quantity.device) if quantity.device and quantity.kind.name == "latency" else None
    if (table := supernet.cost_table) is not None:
        return Subject(supernet.space, table, blocks)

    def count(name: str, genes: Genes) -> Values:
        return getattr(supernet.costs(genes), name).astype(float)

    names = ("macs", "parameters", "activations")
    counts = KnownCosts(supernet.space, {name: partial(count, name) for name in names})
    return Subject(supernet.space, counts, blocks)
