"""Predictors as files: JSON that holds what was learned, never code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from predictors.boosting import BoostingPredictor
from predictors.features import Features
from predictors.protocol import Predictor
from predictors.ridge import RidgePredictor

__all__ = ["load_predictor", "save_predictor"]

_FORMAT = "supernet-nas predictor 1"
_KINDS = {kind.kind: kind for kind in (RidgePredictor, BoostingPredictor)}


def save_predictor(predictor: Predictor, path: str | os.PathLike[str]) -> None:
    """Write a fitted predictor to `path`, which is replaced at once or not at all.

    Raises:
        ValueError: a kind of predictor that `load_predictor` does not know, or something learned is not finite.
    """
    if predictor.kind not in _KINDS:
        raise ValueError(f"predictors of kind {predictor.kind!r} cannot be stored; only {', '.join(_KINDS)}")
    document = {
        "format": _FORMAT,
        "kind": predictor.kind,
        "features": predictor.features.digest,
        "learned": predictor.to_dict(),
    }
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(document, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_predictor(path: str | os.PathLike[str], features: Features) -> Predictor:
    """The predictor that `save_predictor` wrote; it predicts the same to the last bit.

    Raises:
        ValueError: no such file, a file that is damaged or of another kind, or a predictor of other features.
    """
    document = _read(Path(path))
    if document.get("format") != _FORMAT or document.get("kind") not in _KINDS:
        raise ValueError(f"{path} is not a predictor of this version; fit it again")
    if document.get("features") != features.digest:
        raise ValueError(
            f"{path} was fitted to features {document.get('features')}, not to {features.digest}: "
            "another search space or other costs; fit it again"
        )
    try:
        return _KINDS[document["kind"]].from_dict(features, document["learned"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); fit it again") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no predictor at {path}; fit one first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or cut short ({error}); fit it again") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a predictor; fit one first")
    return document
