"""Predictors by name, and which of them suit what is to be predicted."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.metadata import entry_points
from typing import TypeVar

from predictors.features import BlockCosts, BlockTerms, Columns, Features, Joined, OneHot
from predictors.protocol import Predictor, Target
from supernet.space import Genes, SearchSpace

__all__ = [
    "ENTRY_POINTS",
    "Maker",
    "NotSuitedError",
    "Subject",
    "create_predictor",
    "predictor_names",
    "register_predictor",
    "suitable_predictors",
]

ENTRY_POINTS = "supernet.predictors"  # the group in which packages, this one among them, register predictors


class NotSuitedError(ValueError):
    """A predictor cannot be made for this subject; others can."""


@dataclass(frozen=True)
class Subject:
    """Whose networks are predicted, and what is known of them without measuring; features of it are made once."""

    space: SearchSpace
    costs: Mapping[str, Callable[[Genes], Columns]] = field(default_factory=dict)
    """By name, such as "macs" and "activations": canonical genes to costs (n_archs, n_parts)."""

    @cached_property
    def choices(self) -> Features:
        """What is chosen where."""
        return OneHot(self.space)

    @cached_property
    def terms(self) -> Features:
        """Terms of the blocks, at three levels of sharing."""
        return BlockTerms(self.space)

    @cached_property
    def counted(self) -> Features:
        """All costs of all parts; NotSuitedError where none is known."""
        if not self.costs:
            raise NotSuitedError("no costs of these networks are known")
        return Joined(*(BlockCosts(self.space, costs) for costs in self.costs.values()))


Maker = Callable[[Subject, Target, int], Predictor]
"""Makes a predictor that is not fitted, of a subject, a target and a seed; NotSuitedError where it cannot."""

_M = TypeVar("_M", bound=Maker)
_REGISTERED: dict[str, Maker] = {}


def register_predictor(name: str) -> Callable[[_M], _M]:
    """Make `create_predictor` and `suitable_predictors` know the decorated ``maker(subject, target, seed)``.

    An installed package does without: its entry point in the group ``supernet.predictors`` names the maker.
    """

    def register(maker: _M) -> _M:
        _REGISTERED[name] = maker
        return maker

    return register


def predictor_names() -> list[str]:
    """Every name that is known; loads none of them."""
    return sorted({*_REGISTERED, *entry_points(group=ENTRY_POINTS).names})


def create_predictor(name: str, subject: Subject, target: Target = "value", seed: int = 0) -> Predictor:
    """The predictor of that name, not fitted.

    Raises:
        ValueError: unknown name (the nearest known is named), or a predictor that cannot be loaded.
        NotSuitedError: it cannot be made for this subject.
    """
    return _maker(name)(subject, target, seed)


def suitable_predictors(
    subject: Subject, target: Target = "value", seed: int = 0, names: Sequence[str] = ()
) -> dict[str, Callable[[], Predictor]]:
    """What makes fresh predictors, by name, for `fit_best`: of those in `names`, or of all that suit the subject.

    Raises:
        ValueError: an unknown name, or nothing that suits.
        NotSuitedError: one of `names` does not suit.
    """
    makers: dict[str, Callable[[], Predictor]] = {}
    for name in names or predictor_names():
        make = partial(_maker(name), subject, target, seed)
        try:
            make()
        except NotSuitedError as error:
            if names:
                raise NotSuitedError(f"predictor {name!r} does not suit: {error}") from error
            continue
        makers[name] = make
    if not makers:
        raise ValueError(f"none of the predictors {', '.join(predictor_names())} suits")
    return makers


def _maker(name: str) -> Maker:
    if name in _REGISTERED:
        return _REGISTERED[name]
    found = list(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        raise ValueError(f"no predictor is named {name!r}{_nearest(name, predictor_names())}")
    if len(found) > 1:
        packages = " and ".join(point.dist.name if point.dist else "?" for point in found)
        raise ValueError(f"{packages} both bring a predictor {name!r}; uninstall one")
    try:
        return found[0].load()
    except Exception as error:  # somebody else's code
        where = found[0].dist.name if found[0].dist else "?"
        message = " ".join(str(error).split())
        raise ValueError(f"predictor {name!r} of the package {where} cannot be used: {message}") from error


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known) or 'none'}"
