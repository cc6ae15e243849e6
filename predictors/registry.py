"""Predictors by name, and which of them suit what is to be predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from predictors.cost_terms import CostTerms, PartCounts
from predictors.features import BlockCosts, BlockTerms, Columns, Features, Joined, OneHot
from predictors.levels import Levels
from predictors.protocol import Predictor, Target
from supernet.networks.counting import COUNTS
from supernet.plugins import Registry
from supernet.space import Genes, SearchSpace

if TYPE_CHECKING:
    from predictors.known_devices import KnownDevices

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
    costs: PartCounts | None = None
    """What is counted of the parts of its networks, if anything is."""
    blocks: Features | None = None
    """What the blocks of a network took alone on the device that is predicted, such as `BlockSum`, if measured."""
    devices: KnownDevices | None = None
    """Other devices, which may help to predict one that was just begun with."""
    earlier: Features | None = None
    """What other runs of the space say of the same quantity, such as `Earlier`."""

    @cached_property
    def choices(self) -> Features:
        """What is chosen where."""
        return OneHot(self.space)

    @cached_property
    def terms(self) -> Features:
        """Terms of the blocks, at three levels of sharing: of their costs where these are known, else of choices."""
        return BlockTerms(self.space) if self.costs is None else CostTerms(self.space, self.costs)

    @cached_property
    def levels(self) -> Features:
        """How far every choice is up its scale, the size of the network, and what earlier runs say, where known."""
        own = Levels(self.space, self.costs)
        return own if self.earlier is None else Joined(own, self.earlier)

    @cached_property
    def counted(self) -> Features:
        """Multiply-accumulates and activations of all parts; NotSuitedError where they are not known."""
        if self.costs is None:
            raise NotSuitedError("no costs of these networks are known")
        return Joined(
            *(BlockCosts(self.space, partial(_one_count, self.costs, COUNTS.index(n))) for n in ("macs", "activations"))
        )


def _one_count(costs: PartCounts, number: int, genes: Genes) -> Columns:
    """(n_archs, n_parts) of one of `COUNTS`."""
    return costs.counts(genes)[..., number].astype(float)


Maker = Callable[[Subject, Target, int], Predictor]
"""Makes a predictor that is not fitted, of a subject, a target and a seed; NotSuitedError where it cannot."""

_M = TypeVar("_M", bound=Maker)
_MAKERS: Registry[Maker] = Registry("predictor", ENTRY_POINTS)


def register_predictor(name: str) -> Callable[[_M], _M]:
    """Make `create_predictor` and `suitable_predictors` know the decorated ``maker(subject, target, seed)``.

    An installed package does without: its entry point in the group ``supernet.predictors`` names the maker.
    """

    return _MAKERS.register(name)  # type: ignore[return-value]


def predictor_names() -> list[str]:
    """Every name that is known; loads none of them."""
    return _MAKERS.names()


def create_predictor(name: str, subject: Subject, target: Target = "value", seed: int = 0) -> Predictor:
    """The predictor of that name, not fitted.

    Raises:
        ValueError: unknown name (the nearest known is named), or a predictor that cannot be loaded.
        NotSuitedError: it cannot be made for this subject.
    """
    return _MAKERS.find(name)(subject, target, seed)


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
        make = partial(_MAKERS.find(name), subject, target, seed)
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
