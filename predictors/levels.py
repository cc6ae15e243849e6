"""How far every choice is up its scale, at three levels: what accuracy depends on, as few columns as that takes."""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from predictors.cost_terms import PartCounts
from supernet.networks.counting import COUNTS
from supernet.space import Gene, Genes, SearchSpace

__all__ = ["Levels"]

Columns = NDArray[np.float64]


class Levels:
    """A choice as a number from 0, the lowest, to 1, the highest: of every block, summed by stage, and by network.

    Each name of a gene (depth, kernel, expand, ...) is a group at each level; the resolution and the logarithms of the
    multiply-accumulates and of the parameters, with which accuracy grows, are groups of the network. Blocks that do not
    exist add nothing.

    Args:
        space: the space of the genes.
        parts: what is counted of its networks, if it is known.
    """

    def __init__(self, space: SearchSpace, parts: PartCounts | None = None) -> None:
        self.space = space
        self.parts = parts
        places = [i for i, gene in enumerate(space.genes) if len(gene.choices) > 1]
        sums: dict[tuple[str, str], list[int]] = {}
        for i in places:
            gene = space.genes[i]
            own = f"{gene.label} level"
            sums.setdefault((own, _level(gene)), []).append(i)
            if gene.stage is not None:
                if gene.block is not None:
                    sums.setdefault((f"stage{gene.stage + 1} {gene.name}", "stage"), []).append(i)
                sums.setdefault((f"all {gene.name}", "network"), []).append(i)
        self._sums = np.zeros((len(space.genes), len(sums)))
        for j, members in enumerate(sums.values()):
            self._sums[members, j] = 1.0
        names = [name for name, _ in sums]
        groups = [f"{level} {space.genes[members[0]].name}" for (_, level), members in sums.items()]
        logs = ["network log macs", "network log parameters"] if parts is not None else []
        self.names, self.groups = (*names, *logs), (*groups, *logs)
        # A function has no digest; what it says about some fixed architectures has.
        probes = space.canonical(space.sample_genes(16, np.random.default_rng(0)))
        seen = np.round(self._logs(probes), 6).tolist() if parts is not None else []
        text = json.dumps([space.to_dict(), seen], sort_keys=True)
        self.digest = hashlib.sha256(f"Levels {text}".encode()).hexdigest()[:16]

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features)."""
        up = genes / np.maximum(self.space.n_choices - 1, 1)
        columns = np.where(self.space.active(genes), up, 0.0) @ self._sums
        return columns if self.parts is None else np.concatenate([columns, self._logs(genes)], axis=1)

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes) @ coefficients

    def _logs(self, genes: Genes) -> Columns:
        """(n_archs, 2) logarithms of multiply-accumulates and parameters."""
        assert self.parts is not None
        which = np.zeros((len(self.parts.stages), len(COUNTS)))
        logs = []
        for count in ("macs", "parameters"):
            which[:] = 0.0
            which[:, COUNTS.index(count)] = 1.0
            logs.append(np.log(np.maximum(self.parts.weighted(genes, which), 1.0)))
        return np.stack(logs, axis=1)


def _level(gene: Gene) -> str:
    if gene.block is not None:
        return "block"
    return "network" if gene.stage is None else "stage"
