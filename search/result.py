"""What a search leaves behind: everything it evaluated, its front, and how the front grew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search.front import ParetoFront, Values
from supernet.space import Genes

__all__ = ["SearchResult"]


@dataclass(frozen=True)
class SearchResult:
    """One run of one tactic. Rows are in the order of evaluation, columns of `values` in that of ``front.axes``."""

    tactic: str
    seed: int
    seconds: float
    """Wall-clock time of the run, objectives included."""
    genes: Genes
    """(n_evaluated, n_genes), canonical, no row twice."""
    values: Values
    """(n_evaluated, n_axes) in the units of the axes."""
    feasible: NDArray[np.bool_]
    """(n_evaluated,) whether every constraint held."""
    front: ParetoFront
    """Of the feasible candidates."""
    reference: Mapping[str, float]
    """The reference point of `hypervolumes`."""
    hypervolumes: tuple[tuple[int, float], ...]
    """After some of the batches, the number of evaluations so far and the hypervolume of the front so far."""

    @property
    def n_evaluated(self) -> int:
        """Number of distinct architectures that were evaluated."""
        return len(self.genes)

    @property
    def losses(self) -> Values:
        """(n_evaluated, n_axes) `values` such that smaller is better."""
        columns = [axis.loss(self.values[:, i]) for i, axis in enumerate(self.front.axes)]
        return np.stack(columns, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "tactic": self.tactic,
            "seed": self.seed,
            "seconds": self.seconds,
            "n_evaluated": self.n_evaluated,
            "front": self.front.to_dict(),
            "reference": dict(self.reference),
            "hypervolumes": [list(step) for step in self.hypervolumes],
            "genes": self.genes.tolist(),
            "values": self.values.tolist(),
            "feasible": self.feasible.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; ValueError where it is not of that form."""
        try:
            front = ParetoFront.from_dict(data["front"])
            return cls(
                tactic=str(data["tactic"]),
                seed=int(data["seed"]),
                seconds=float(data["seconds"]),
                genes=np.array(data["genes"], dtype=np.int64),
                values=np.array(data["values"], dtype=float).reshape(-1, len(front.axes)),
                feasible=np.array(data["feasible"], dtype=bool),
                front=front,
                reference={str(name): float(value) for name, value in data["reference"].items()},
                hypervolumes=tuple((int(n), float(volume)) for n, volume in data["hypervolumes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a search result: {str(data)[:80]!r} ({error})") from error
