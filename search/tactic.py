"""What decides which architectures are looked at next, and tactics by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from search.front import Values
from supernet.plugins import Registry, nearest
from supernet.space import Genes, SearchSpace

__all__ = [
    "ENTRY_POINTS",
    "FEWEST",
    "POPULATION",
    "Tactic",
    "check_tactic",
    "create_tactic",
    "register_tactic",
    "tactic_names",
]

ENTRY_POINTS = "supernet.tactics"  # the group in which packages, this one among them, register tactics

POPULATION, FEWEST = 100, 4  # architectures of a generation: by default, and at least

_F = TypeVar("_F", bound=Callable[..., "Tactic"])
_TACTICS: Registry[Callable[..., Any]] = Registry("tactic", ENTRY_POINTS)
_GIVEN = ("space", "n_objectives", "seed")  # to every factory; whatever else it takes is an option


class Tactic(Protocol):
    """Asks for architectures and is told what they are worth.

    What it asks for next follows from its space, seed and options and from the rows that it was told, in their order,
    however these were parted into calls. So the archive of a search is all the state there is: a new tactic that is
    told an archive goes on as the old one would have, or begins where a search of something else has ended. Random
    numbers are then no state either: ``np.random.default_rng([seed, n_told, n_pending])`` for every call.
    `search.testing.TacticContract` tests all this.
    """

    def ask(self, n: int) -> Genes:
        """Canonical genes of up to `n` architectures, at least one while there is one that was neither asked for
        nor told; none when there is none left.

        It may be asked again before it was told, for as many as are evaluated at a time.
        """
        ...

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """What architectures are worth, those that were asked for and others, none of them twice.

        Args:
            genes: (n, n_genes), canonical.
            values: (n, n_objectives), smaller is better.
            violations: (n,) how far outside the constraints; 0 or less where they hold.
        """
        ...


def register_tactic(name: str) -> Callable[[_F], _F]:
    """Make ``create_tactic(name, ...)`` call the decorated ``factory(space, n_objectives, seed, **options)``.

    An installed package does without: its entry point in the group ``supernet.tactics`` names the factory.
    """

    return _TACTICS.register(name)  # type: ignore[return-value]


def tactic_names() -> list[str]:
    """Every name that `create_tactic` knows; loads none of them."""
    return _TACTICS.names()


def check_tactic(name: str, options: Mapping[str, Any]) -> None:
    """Whether there is a tactic of that name with such options; makes none.

    Raises:
        ValueError: unknown name or option (the nearest known is named).
    """
    _checked(name, options)


def create_tactic(name: str, space: SearchSpace, n_objectives: int, seed: int, **options: Any) -> Tactic:
    """The tactic of that name for a search of `space`.

    Raises:
        ValueError: unknown name or option (the nearest known is named), or something that the tactic cannot do.
    """
    return _checked(name, options)(space, n_objectives, seed, **options)


def _checked(name: str, options: Mapping[str, Any]) -> Callable[..., Tactic]:
    factory = _TACTICS.find(name)
    parameters = inspect.signature(factory).parameters
    known = [option for option in parameters if option not in _GIVEN]
    for option in options:
        if option not in known:
            raise ValueError(f"tactic {name!r} has no option {option!r}{nearest(option, known)}")
    return factory
