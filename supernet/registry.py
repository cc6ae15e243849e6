"""Supernets by name: a decorator on a plain function is the registry."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

import torch

from supernet.timm_supernet import TimmSupernet

__all__ = ["create_supernet", "register_supernet", "supernet_names"]

_B = TypeVar("_B", bound=Callable[..., TimmSupernet[Any]])
_BUILDERS: dict[str, Callable[..., TimmSupernet[Any]]] = {}


def register_supernet(name: str) -> Callable[[_B], _B]:
    """Make ``create_supernet(name, ...)`` call the decorated ``builder(num_classes=, in_chans=, **settings)``."""

    def register(builder: _B) -> _B:
        _BUILDERS[name] = builder
        return builder

    return register


def supernet_names() -> list[str]:
    """Every name `create_supernet` knows."""
    _import_builders()
    return sorted(_BUILDERS)


def create_supernet(
    name: str, num_classes: int = 1000, in_chans: int = 3, seed: int = 0, **settings: Any
) -> TimmSupernet[Any]:
    """A supernet with fresh weights drawn from `seed`; `settings` are what its builder takes.

    The network remembers how it was made in ``definition``, plain data from which `create_supernet` makes it again.

    Raises:
        ValueError: unknown name or setting (the nearest known is named), or settings that cannot be built.
    """
    _import_builders()
    if name not in _BUILDERS:
        raise ValueError(f"no supernet is named {name!r}{_nearest(name, supernet_names())}")
    known = [p for p in inspect.signature(_BUILDERS[name]).parameters if p not in ("num_classes", "in_chans")]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"{name} has no setting {setting!r}{_nearest(setting, known)}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        supernet = _BUILDERS[name](num_classes=num_classes, in_chans=in_chans, **settings)
    if supernet.definition is None:  # `elastic` says it itself, as without downloading weights again
        supernet.definition = {"name": name, "num_classes": num_classes, "in_chans": in_chans, **settings}
    return supernet


def _import_builders() -> None:
    for module in ("mobilenetv3", "proxyless", "resnet50d", "from_timm"):
        import_module(f"supernet.{module}")


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
