"""Features: what a predictor sees of genes, as columns of numbers that never depend on a block that is absent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from supernet.space import Gene, Genes, SearchSpace

__all__ = ["BlockCosts", "BlockTerms", "Features", "Joined", "OneHot"]

Columns = NDArray[np.float64]


class Features(Protocol):
    """A callable that turns genes (n_archs, n_genes) into columns (n_archs, n_features).

    `groups` names, for every column, the group it belongs to: columns of one group are of one kind and one scale, and
    a ridge penalises them alike. `digest` is equal exactly if the columns mean the same, so that a stored predictor can
    refuse features of another space.
    """

    @property
    def names(self) -> tuple[str, ...]:
        """One readable name per column."""
        ...

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each column."""
        ...

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that identify the meaning of the columns."""
        ...

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features) of genes (n_archs, n_genes), which need not be canonical."""
        ...

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,) the columns times coefficients (n_features,), by the shortest way."""
        ...


class OneHot:
    """One column per choice of every gene that has a choice; an inactive gene lights none of its columns."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._columns = [(gene, k) for gene in space.genes if len(gene.choices) > 1 for k in range(len(gene.choices))]
        self.names = tuple(f"{gene.label}={gene.choices[k]:g}" for gene, k in self._columns)
        self.groups = ("genes",) * len(self.names)
        self.digest = _digest("OneHot", space.to_dict())
        several = space.n_choices > 1
        self._offsets = np.cumsum(np.where(several, space.n_choices, 0)) - space.n_choices
        self._several = np.flatnonzero(several)

    @property
    def columns(self) -> tuple[tuple[Gene, int], ...]:
        """The gene of each column, and which of its choices lights it."""
        return tuple(self._columns)

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features) of zeros and ones."""
        n_features = len(self.names)
        columns = np.zeros((len(genes), n_features + 1))
        np.put_along_axis(columns, self._lit(genes), 1.0, axis=1)
        return columns[:, :n_features]

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,): looked up, not multiplied."""
        return np.append(coefficients, 0.0)[self._lit(genes)].sum(axis=1)

    def _lit(self, genes: Genes) -> Genes:
        """(n_archs, n_genes with a choice) the column that each gene lights; n_features where it is inactive."""
        return np.where(self.space.active(genes), genes + self._offsets, len(self.names))[:, self._several]


