"""Exact fronts of models that are sums over stages: merged, not searched, over spaces of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from search.front import Values, non_dominated
from search.objectives import Objective
from supernet.space import Genes, SearchSpace

__all__ = ["Best", "Halves", "Points", "StageSums", "is_sum", "merge_fronts"]

_MOST_ROWS = 300_000  # settings of one stage that are enumerated
_MOST_NETWORKS = 1_000  # combinations of resolution and settings of the whole network
_PAIRS = 2_000_000  # sums that are compared at a time
_PROBES = 256  # random architectures on which a model must be the sum of its stages
_TOLERANCE = 1e-6  # of the spread of a model's values: what rounding may do to a sum


@dataclass(frozen=True)
class Points:
    """Architectures, genes (n, n_genes), and their losses (n, n_objectives), smaller is better; no two are equal."""

    genes: Genes
    losses: Values

    def __len__(self) -> int:
        return len(self.genes)


@dataclass(frozen=True)
class Best:
    """The architecture of the smallest first loss within a limit of the second, and a proof of how good any can be."""

    genes: Genes
    """(n_genes,)."""
    losses: Values
    """(2,)."""
    bound: float
    """No architecture within the limit has a first loss below it: Lagrangian duality over stages (Everett 1963), which
    does not use the merging. What `losses` is above it is the duality gap, an upper bound of any error."""


@dataclass(frozen=True)
class _Network:
    """One resolution and one combination of settings: losses are `offset` and a row of every stage's table, summed."""

    offset: Values  # (n_objectives,)
    rows: tuple[Genes, ...]  # per stage (n_rows, n_genes), all other genes 0
    losses: tuple[Values, ...]  # per stage (n_rows, n_objectives)


class StageSums:
    """Objectives that are sums over stages, given the resolution and the settings of the network, as tables.

    Multiply-accumulates, parameters, tables of blocks and linear models of blocks are such sums; so is every monotone
    function of one, by its argument. The tables hold no row that another row of its stage dominates, since no member of
    a front has one: exchanging it would be better. Merging stage by stage with what is dominated left out then gives
    the front of the whole space (Nemhauser & Ullmann 1969, for the knapsack problem), exactly.

    Args:
        space: where relations are about the genes of one stage, the resolution and settings of the network alone.
        networks: made by `of`.
    """

    def __init__(self, space: SearchSpace, networks: Sequence[_Network]) -> None:
        self.space = space
        self._networks = tuple(networks)

    @classmethod
    def of(cls, space: SearchSpace, objectives: Sequence[Objective], seed: int = 0) -> Self:
        """The tables of any objectives, by evaluating every setting of every stage once per setting of the network.

        Whether an objective is a sum over stages is tested on random architectures, which `seed` decides: a model that
        is one gives their values to a millionth of their spread.

        Raises:
            ValueError: an objective that is no such sum, relations between stages, or a space with too many settings
                of a stage or of the network to enumerate.
        """
        _check(space)
        base = np.zeros((1, len(space.genes)), dtype=np.int64)
        networks = []
        for network in _enumerate([len(gene.choices) for gene in space.genes if gene.stage is None]):
            start = base.copy()
            start[0, : len(network)] = network
            offset = _losses(objectives, start)[0]
            rows, losses = [], []
            for stage in range(len(space.stages)):
                own = _stage_rows(space, stage)
                whole = own + start
                held = space.holds(whole)
                own, values = own[held], _losses(objectives, whole[held]) - offset
                kept = _distinct_front(values)
                rows.append(own[kept])
                losses.append(values[kept])
            if all(map(len, rows)):
                rows[0] = rows[0] + start  # so that sums of rows are whole architectures
                networks.append(_Network(offset, tuple(rows), tuple(losses)))
        sums = cls(space, networks)
        _check_sums(space, objectives, seed)
        return sums

    def front(self) -> Points:
        """The Pareto front over the whole space, one architecture per point, ordered by the first loss."""
        found = []
        for network in self._networks:
            merged = merge_fronts(list(zip(network.rows, network.losses, strict=True)))
            found.append((merged[0], merged[1] + network.offset))
        genes, losses = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = _distinct_front(losses)
        return Points(genes[kept], losses[kept])

    def halves(self) -> Halves:
        """Prepared for many limits."""
        return Halves(self._networks)

    def envelope(self) -> Values:
        """(n, 2) corners, ordered by the second loss, of a convex line below which no architecture lies.

        Its height at a limit of the second loss bounds the first one, by duality as in `Best.bound`: a little lower
        where there are several resolutions or settings of the network, since it is one line for all of them.
        """
        corners = np.concatenate([_envelope(network) for network in self._networks])
        return np.array(_hull(corners[_distinct_front(corners)][::-1]))

    def best(self, limit: float) -> Best:
        """What is best on the first of two objectives while the second one's loss is at most `limit`.

        Raises:
            ValueError: another number of objectives, or a limit that no architecture keeps.
        """
        return self.halves().best(limit)


