"""Relations between choices: a small language for what must hold of an architecture, such as deeper stages later."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Number

__all__ = ["Relation"]

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le, "<": operator.lt, "==": operator.eq, "!=": operator.ne, ">=": operator.ge, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True)
class Relation:
    """A comparison of two genes, or of a gene and a number: ``Relation.parse("stage1.depth <= stage2.depth")``.

    Genes are named by their labels. A relation to a gene that is inactive, since its block does not exist, holds.

    Raises:
        ValueError: an unknown operator.
    """

    left: str
    operator: str
    right: str | Number

    def __post_init__(self) -> None:
        if self.operator not in _OPERATORS:
            raise ValueError(f"operator {self.operator!r}; possible are {' '.join(_OPERATORS)}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The relation written as ``str`` writes it; ValueError where it is not of that form."""
        words = text.split()
        if len(words) != 3:
            raise ValueError(f"relation {text!r} is not of the form 'stage1.depth <= stage2.depth'")
        left, symbol, right = words
        try:
            number = float(right)
        except ValueError:
            return cls(left, symbol, right)
        return cls(left, symbol, int(number) if number.is_integer() else number)

    @property
    def labels(self) -> tuple[str, ...]:
        """The genes it is about."""
        return (self.left, self.right) if isinstance(self.right, str) else (self.left,)

    def holds(self, values: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
        """(n_archs,) whether it holds for the chosen values (n_archs,) by label, NaN where a gene is inactive."""
        left = values[self.left]
        right = values[self.right] if isinstance(self.right, str) else np.full(len(left), float(self.right))
        return _OPERATORS[self.operator](left, right) | np.isnan(left) | np.isnan(right)

    def moved(self, stages: int) -> Relation:
        """The same about stages that come so many places later."""

        def move(label: str) -> str:
            if not label.startswith("stage"):
                return label
            place, _, rest = label.removeprefix("stage").partition(".")
            return f"stage{int(place) + stages}.{rest}"

        return Relation(move(self.left), self.operator, move(self.right) if isinstance(self.right, str) else self.right)

    def __str__(self) -> str:
        return f"{self.left} {self.operator} {self.right if isinstance(self.right, str) else f'{self.right:g}'}"
