"""Things by name: those that code registers, those that installed packages bring, and ``package.module:function``."""

from __future__ import annotations

import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

__all__ = ["Registry", "called", "imported", "nearest"]

T = TypeVar("T")


class Registry(Generic[T]):
    """What can be named in a recipe, of one kind.

    Args:
        kind: the word for it in messages, such as "tactic".
        group: of entry points, in which packages, this one among them, bring theirs.
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._registered: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """A decorator under whose name what it decorates is found; a package with an entry point does without."""

        def keep(thing: T) -> T:
            self._registered[name] = thing
            return thing

        return keep

    def names(self) -> list[str]:
        """Every name that can be found; loads none of them."""
        return sorted({*self._registered, *entry_points(group=self.group).names})

    def find(self, name: str) -> T:
        """What has that name; a package that brings it is loaded.

        Raises:
            ValueError: unknown (the nearest known is named), brought by two packages, or it cannot be loaded.
        """
        if name in self._registered:
            return self._registered[name]
        found = list(entry_points(group=self.group, name=name))
        if not found:
            raise ValueError(f"no {self.kind} is named {name!r}{nearest(name, self.names())}")
        packages = " and ".join(point.dist.name if point.dist else "?" for point in found)
        if len(found) > 1:
            raise ValueError(f"{packages} both bring a {self.kind} {name!r}; uninstall one")
        try:
            return found[0].load()
        except Exception as error:  # somebody else's code
            message = " ".join(str(error).split())
            raise ValueError(f"{self.kind} {name!r} of the package {packages} cannot be used: {message}") from error


def nearest(name: str, known: Iterable[str]) -> str:
    """How a message about an unknown name ends: with the known one that is like it, else with all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known) or 'none'}"


def imported(address: str, name: str | None = None) -> Any:
    """What ``package.module:path`` is, of an installed package or of the folder in which one works.

    The module is run: call it with addresses that the user wrote, never with one out of somebody's file.

    Args:
        address: the module and the path in it.
        name: what messages call it; default the address.

    Raises:
        ValueError: the module cannot be imported, or has nothing of that name (the nearest is named).
    """
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # last: what is installed comes first
    name = name or address
    module, _, path = address.partition(":")
    try:
        found: Any = import_module(module)
    except Exception as error:  # whatever a module of somebody's may raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}: cannot import {module}: {type(error).__name__}: {reason}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            public = [one for one in vars(found) if not one.startswith("_")]
            raise ValueError(f"{name}: {module} has no {path!r}{nearest(part, public)}")
        found = getattr(found, part)
    return found


def called(function: Callable[..., Any], name: str, offered: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """What a function of the user's returns for the options of a recipe, and for what is offered where it takes it.

    Args:
        name: what messages call it.

    Raises:
        ValueError: it cannot be called, has no such option (the nearest is named), or fails.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not a function or class: {error}") from error
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    for option in options:
        if not anything and option not in parameters:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, parameters)}")
    taken = {key: value for key, value in offered.items() if anything or key in parameters}
    try:
        return function(**{**taken, **options})
    except Exception as error:  # somebody else's code
        raise ValueError(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error
