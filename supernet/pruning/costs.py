"""What a network costs that keeps so many units of every group: counted, or as a device has shown it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from supernet.families.traced import TracedSupernet
from supernet.graph.costs import Term, terms_of
from supernet.networks.counting import COUNTS

__all__ = ["Cost", "Prices", "counted", "share_of", "share_of_macs"]

Cost = Callable[..., Any]
"""``cost(kept)`` or ``cost(kept, present)``: of a network that keeps so many units of every group of the graph, and of
some modules, by name, only so much: 0 of what is left out, a probability of what may be. Numbers give a number; tensors
a tensor that has a gradient."""


def counted(supernet: TracedSupernet, what: Literal["macs", "parameters"]) -> Cost:
    """The multiply-accumulates or parameters of a network cut out of this one, for one input."""
    column = COUNTS.index(what)
    terms = terms_of(supernet.graph, supernet._template[0])
    return _Sum([(1.0, term) for term in terms if column in term.counts])


def share_of_macs(supernet: TracedSupernet) -> Cost:
    """The share of the largest network's multiply-accumulates that a network has."""
    return share_of(supernet, counted(supernet, "macs"))


def share_of(supernet: TracedSupernet, cost: Cost) -> Cost:
    """A cost over that of the largest network."""
    whole = cost(supernet.graph.full)
    return lambda kept, present=None: cost(kept, present) / whole


@dataclass(frozen=True)
class Prices:
    """What a latency predictor has learned of a device, in a form that knows any width: the highest of some lines.

    Every line has a price for each count of each part of the network, and an intercept.

    Attributes:
        prices: (n_lines, n_parts, n_counts) as nested tuples, in the order of the supernet's parts and of `COUNTS`.
        intercepts: (n_lines,).
    """

    prices: tuple[tuple[tuple[float, ...], ...], ...]
    intercepts: tuple[float, ...]

    def of(self, supernet: TracedSupernet) -> Cost:
        """The latency of a network that is cut out of this one, which may be differentiated by what it keeps.

        Raises:
            ValueError: the prices are those of another network.
        """
        parts = supernet.part_terms()
        lines = []
        for table, intercept in zip(self.prices, self.intercepts, strict=True):
            if len(table) != len(parts):
                raise ValueError(f"prices of {len(table)} parts, and the network has {len(parts)}")
            priced = [
                (sum(prices[count] for count in term.counts), term)
                for prices, terms in zip(table, parts, strict=True)
                for term in terms
            ]
            lines.append(_Sum([(price, term) for price, term in priced if price], intercept))

        def cost(kept: Sequence[Any], present: Mapping[str, Any] | None = None) -> Any:
            found = [line(kept, present) for line in lines]
            return max(found, key=lambda one: one.item() if hasattr(one, "item") else one)

        return cost


class _Sum:
    """Terms times prices, added up; those of modules that are only there in part count in part."""

    def __init__(self, terms: Sequence[tuple[float, Term]], constant: float = 0.0) -> None:
        self.terms, self.constant = terms, constant
        self._inside = cache(self._find)

    def __call__(self, kept: Sequence[Any], present: Mapping[str, Any] | None = None) -> Any:
        if not present:
            return sum((price * term(kept) for price, term in self.terms), self.constant)
        shares: list[Any] = [1.0] * len(self.terms)
        for module, share in present.items():
            for i in self._inside(module):
                shares[i] = shares[i] * share
        total: Any = self.constant
        for share, (price, term) in zip(shares, self.terms, strict=True):
            if not isinstance(share, float) or share:
                total = total + price * share * term(kept)
        return total

    def _find(self, module: str) -> list[int]:
        """The terms of a module and of what is in it."""
        return [i for i, (_, term) in enumerate(self.terms) if f"{term.module}.".startswith(f"{module}.")]
