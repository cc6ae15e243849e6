"""Everything that a search has evaluated: plain data, from which it goes on."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search.front import Axis, Candidate, ParetoFront, Values, non_dominated
from search.tactics.unseen import Unseen
from supernet.space import Genes, SearchSpace

__all__ = ["Archive"]


class Archive:
    """Architectures in the order in which they were evaluated, none of them twice; what they are worth on every axis.

    It is all the state that a search has: `run_search` with an archive goes on with it, whoever filled it.

    Args:
        space: of the genes.
        axes: the columns of the values.

    Raises:
        ValueError: no axis, or names that repeat.
    """

    def __init__(self, space: SearchSpace, axes: Sequence[Axis]) -> None:
        self.space = space
        self.axes = ParetoFront((), axes).axes  # which checks them
        self._unseen = Unseen(space)
        self._genes = [np.empty((0, len(space.genes)), dtype=np.int64)]
        self._values = [np.empty((0, len(self.axes)))]
        self._violations = [np.empty(0)]

    def __len__(self) -> int:
        return self._unseen.n_taken

    def add(self, genes: Genes, values: Values, violations: Values) -> None:
        """Append architectures.

        Args:
            genes: (n, n_genes), canonical.
            values: (n, n_axes) in the units of the axes.
            violations: (n,) how far outside the constraints; 0 or less where they hold.

        Raises:
            ValueError: shapes that do not fit, or genes that are no new architectures; then nothing is appended.
        """
        genes, values, violations = np.asarray(genes), np.asarray(values, float), np.asarray(violations, float)
        if values.shape != (len(genes), len(self.axes)) or violations.shape != (len(genes),):
            raise ValueError(
                f"values of shape {values.shape} and violations of shape {violations.shape} for {len(genes)} "
                f"architectures and {len(self.axes)} axes"
            )
        fresh = self._unseen.take(genes)
        if len(fresh) < len(genes) or not np.array_equal(fresh, genes):
            self._unseen = Unseen(self.space)
            self._unseen.take(self.genes)
            raise ValueError(
                f"of {len(genes)} architectures {len(fresh)} are new to the archive; it takes new ones only, in "
                "canonical form"
            )
        self._genes.append(genes)
        self._values.append(values)
        self._violations.append(violations)

    def new(self, genes: Genes) -> Genes:
        """The rows, canonical and once each, in their order, that are not in the archive."""
        seen = Unseen(self.space)
        seen.take(self.genes)
        return seen.take(genes)

    @property
    def genes(self) -> Genes:
        """(n, n_genes), canonical."""
        return np.concatenate(self._genes)

    @property
    def values(self) -> Values:
        """(n, n_axes) in the units of the axes."""
        return np.concatenate(self._values)

    @property
    def losses(self) -> Values:
        """(n, n_axes) `values` such that smaller is better."""
        values = self.values
        return np.stack([axis.loss(values[:, i]) for i, axis in enumerate(self.axes)], axis=1)

    @property
    def violations(self) -> Values:
        """(n,) 0 or less where the constraints hold."""
        return np.concatenate(self._violations)

    @property
    def feasible(self) -> NDArray[np.bool_]:
        """(n,) whether every constraint held."""
        return self.violations <= 0

    def front(self) -> ParetoFront:
        """Of the feasible architectures."""
        rows = np.flatnonzero(self.feasible)
        rows = rows[non_dominated(self.losses[rows])]
        names = [axis.name for axis in self.axes]
        candidates = [
            Candidate(arch, dict(zip(names, row.tolist(), strict=True)))
            for arch, row in zip(self.space.decode(self.genes[rows]), self.values[rows], strict=True)
        ]
        return ParetoFront(candidates, self.axes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "space": self.space.to_dict(),
            "axes": [{"name": axis.name, "unit": axis.unit, "maximize": axis.maximize} for axis in self.axes],
            "batches": [len(genes) for genes in self._genes[1:]],
            "genes": self.genes.tolist(),
            "values": self.values.tolist(),
            "violations": self.violations.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; ValueError where it is not of that form."""
        try:
            axes = [Axis(str(a["name"]), str(a["unit"]), bool(a["maximize"])) for a in data["axes"]]
            archive = cls(SearchSpace.from_dict(data["space"]), axes)
            genes = np.array(data["genes"], dtype=np.int64).reshape(-1, len(archive.space.genes))
            values = np.array(data["values"], dtype=float).reshape(-1, len(axes))
            violations = np.array(data["violations"], dtype=float)
            ends = np.cumsum([int(n) for n in data["batches"]])
            if ends[-1:].tolist() not in ([], [len(genes)]) or len(genes) != len(values):
                raise ValueError(f"batches of {data['batches']} for {len(genes)} architectures")
            for start, end in itertools.pairwise([0, *ends.tolist()]):
                archive.add(genes[start:end], values[start:end], violations[start:end])
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"not an archive: {str(data)[:80]!r} ({error})") from error
        return archive
