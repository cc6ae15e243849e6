"""Predictors as files: JSON that holds what was learned, never code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from predictors.protocol import Predictor
from supernet.files import write_text

__all__ = ["load_predictor", "save_predictor"]

_FORMAT = "supernet-nas predictor 1"


def save_predictor(predictor: Predictor, path: str | os.PathLike[str]) -> None:
    """Write a fitted predictor to `path`, which is replaced at once or not at all.

    Raises:
        ValueError: something learned is not finite.
    """
    document = {
        "format": _FORMAT,
        "kind": predictor.kind,
        "features": predictor.features.digest,
        "learned": predictor.to_dict(),
    }
    write_text(path, json.dumps(document, allow_nan=False))


def load_predictor(path: str | os.PathLike[str], like: Predictor) -> Predictor:
    """The predictor that `save_predictor` wrote; it predicts the same to the last bit.

    Args:
        like: one that is made as the written one was, fitted or not: its kind and features.

    Raises:
        ValueError: no such file, a file that is damaged or of another kind, or a predictor of other features.
    """
    document = _read(Path(path))
    if document.get("format") != _FORMAT or document.get("kind") != like.kind:
        raise ValueError(f"{path} is not a {like.kind} predictor of this version; fit it again")
    if document.get("features") != like.features.digest:
        raise ValueError(
            f"{path} was fitted to features {document.get('features')}, not to {like.features.digest}: "
            "another search space or other costs; fit it again"
        )
    try:
        return type(like).from_dict(like.features, document["learned"])
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