class BlockTerms:
    """Additive block terms at three levels of sharing, alone and multiplied by the area of the input.

    The cost of a network is close to a sum over its blocks, and most of it grows with the area of the image. A choice
    such as ``kernel=5`` gets a column per block, one per stage that counts the stage's blocks with it, and one that
    counts those of the whole network. A ridge with one penalty per group then shrinks every block towards its stage and
    every stage towards the network, as a hierarchical model does (Gelman & Hill 2007, chapter 12), which is what makes
    50 measured architectures enough for 20 block positions.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._one_hot = OneHot(space)
        columns = self._one_hot.columns
        self._varies = len(space.resolutions) > 1
        # Resolution is a quantity, not a name: it enters through the area.
        self._kept = np.array([i for i, (gene, _) in enumerate(columns) if gene.name != "resolution"], dtype=np.int64)
        kept = [columns[i] for i in self._kept]
        network, network_names = _counts(kept, lambda gene: () if gene.block is not None else None)
        stage, stage_names = _counts(kept, lambda gene: (gene.stage,) if gene.block is not None else None)
        self._sums = np.concatenate([network, stage], axis=1)
        names = [*network_names, *stage_names, *(self._one_hot.names[i] for i in self._kept)]
        groups = ["network"] * len(network_names) + ["stage"] * len(stage_names) + ["block"] * len(kept)
        if self._varies:
            names += ["side", "area", *(f"{name} * area" for name in names)]
            groups += ["image", "image", *(f"{group} * area" for group in groups)]
        self.names, self.groups = tuple(names), tuple(groups)
        self.digest = _digest("BlockTerms", space.to_dict())

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features), each between 0 and the number of blocks."""
        one_hot = self._one_hot(genes)[:, self._kept]
        terms = np.concatenate([one_hot @ self._sums, one_hot], axis=1)
        if not self._varies:
            return terms
        side = self._side(genes)[:, None]
        return np.concatenate([terms, side, side**2, terms * side**2], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,): what the three levels say of a choice is added up once, not for every architecture."""
        n_sums, n_terms = self._sums.shape[1], self._sums.shape[1] + len(self._kept)

        def terms(own: Columns) -> Columns:
            per_choice = np.zeros(len(self._one_hot.names))
            per_choice[self._kept] = self._sums @ own[:n_sums] + own[n_sums:]
            return self._one_hot.dot(genes, per_choice)

        if not self._varies:
            return terms(coefficients)
        side = self._side(genes)
        linear, square = coefficients[n_terms : n_terms + 2]
        return terms(coefficients[:n_terms]) + side * (linear + side * (square + terms(coefficients[n_terms + 2 :])))

    def _side(self, genes: Genes) -> Columns:
        return (np.asarray(self.space.resolutions) / self.space.resolutions[-1])[genes[:, 0]]


class BlockCosts:
    """Costs of the parts of a network, such as the multiply-accumulates of every block, and their sum.

    Args:
        space: the space of the genes.
        costs: canonical genes to costs (n_archs, n_parts), 0 for a part that is absent, in any unit: each part is
            divided by what it costs in the largest architecture, and the sum enters plainly and as a logarithm
            (accuracy grows with the logarithm of the cost).
    """

    def __init__(self, space: SearchSpace, costs: Callable[[Genes], Columns]) -> None:
        self.space = space
        self.costs = costs
        largest = np.asarray(costs(space.encode([space.largest])), dtype=float)[0]
        self._scale = np.where(largest > 0, largest, 1.0)
        self._total = float(self._scale.sum())
        self.names = (*(f"part{i + 1}" for i in range(len(largest))), "total", "log total")
        self.groups = ("part",) * len(largest) + ("total", "log total")
        # A function has no digest; what it says about some fixed architectures has.
        probes = space.canonical(space.sample_genes(16, np.random.default_rng(0)))
        seen = [[f"{cost:.6g}" for cost in row] for row in np.asarray(costs(probes), dtype=float)]
        self.digest = _digest("BlockCosts", space.to_dict(), seen)

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_parts + 2), about 0 to 1."""
        costs = np.asarray(self.costs(self.space.canonical(genes)), dtype=float)
        total = costs.sum(axis=1, keepdims=True) / self._total
        return np.concatenate([costs / self._scale, total, np.log(np.maximum(total, 1e-9))], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes) @ coefficients


class Joined:
    """The columns of several features side by side."""

    def __init__(self, *parts: Features) -> None:
        self.parts = parts
        self.names = tuple(name for part in parts for name in part.names)
        self.groups = tuple(group for part in parts for group in part.groups)
        self.digest = _digest("Joined", [part.digest for part in parts])

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features)."""
        return np.concatenate([part(genes) for part in self.parts], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        stops = np.cumsum([len(part.names) for part in self.parts])[:-1]
        pieces = zip(self.parts, np.split(coefficients, stops), strict=True)
        return np.sum([part.dot(genes, piece) for part, piece in pieces], axis=0)


def _counts(
    columns: Sequence[tuple[Gene, int]], place: Callable[[Gene], tuple[Hashable, ...] | None]
) -> tuple[Columns, list[str]]:
    """Matrix (n_columns, n_sums) that adds up the one-hot columns of one choice at one place, and the sums' names."""
    keys: dict[tuple[Any, ...], list[int]] = {}
    for i, (gene, k) in enumerate(columns):
        where = place(gene)
        if where is not None:
            keys.setdefault((*where, gene.name, gene.choices[k]), []).append(i)
    sums = np.zeros((len(columns), len(keys)))
    for j, members in enumerate(keys.values()):
        sums[members, j] = 1.0
    names = []
    for *where, name, choice in keys:
        names.append("".join(f"stage{stage + 1}." for stage in where) + f"n({name}={choice:g})")
    return sums, names


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
