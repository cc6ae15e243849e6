"""Predictors of a run: chosen among candidates by cross-validation, judged, and written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from experiments.subjects import subject
from predictors.card import error_card
from predictors.protocol import Predictor, Values, mean_error
from predictors.registry import create_predictor, suitable_predictors
from predictors.selection import fit_best
from predictors.storage import load_predictor, save_predictor
from supernet.architecture import Architecture
from supernet.files import read_json, write_json

__all__ = ["Fitted", "Promise", "fit_and_save", "load", "predictor_folder", "refitted"]

_COVERAGE = 0.9


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
    if path.exists() and read_json(path)["values"] == learned and _can_be_used(run, quantity, device):
        return f"  {name}: fitted to these {len(y)} architectures already"
    promise = _promise(run, quantity, device, archs, y) if path.exists() else None
    so_far = read_json(path).get("promise") if path.exists() else None
    kept = promise if so_far is None else Promise(**so_far) + promise
    about = subject(run, quantity)
    names = run.recipe.fit.predictors
    if names and about.devices is not None:
        names = (*names, "transfer")
    makers = suitable_predictors(about, target, seed, names)
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
            "promise": None if kept is None else asdict(kept),
        },
    )
    return f"  {name}: {best.name}; {card}" + (f"\n    {kept}" if promise is not None else "")


def _can_be_used(run: RunFolder, quantity: Quantity, device: str | None) -> bool:
    """Whether the predictor that is there can be read: it may be of an older version, or have learned from others."""
    try:
        load(run, quantity, device)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Promise:
    """How the predictors of a run did on architectures that became known after they were fitted."""

    n: int
    held: int
    """Of `n`, those inside their intervals."""
    coverage: float
    """How many should be."""
    error: float
    """Mean, in units of the target."""

    def __add__(self, other: Promise | None) -> Promise:
        """Both together."""
        if other is None:
            return self
        n = self.n + other.n
        error = (self.n * self.error + other.n * other.error) / n
        return Promise(n, self.held + other.held, self.coverage, error)

    @property
    def broken(self) -> bool:
        """Whether so few intervals hold that chance does it less than once in a hundred times."""
        from scipy.special import bdtr

        return bool(bdtr(self.held, self.n, self.coverage) < 0.01)

    def __str__(self) -> str:
        """One line for people."""
        text = f"of {self.n} new ones, {self.held} lie in the intervals of {self.coverage:.0%} that were predicted"
        if not self.broken:
            return text
        return f"{text}: the promise of its card is broken, new networks are unlike those it was fitted to"


def _promise(
    run: RunFolder, quantity: Quantity, device: str | None, archs: Sequence[Architecture], y: Values
) -> Promise | None:
    """How the predictor that is there did on what it had not seen; None where it cannot be said.

    Sessions may be on other levels since then: values are brought to the old one by the architectures known to both.
    """
    try:
        before = load(run, quantity, device)
    except ValueError:  # of an older version, or of other costs: it is fitted again anyway
        return None
    values = read_json(predictor_folder(run, device) / f"{quantity.name}.card.json")["values"]
    new = np.array([arch.id not in values for arch in archs])
    if not new.any() or new.all():
        return None
    if quantity.kind.source == "session":
        y = y / float(np.median([value / values[a.id] for a, value in zip(archs, y, strict=True) if a.id in values]))
    genes = run.untrained_supernet.space.encode([arch for arch, is_new in zip(archs, new, strict=True) if is_new])
    predictor = before.predictor
    try:
        lower, upper = predictor.predict_interval(genes, _COVERAGE).T
    except ValueError:  # too few for that coverage
        return None
    held = int(((lower <= y[new]) & (y[new] <= upper)).sum())
    error = mean_error(y[new], predictor.predict(genes), predictor.target)
    return Promise(len(genes), held, _COVERAGE, error)


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


def refitted(run: RunFolder, quantity: Quantity, archs: Sequence[Architecture], values: Values) -> Predictor:
    """A predictor of the kind that the run has of a quantity, which has seen these values (n_archs,) alone.

    Raises:
        ValueError: it was not fitted yet, or too few values are known.
    """
    path = predictor_folder(run, None) / f"{quantity.name}.card.json"
    run.require(path, "fit")
    target = quantity.kind.learned or "value"
    predictor = create_predictor(read_json(path)["chosen"], subject(run, quantity), target, run.recipe.seed)
    there = np.isfinite(values)
    genes = run.untrained_supernet.space.encode([arch for arch, known in zip(archs, there, strict=True) if known])
    return predictor.fit(genes, values[there])
