"""Choices as levels and as counts, at three levels of sharing, and sizes: what accuracy depends on."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from predictors.cost_terms import PartCounts
from predictors.features import OneHot
from supernet.networks.counting import COUNTS
from supernet.space import Gene, Genes, SearchSpace

__all__ = ["Levels"]

Columns = NDArray[np.float64]


class Levels:
    """How far every choice is up its scale, which choice it is, and how large the network and its stages are.

    A choice is a number from 0, the lowest, to 1, the highest: of every block, summed by stage, and by network. Choices
    of blocks of which there are three or more are also counted, one column for each, at the same places. The
    multiply-accumulates of each stage enter plainly and as logarithms, those of the network and its parameters as
    logarithms, with which accuracy grows. A kind of column at one level is a group. Blocks that do not exist add
    nothing.

    Args:
        space: the space of the genes.
        parts: what is counted of its networks, if it is known.
    """

    def __init__(self, space: SearchSpace, parts: PartCounts | None = None) -> None:
        self.space = space
        self.parts = parts
        self._one_hot = OneHot(space)
        members: dict[tuple[str, str], list[int]] = {}
        for i, gene in enumerate(space.genes):
            if len(gene.choices) > 1:
                for place, level in _places(gene, gene.stage is not None):
                    members.setdefault((f"{place} {gene.name}", f"{level} {gene.name}"), []).append(i)
        for i, (gene, k) in enumerate(self._one_hot.columns):
            if gene.block is not None and len(gene.choices) > 2:
                for place, level in _places(gene, True):
                    key = (f"{place} n({gene.name}={gene.choices[k]:g})", f"{level} {gene.name} choice")
                    members.setdefault(key, []).append(len(space.genes) + i)
        self._sums = np.zeros((len(space.genes) + len(self._one_hot.names), len(members)))
        for j, rows in enumerate(members.values()):
            self._sums[rows, j] = 1.0
        self._sizes = _sizes(parts)
        sizes: list[tuple[str, str]] = []
        if parts is not None and self._sizes is not None:
            stages = range(self._sizes.shape[2] - 2)
            sizes = [(f"size{i + 1} {name}", f"stage {name}") for name in ("macs", "log macs") for i in stages]
            sizes += [(name, name) for name in ("network log macs", "network log parameters")]
            self._sizes /= np.maximum(parts.weighted(space.encode([space.largest]), self._sizes), 1.0)
        self.names = tuple(name for name, _ in (*members, *sizes))
        self.groups = tuple(group for _, group in (*members, *sizes))
        # A function has no digest; what it says about some fixed architectures has.
        probes = space.canonical(space.sample_genes(16, np.random.default_rng(0)))
        text = json.dumps([space.to_dict(), np.round(self._of_size(probes), 6).tolist()], sort_keys=True)
        self.digest = hashlib.sha256(f"Levels {text}".encode()).hexdigest()[:16]

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features)."""
        up = np.where(self.space.active(genes), genes / np.maximum(self.space.n_choices - 1, 1), 0.0)
        choices = np.concatenate([up, self._one_hot(genes)], axis=1) @ self._sums
        return np.concatenate([choices, self._of_size(genes)], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes) @ coefficients

    def _of_size(self, genes: Genes) -> Columns:
        """(n_archs, 2 n_stages + 2) shares of what the largest network has in stages, then all logarithms."""
        if self.parts is None or self._sizes is None:
            return np.empty((len(genes), 0))
        sizes = self.parts.weighted(genes, self._sizes)
        logs = np.log(np.maximum(sizes, 1e-6))
        return np.concatenate([sizes[:, :-2], logs], axis=1)


def _places(gene: Gene, shared: bool) -> list[tuple[str, str]]:
    """Where a gene adds to a column, for names, and the level of each: its own place and, if it is shared, above."""
    own = f"stage{gene.stage + 1}" if gene.stage is not None else "network"
    if gene.block is None:
        return [(own, "network" if gene.stage is None else "stage"), *([("all", "network")] if shared else [])]
    return [(f"{own}.block{gene.block + 1}", "block"), (own, "stage"), ("all", "network")]


def _sizes(parts: PartCounts | None) -> Columns | None:
    """Weights (n_parts, n_counts, n_sizes): multiply-accumulates of the stages and of the network, parameters."""
    if parts is None:
        return None
    stages = sorted({stage for stage in parts.stages if stage is not None})
    everywhere = [True] * len(parts.stages)
    of = [([s == stage for s in parts.stages], "macs") for stage in stages]
    of += [(everywhere, "macs"), (everywhere, "parameters")]
    weights = np.zeros((len(parts.stages), len(COUNTS), len(of)))
    for i, (mask, count) in enumerate(of):
        weights[mask, COUNTS.index(count), i] = 1.0
    return weights
