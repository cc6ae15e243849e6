"""Supernets by name: a decorator on a plain function is the registry, and a factory of one's own needs none."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, TypeVar

import torch
from torch import nn

from supernet.networks.measured import MeasuredSupernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.plugins import called, imported, nearest
from supernet.protocol import ENTRY_POINTS, FACTORIES

__all__ = ["AnySupernet", "call_factory", "create_supernet", "open_supernet", "register_supernet", "supernet_names"]

AnySupernet = TimmSupernet[Any] | MeasuredSupernet
"""What a run works with: a supernet that also says what its sub-networks cost, and how it is made again."""

_B = TypeVar("_B", bound=Callable[..., AnySupernet])
_BUILDERS: dict[str, Callable[..., Any]] = {}


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
    name: str,
    num_classes: int = 1000,
    in_chans: int = 3,
    seed: int = 0,
    experts: Mapping[str, Any] | None = None,
    **settings: Any,
) -> TimmSupernet[Any]:
    """A supernet with fresh weights drawn from `seed`; `settings` are what its builder takes.

    With `experts`, arguments of `TimmSupernet.mix_experts`, its layers mix their weights by the architecture.

    The network remembers how it was made in ``definition``, plain data from which `create_supernet` makes it again.

    Raises:
        ValueError: unknown name or setting (the nearest known is named), or settings that cannot be built.
    """
    _import_builders()
    if name not in _BUILDERS:
        raise ValueError(f"no supernet is named {name!r}{nearest(name, supernet_names())}")
    parameters = inspect.signature(_BUILDERS[name]).parameters
    known = [p for p in parameters if p not in ("num_classes", "in_chans")]
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())  # the builder says itself what it takes
    for setting in settings:
        if setting not in known and not anything:
            raise ValueError(f"{name} has no setting {setting!r}{nearest(setting, known)}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        supernet = _BUILDERS[name](num_classes=num_classes, in_chans=in_chans, **settings)
        if supernet.definition is None:  # `elastic` says it itself, as without downloading weights again
            supernet.definition = {"name": name, "num_classes": num_classes, "in_chans": in_chans, **settings}
        if experts is not None:
            if not isinstance(supernet, TimmSupernet):
                raise ValueError(f"{name} has no experts; remove them")
            supernet.mix_experts(**experts)
    return supernet


def open_supernet(name: str, num_classes: int = 1000, in_chans: int = 3, seed: int = 0, **settings: Any) -> AnySupernet:
    """Like `create_supernet`, also for stitched networks and for a supernet of one's own.

    `name` may also be that of an entry point of an installed package (group ``supernet.supernets``), or
    ``package.module:factory``, whose module is imported: call it with names that the user wrote, never with one out of
    somebody's file. See `call_factory` for what the factory is called with.

    Raises:
        ValueError: nothing is called that, the factory fails, or what it returns is no supernet.
    """
    if ":" in name:
        return call_factory(imported(name), name, num_classes, in_chans, seed, **settings)
    if name in FACTORIES:
        return call_factory(imported(FACTORIES[name], name), name, num_classes, in_chans, seed, **settings)
    found = () if name in supernet_names() else tuple(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        return create_supernet(name, num_classes, in_chans, seed, **settings)
    return call_factory(imported(found[0].value, name), name, num_classes, in_chans, seed, **settings)


def call_factory(
    factory: Callable[..., nn.Module], name: str, num_classes: int, in_chans: int, seed: int = 0, **settings: Any
) -> AnySupernet:
    """What a factory of one's own makes, with costs and a definition by its `name`.

    The factory gets `settings`, and `num_classes` and `in_chans` where it has parameters of these names.

    Raises:
        ValueError: the factory fails, or what it returns is no supernet.
    """
    given: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans}
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(seed)
        network = called(factory, name, given, settings)
    definition = getattr(network, "definition", None) or {"name": name, **given, **settings}
    if isinstance(network, TimmSupernet):
        network.definition = definition
        return network
    return MeasuredSupernet(network, in_chans, definition)


def _import_builders() -> None:
    for module in (
        "ofa.mobilenetv3",
        "ofa.proxyless",
        "ofa.resnet50d",
        "networks.from_timm",
        "families.multi_stage_supernet",
    ):
        import_module(f"{__package__}.{module}")