class Halves:
    """The stages merged into two: any limit is then a look-up per member of one of them."""

    def __init__(self, networks: Sequence[_Network]) -> None:
        if networks and len(networks[0].offset) != 2:
            raise ValueError(f"{len(networks[0].offset)} objectives; a limit is a look-up for two: what, within what")
        self._parts = []
        for network in networks:
            tables = list(zip(network.rows, network.losses, strict=True))
            middle = max(len(tables) // 2, 1)
            left = merge_fronts(tables[:middle])
            nothing = np.zeros_like(left[0][:1]), np.zeros((1, 2))
            right = merge_fronts(tables[middle:]) if tables[middle:] else nothing
            self._parts.append((network.offset, left, right, _envelope(network)))

    def best(self, limit: float) -> Best:
        """See `StageSums.best`."""
        found: list[tuple[Values, Genes]] = []
        bounds, least = [], []
        for offset, (left_genes, left), (right_genes, right), envelope in self._parts:
            room = limit - offset[1] - left[:, 1]
            least.append(envelope[0, 1])
            # Along a front the first loss ascends and the second descends: the first row that fits is the best one.
            place = np.searchsorted(-right[:, 1], -room, side="left")
            fits = np.flatnonzero(place < len(right))
            if len(fits) == 0:
                continue
            firsts = left[fits, 0] + right[place[fits], 0]
            one = fits[np.argmin(firsts)]
            both = left[one] + right[place[one]] + offset
            found.append((both, left_genes[one] + right_genes[place[one]]))
            bounds.append(float(np.interp(limit, envelope[:, 1], envelope[:, 0])))
        if not found:
            raise ValueError(f"no architecture keeps the limit {limit:g}; the least there is is {min(least):g}")
        losses, genes = min(found, key=lambda pair: tuple(pair[0]))
        return Best(genes, losses, min(bounds))


def merge_fronts(tables: list[tuple[Genes, Values]]) -> tuple[Genes, Values]:
    """The front of sums of one row of each table, ordered by the first loss.

    Args:
        tables: of each part genes (n_rows, n_genes), 0 where they are those of another part, and losses
            (n_rows, n_objectives).
    """
    genes, losses = tables[0]
    for rows, values in tables[1:]:
        genes, losses = _merge(genes, losses, rows, values)
    return genes, losses


def _merge(genes: Genes, losses: Values, rows: Genes, values: Values) -> tuple[Genes, Values]:
    """Two fronts whose genes do not overlap into one; as many sums at a time as memory easily holds."""
    places, kept = np.empty(0, dtype=np.int64), np.empty((0, losses.shape[1]))
    step = max(_PAIRS // len(rows), 1)
    for first in range(0, len(losses), step):
        sums = (losses[first : first + step, None] + values).reshape(-1, losses.shape[1])
        kept = np.concatenate([kept, sums])
        places = np.concatenate([places, np.arange(len(sums)) + first * len(rows)])
        front = _distinct_front(kept)
        kept, places = kept[front], places[front]
    left, right = np.divmod(places, len(rows))
    return genes[left] + rows[right], kept


def _distinct_front(losses: Values) -> Genes:
    """Rows (n,) of the front, one of equal ones, ordered by the first loss."""
    rows = np.arange(len(losses))
    if losses.shape[1] == 2:  # most rows fall to one sort of numbers, several times as fast as one of rows
        rows = np.argsort(losses[:, 0])
        lowest = np.minimum.accumulate(losses[rows, 1])
        rows = rows[np.concatenate([[True], losses[rows[1:], 1] < lowest[:-1]])] if len(rows) else rows
    rows = rows[non_dominated(losses[rows])]
    _, first = np.unique(losses[rows], axis=0, return_index=True)
    return rows[first]


def _envelope(network: _Network) -> Values:
    """(n, 2) corners, ordered by the second loss, of the lower convex envelope of the sums of stages.

    The envelope of a sum is the sum of the envelopes: their edges in the order of their slopes. Its height at a limit
    is the Lagrangian bound, the largest that a price of the second loss gives.
    """
    start, edges = network.offset.copy(), []
    for table in network.losses:
        hull = _hull(table[::-1])
        start += hull[0]
        edges.append(np.diff(np.array(hull), axis=0))
    steps = np.concatenate(edges)
    steps = steps[np.argsort(steps[:, 0] / steps[:, 1], kind="stable")]
    return np.concatenate([start[None], start + np.cumsum(steps, axis=0)])


def _hull(points: Values) -> list[Values]:
    """The corners of the lower convex envelope of points (n, 2) whose second loss ascends while the first descends."""
    hull: list[Values] = []
    for point in points:
        while len(hull) > 1 and _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _turns_up(first: Values, middle: Values, last: Values) -> bool:
    """Whether `middle` lies on or above the line between its neighbours."""
    along = (middle[1] - first[1]) * (last[0] - first[0])
    return bool((middle[0] - first[0]) * (last[1] - first[1]) >= along)


def _enumerate(sizes: Sequence[int]) -> Genes:
    """(n, n_genes) all combinations of choices of genes that have so many."""
    return np.indices(tuple(sizes)).reshape(len(sizes), -1).T


def _stage_rows(space: SearchSpace, s: int) -> Genes:
    """(n_rows, n_genes) every canonical setting of a stage; the genes of others are 0."""
    own = [i for i, gene in enumerate(space.genes) if gene.stage == s]
    parts = []
    for d, depth in enumerate(space.stages[s].depths):
        there = [i for i in own[1:] if depth > (space.genes[i].block or 0)]
        choices = _enumerate([len(space.genes[i].choices) for i in there]) if there else np.zeros((1, 0), np.int64)
        rows = np.zeros((len(choices), len(space.genes)), dtype=np.int64)
        rows[:, own[0]] = d
        rows[:, there] = choices
        parts.append(rows[(space.canonical(rows) == rows).all(axis=1)])  # each once, where settings depend on others
    return np.concatenate(parts)


def _losses(objectives: Sequence[Objective], genes: Genes) -> Values:
    return np.stack([objective.loss(objective.values(genes)) for objective in objectives], axis=1)


def _check(space: SearchSpace) -> None:
    for relation in space.relations:
        stages = {gene.stage for gene in space.genes if gene.label in relation.labels} - {None}
        if len(stages) > 1:
            raise ValueError(f"relation {relation} ties stages to each other, which are merged as if they were free")
    networks = int(np.prod([len(gene.choices) for gene in space.genes if gene.stage is None], dtype=object))
    if networks > _MOST_NETWORKS:
        raise ValueError(f"{networks:,} settings of the whole network; up to {_MOST_NETWORKS:,} are looped over")
    for s, stage in enumerate(space.stages):
        if stage.size > _MOST_ROWS:
            raise ValueError(f"stage {s + 1} has {stage.size:,} settings; up to {_MOST_ROWS:,} are enumerated")


def is_sum(space: SearchSpace, objective: Objective, seed: int = 0) -> bool:
    """Whether an objective is a sum over stages for `StageSums`, by random architectures: a few hundred calls."""
    return bool(_off_sums(space, [objective], seed)[0] <= _TOLERANCE)


def _check_sums(space: SearchSpace, objectives: Sequence[Objective], seed: int) -> None:
    """ValueError where architectures are not the sums of their stages."""
    for objective, error in zip(objectives, _off_sums(space, objectives, seed), strict=True):
        if error > _TOLERANCE:
            raise ValueError(
                f"{objective.name} is no sum over stages: architectures are off by {error:.1%} of its spread; give it "
                "on a scale on which it is one, or search"
            )


def _off_sums(space: SearchSpace, objectives: Sequence[Objective], seed: int) -> Values:
    """(n_objectives,) how far architectures are from the sums of their stages, as shares of the spread of the values.

    Of the values with some stages as in the architecture and the others at 0, only a sum has f(all) - f(none) equal to
    the sum of f(one) - f(none).
    """
    whole = space.sample_genes(_PROBES, np.random.default_rng(seed))
    of_stage = [np.array([gene.stage == s for gene in space.genes]) for s in range(len(space.stages))]
    network = np.array([gene.stage is None for gene in space.genes])
    nothing = _losses(objectives, np.where(network, whole, 0))
    sums = nothing + sum(_losses(objectives, np.where(network | own, whole, 0)) - nothing for own in of_stage)
    values = _losses(objectives, whole)
    return np.abs(values - sums).max(axis=0) / np.maximum(np.ptp(values, axis=0), np.abs(values).max(axis=0) * 1e-9)
