"""What is counted of a network as columns at three levels: the network, its stages, its blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from supernet.networks.counting import COUNTS
from supernet.space import Genes, SearchSpace

__all__ = ["CostTerms", "KnownCosts", "PartCounts"]

Columns = NDArray[np.float64]

_PRICED = ("widening", "narrowing", "depth-wise", "pooled", "other", "activations", "layers")


class PartCounts(Protocol):
    """What the parts of networks cost; `supernet.networks.counting.CostTable` is one."""

    @property
    def stages(self) -> Sequence[int | None]:
        """Per part the stage that it belongs to, if it does to one."""
        ...

    def counts(self, genes: Genes, /) -> NDArray[np.int64] | Columns:
        """(n_archs, n_parts, n_counts) as in `COUNTS`, of genes (n_archs, n_genes); 0 where a part is absent."""
        ...

    def weighted(self, genes: Genes, weights: Columns, /) -> Columns:
        """(n_archs,) the sum over parts and counts of the counts times weights (n_parts, n_counts); or several sums
        (n_archs, n_sums) with weights (n_parts, n_counts, n_sums)."""
        ...


class KnownCosts:
    """Counts out of functions, for networks of which there is no table: nothing is known of stages or kinds of layers.

    Args:
        space: the space of the genes.
        costs: by name as in `COUNTS`, "macs" among them: canonical genes to costs (n_archs, n_parts).

    Raises:
        ValueError: "macs" is missing, or there is something else.
    """

    def __init__(self, space: SearchSpace, costs: Mapping[str, Callable[[Genes], Columns]]) -> None:
        if "macs" not in costs or not costs.keys() <= set(COUNTS):
            raise ValueError(
                f"costs of {', '.join(costs) or 'nothing'}; want macs, and possibly {', '.join(COUNTS[1:])}"
            )
        self.space = space
        self.costs = dict(costs)
        self.stages: tuple[int | None, ...] = (None,) * self.counts(space.encode([space.largest])).shape[1]

    def counts(self, genes: Genes) -> Columns:
        """(n_archs, n_parts, n_counts); a part that costs anything is one layer."""
        genes = self.space.canonical(genes)
        found = {name: np.asarray(count(genes), dtype=float) for name, count in self.costs.items()}
        nothing = np.zeros_like(found["macs"])
        found = {"layers": (found["macs"] > 0).astype(float)} | found
        return np.stack([found.get(name, nothing) for name in COUNTS], axis=2)

    def weighted(self, genes: Genes, weights: Columns) -> Columns:
        """(n_archs,) or (n_archs, n_sums)."""
        return np.tensordot(self.counts(genes), weights, axes=2)


class CostTerms:
    """Costs at three levels, a group for every kind of cost at every level, and the resolution.

    A device asks a price for a MAC of every kind of layer, for a value written and for a launched layer; the prices
    differ a little from stage to stage and from block to block. So every kind of cost has one column for the network,
    one per stage and one per part, which a ridge shrinks by group.

    Args:
        space: the space of the genes.
        parts: what is counted of its networks.
    """

    def __init__(self, space: SearchSpace, parts: PartCounts) -> None:
        self.space = space
        self.parts = parts
        largest = _priced(parts.counts(space.encode([space.largest])))[0]
        probes = space.canonical(space.sample_genes(64, np.random.default_rng(0)))
        seen = _priced(parts.counts(probes))
        probes[:, 0] = 0
        of_one_size = _priced(parts.counts(probes))
        totals = largest.sum(axis=0)
        self._scale = np.where(totals > 0, totals, 1.0)
        varies = np.ptp(seen, axis=0) > 0
        elastic = np.ptp(of_one_size, axis=0) > 0  # a part that only the resolution changes is known by the totals
        stages = sorted({s for s in parts.stages if s is not None})
        of_stage = np.array([[s == stage for s in parts.stages] for stage in stages]).reshape(len(stages), len(largest))
        sums, names, groups = [], [], []
        for k, kind in enumerate(_PRICED):
            levels = [("network", ["network"], varies[:, k].any() * np.ones((1, len(largest))))]
            if len(stages) > 1:
                levels.append(("stage", [f"stage{s + 1}" for s in stages], of_stage * varies[:, k]))
            if len(largest) > 1:
                levels.append(("block", [f"part{p + 1}" for p in range(len(largest))], np.diag(elastic[:, k])))
            for level, places, which in levels:
                for place, mask in zip(places, which, strict=True):
                    if mask.any():
                        sums.append((k, np.asarray(mask, dtype=float)))
                        names.append(f"{place} {kind}")
                        groups.append(f"{level} {kind}")
        self._kinds = np.array([k for k, _ in sums], dtype=np.intp)
        self._sums = np.array([mask for _, mask in sums]).reshape(len(sums), len(largest)).T
        self._resolutions = _of_resolution(space)
        names += [f"resolution {i}" for i in range(self._resolutions.shape[1])]
        groups += ["resolution", "resolution", *["resolution alone"] * len(space.resolutions)][
            : self._resolutions.shape[1]
        ]
        self.names, self.groups = tuple(names), tuple(groups)
        text = json.dumps([space.to_dict(), list(self.groups), seen.tolist()], sort_keys=True)
        self.digest = hashlib.sha256(f"CostTerms {text}".encode()).hexdigest()[:16]

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features), costs as shares of what the largest network costs in all of that kind."""
        counts = _priced(self.parts.counts(genes)) / self._scale
        columns = np.empty((len(genes), len(self.names)))
        for k in range(len(_PRICED)):
            own = np.flatnonzero(self._kinds == k)
            columns[:, own] = counts[:, :, k] @ self._sums[:, own]
        columns[:, len(self._kinds) :] = self._resolutions[genes[:, 0]]
        return columns

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,): what the levels say of a cost is added up per part once, not for every architecture."""
        prices, of_resolution = self.prices(coefficients)
        return self.parts.weighted(genes, prices) + of_resolution[genes[:, 0]]

    def prices(self, coefficients: Columns) -> tuple[Columns, Columns]:
        """What one of every count of every part adds (n_parts, n_counts), and every resolution (n_resolutions,)."""
        n = len(self._kinds)
        prices = np.zeros((self._sums.shape[0], len(_PRICED)))
        for k in range(len(_PRICED)):
            own = self._kinds == k
            prices[:, k] = self._sums[:, own] @ coefficients[:n][own] / self._scale[k]
        return prices @ _MIXING, self._resolutions @ coefficients[n:]


def _mixing() -> Columns:
    """(n_priced, n_counts): what is priced as sums of what is counted; "other" are MACs of no named kind."""
    mixing = np.array([[float(count == kind) for count in COUNTS] for kind in _PRICED])
    other = _PRICED.index("other")
    mixing[other] = -mixing[:other].sum(axis=0)
    mixing[other, COUNTS.index("macs")] = 1.0
    return mixing


_MIXING = _mixing()


def _priced(counts: NDArray[np.int64] | Columns) -> Columns:
    """(n_archs, n_parts, n_priced) of counts (n_archs, n_parts, n_counts)."""
    return counts @ _MIXING.T


def _of_resolution(space: SearchSpace) -> Columns:
    """(n_resolutions, n_columns): side, area and, where there are more than two, each alone."""
    side = np.asarray(space.resolutions, dtype=float)[:, None] / space.resolutions[-1]
    if len(side) == 1:
        return np.empty((1, 0))
    alone = [np.eye(len(side))] if len(side) > 2 else []
    return np.concatenate([side, side**2, *alone], axis=1)
