"""Search spaces: ordered choices, their genes, and everything that is counted, sampled or encoded with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture, Block, Number, Settings
from supernet.space.relation import Relation
from supernet.space.roles import ROLES
from supernet.space.stage import Choices, Gene, Genes, Stage, check_ascending, listing
from supernet.space.stage_codec import (
    Row,
    check_names,
    choice_index,
    decode_rows,
    encode_values,
    stage_reader,
    stage_writer,
)

__all__ = ["Gene", "Genes", "SearchSpace", "Stage"]

_T = TypeVar("_T")
_MOST_COMBINATIONS = 4_000_000  # of related genes that are enumerated for counting


@dataclass(frozen=True)
class SearchSpace:
    """Ordered choices for the input resolution, for the whole network (`settings`) and for every stage.

    Genes are an integer array (n_archs, n_genes) of indices into the choices, each of which ascends; the order is
    resolution, settings, then per stage depth, shared choices and the settings of every block position. A gene of a
    block that does not exist is *inactive*; in canonical form it is 0, and everything here returns the canonical form.
    """

    resolutions: tuple[int, ...]
    stages: tuple[Stage, ...]
    settings: Mapping[str, Choices] = field(default_factory=dict)
    relations: tuple[Relation, ...] = ()

    def __post_init__(self) -> None:
        for name, choices in (("resolution", self.resolutions), *self.settings.items()):
            check_ascending(name, choices)
        if not self.stages:
            raise ValueError("a search space needs at least one stage")
        known = {gene.label for gene in self.genes} if self.relations else set()
        for relation in self.relations:
            for label in relation.labels:
                if label not in known:
                    raise ValueError(
                        f"relation {relation}: no gene is named {label!r}; there are stage1.depth and the like"
                    )
        if self.relations and self._conditions:
            raise ValueError("relations do not go with settings that exist only with others; give one or the other")
        ends = np.stack([np.zeros_like(self.n_choices), self.n_choices - 1])
        if broken := self._broken(ends):
            raise ValueError(f"the smallest and the largest architecture must hold every relation; {broken} fails")

    # -- what there is ------------------------------------------------------------------------------------------------

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        """Every gene, in the order of the columns."""
        genes = [Gene("resolution", self.resolutions)]
        genes += [Gene(name, choices) for name, choices in self.settings.items()]
        for s, stage in enumerate(self.stages):
            genes.append(Gene("depth", stage.depths, s))
            genes += [Gene(name, choices, s) for name, choices in stage.shared.items()]
            for b, block in enumerate(stage.blocks):
                genes += [Gene(name, choices, s, b) for name, choices in block.items()]
        return tuple(genes)

    @cached_property
    def n_choices(self) -> Genes:
        """(n_genes,) number of choices of each gene."""
        return np.array([len(gene.choices) for gene in self.genes], dtype=np.int64)

    @cached_property
    def size(self) -> int:
        """Number of distinct architectures, an exact integer."""
        if self.relations:
            return self._size_with_relations()
        network = len(self.resolutions) * math.prod(len(choices) for choices in self.settings.values())
        return network * math.prod(stage.size for stage in self.stages)

    @cached_property
    def smallest(self) -> Architecture:
        """The architecture of the lowest choice everywhere."""
        return self.decode(np.zeros((1, len(self.genes)), dtype=np.int64))[0]

    @cached_property
    def largest(self) -> Architecture:
        """The architecture of the highest choice everywhere."""
        return self.decode(self.n_choices[None] - 1)[0]

    def __contains__(self, arch: object) -> bool:
        if not isinstance(arch, Architecture):
            return False
        try:
            self.encode([arch])
        except ValueError:
            return False
        return True

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)  # without the caches, which do not travel

    def __iter__(self) -> Iterator[Architecture]:
        """Every architecture once; meant for small spaces."""
        network = itertools.product(*(range(len(gene.choices)) for gene in self.genes[: self._network_genes]))
        stages = [list(_stage_rows(stage)) for stage in self.stages]
        for rows in itertools.product(network, *stages):
            genes = np.array([sum(rows, ())], dtype=np.int64)
            if self.holds(genes).all():
                yield self.decode(genes)[0]

    def __str__(self) -> str:
        lines = [f"search space of {self.size:.4g} architectures, {len(self.genes)} genes"]
        lines.append(f"  resolution {listing(self.resolutions)}")
        lines += [f"  {name} {listing(choices)}" for name, choices in self.settings.items()]
        for s, stage in enumerate(self.stages):
            shared = "".join(f", one {name} {listing(choices)}" for name, choices in stage.shared.items())
            lines.append(f"  stage {s + 1}: depth {listing(stage.depths)}{shared}")
            for (first, last), block in _runs(stage.blocks):
                which = f"block {first + 1}" if first == last else f"blocks {first + 1} to {last + 1}"
                choices = ", ".join(f"{name} {listing(choices)}" for name, choices in block.items())
                lines.append(f"    {which}: {choices or 'fixed'}")
        lines += [f"  where {relation}" for relation in self.relations]
        return "\n".join(lines)

    # -- encoding -----------------------------------------------------------------------------------------------------

    def decode(self, genes: Genes) -> list[Architecture]:
        """Architectures of genes (n_archs, n_genes), which need not be canonical.

        Raises:
            ValueError: wrong number of columns, an index outside the choices, or a relation that does not hold.
        """
        genes = self.canonical(genes)
        if broken := self._broken(genes):
            raise ValueError(f"genes do not hold {broken}; `holds` tells which rows do")
        return self._decode(genes)

    def _decode(self, genes: Genes) -> list[Architecture]:
        network = decode_rows(genes[:, : self._network_genes], self._network_values)
        stages = [
            decode_rows(genes[:, columns], read)
            for columns, read in zip(self._stage_columns, self._stage_readers, strict=True)
        ]
        return [
            Architecture(resolution, blocks, settings)
            for (resolution, settings), blocks in zip(network, zip(*stages, strict=True), strict=True)
        ]

    def encode(self, archs: Sequence[Architecture]) -> Genes:
        """Canonical genes (n_archs, n_genes).

        Raises:
            ValueError: an architecture is not in this space; the message names the first value that is not a choice.
        """
        genes = np.zeros((len(archs), len(self.genes)), dtype=np.int64)
        if not archs:
            return genes
        for arch in archs:
            if len(arch.stages) != len(self.stages):
                raise ValueError(f"architecture of {len(arch.stages)} stages; this space has {len(self.stages)}")
        network = [(arch.resolution, arch.settings) for arch in archs]
        genes[:, : self._network_genes] = encode_values(network, network, lambda key: self._encode_network(*key))
        # Architectures that came out of `decode` share equal stages as one object: write each object once.
        stages = zip(*(arch.stages for arch in archs), strict=True)
        for write, columns, stage in zip(self._stage_writers, self._stage_columns, stages, strict=True):
            genes[:, columns] = encode_values(stage, list(map(id, stage)), write)
        if broken := self._broken(genes):
            raise ValueError(f"an architecture does not hold {broken}, so it is not in this space")
        return genes

    def holds(self, genes: Genes) -> NDArray[np.bool_]:
        """(n_archs,) whether every relation of the space holds."""
        mask = np.ones(len(genes), dtype=bool)
        if self.relations:
            columns = dict(zip((gene.label for gene in self.genes), self.values(genes).T, strict=True))
            for relation in self.relations:
                mask &= relation.holds(columns)
        return mask

    def depths(self, genes: Genes) -> Genes:
        """(n_archs, n_stages) number of blocks."""
        pairs = zip(self.stages, self._stage_columns, strict=True)
        return np.stack([np.asarray(stage.depths)[genes[:, c.start]] for stage, c in pairs], axis=1)

    def active(self, genes: Genes) -> NDArray[np.bool_]:
        """(n_archs, n_genes): which genes mean something, given the depths."""
        depths = self.depths(genes)
        mask = np.ones(genes.shape, dtype=bool)
        for s, columns in enumerate(self._stage_columns):
            start = columns.start + 1
            shared = len(self.stages[s].shared)
            mask[:, start : start + shared] = depths[:, s, None] > 0
            mask[:, start + shared : columns.stop] = (
                self._block_of_gene[start + shared : columns.stop] < depths[:, s, None]
            )
        for gene, other, allowed in self._conditions:
            mask[:, gene] &= mask[:, other] & allowed[genes[:, other]]
        return mask

    def canonical(self, genes: Genes) -> Genes:
        """The same architectures with every inactive gene at 0; a new array (n_archs, n_genes).

        Raises:
            ValueError: wrong number of columns, or an index outside the choices.
        """
        genes = np.asarray(genes, dtype=np.int64)
        if genes.ndim != 2 or genes.shape[1] != len(self.genes):
            raise ValueError(f"genes of shape {genes.shape}; this space has (n_archs, {len(self.genes)})")
        wrong = (genes < 0) | (genes >= self.n_choices)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            gene = self.genes[column]
            raise ValueError(
                f"gene {gene.label} = {genes[row, column]} in row {row}; it indexes {len(gene.choices)} choices"
            )
        return np.where(self.active(genes), genes, 0)

    def with_gene(self, row: Genes, gene: int) -> Genes:
        """A copy of a row (n_genes,) in which what a gene hangs on, but the depth, is so that it exists."""
        row = np.array(row)
        on = {child: (other, allowed) for child, other, allowed in self._conditions}
        while gene in on:
            gene, allowed = on[gene]
            if not allowed[row[gene]]:
                row[gene] = np.argmax(allowed)
        return row

    def values(self, genes: Genes) -> NDArray[np.float64]:
        """(n_archs, n_genes) the chosen values themselves; NaN where a gene is inactive."""
        values = np.stack([np.asarray(g.choices, dtype=float)[genes[:, i]] for i, g in enumerate(self.genes)], axis=1)
        return np.where(self.active(genes), values, np.nan)

    # -- sampling -----------------------------------------------------------------------------------------------------

    def sample_genes(
        self, n: int, rng: np.random.Generator, uniform: Literal["genes", "architectures"] = "genes"
    ) -> Genes:
        """Canonical genes (n, n_genes), drawn with replacement.

        ``uniform="genes"`` draws every choice alike, as once-for-all training does (Cai et al. 2020), so shallow
        architectures are over-represented; ``"architectures"`` gives every architecture the same probability, exactly,
        by counting how many each depth has. What does not hold the relations is drawn again.

        Raises:
            ValueError: hardly any draw holds the relations.
        """
        if not self.relations:
            return self._draw(n, rng, uniform)
        found, drawn = [np.zeros((0, len(self.genes)), dtype=np.int64)], 0
        while (missing := n - sum(map(len, found))) > 0:
            draw = self._draw(max(256, 2 * missing), rng, uniform)
            drawn += len(draw)
            found.append(draw[self.holds(draw)])
            if drawn > 10**6 + 10**4 * sum(map(len, found)):
                raise ValueError(f"of {drawn} architectures {sum(map(len, found))} hold the relations; loosen them")
        return np.concatenate(found)[:n]

    def _draw(self, n: int, rng: np.random.Generator, uniform: str) -> Genes:
        genes = rng.integers(0, self.n_choices, size=(n, len(self.genes)))
        if uniform == "architectures":
            for stage, columns in zip(self.stages, self._stage_columns, strict=True):
                sizes = np.array([size / stage.size for size in stage.sizes_per_depth])
                genes[:, columns.start] = rng.choice(len(sizes), size=n, p=sizes / sizes.sum())
            for gene, ways in self._ways.items():  # of what others depend on, each by how many depend on it
                genes[:, gene] = rng.choice(len(ways), size=n, p=ways)
        return np.where(self.active(genes), genes, 0)

    def sample(
        self, n: int, rng: np.random.Generator, uniform: Literal["genes", "architectures"] = "genes"
    ) -> list[Architecture]:
        """`n` architectures drawn with replacement; see `sample_genes`."""
        return self._decode(self.sample_genes(n, rng, uniform))

    # -- making other spaces ------------------------------------------------------------------------------------------

    def restrict(self, **choices: Sequence[Number]) -> SearchSpace:
        """The sub-space in which the named genes keep only the given choices: ``restrict(depth=(4,), kernel=(5, 7))``.

        Names are ``resolution``, ``depth``, any setting, or a role (`supernet.space.roles`), which means all names that
        have it: ``restrict(middle_width=(3, 4))``. Wherever a name occurs it keeps those of its choices that are given.

        Raises:
            ValueError: an unknown name, a value that is nowhere a choice, or a gene left without any choice.
        """
        names = list(dict.fromkeys(gene.name for gene in self.genes))
        wanted: dict[str, Sequence[Number]] = {}
        for given, values in choices.items():
            meant = [given] if given in names else [name for name in names if ROLES.get(name) == given]
            if not meant:
                raise ValueError(f"no choice is named {given!r}; there are {', '.join(names)}")
            possible = sorted({choice for gene in self.genes if gene.name in meant for choice in gene.choices})
            for value in values:
                if value not in possible:
                    raise ValueError(f"{given} {value} is not a choice; possible are {listing(possible)}")
            wanted |= dict.fromkeys(meant, values)

        def keep(name: str, values: Choices) -> Choices:
            kept = tuple(value for value in values if name not in wanted or value in wanted[name])
            if not kept:
                raise ValueError(f"{name} {listing(wanted[name])} leaves nothing of {listing(values)}")
            return kept

        return self.narrowed(keep)

    def narrowed(self, keep: Callable[[str, Choices], Choices]) -> SearchSpace:
        """The sub-space of what `keep` leaves of every choice, given its name, in the order of `genes`."""
        resolutions = tuple(int(r) for r in keep("resolution", self.resolutions))
        settings = {name: keep(name, choices) for name, choices in self.settings.items()}
        kept = SearchSpace(resolutions, tuple(stage.narrowed(keep) for stage in self.stages), settings)
        labels = {gene.label for gene in kept.genes}
        # A relation to a gene of a block that no architecture has any more holds always.
        return replace(kept, relations=tuple(r for r in self.relations if labels.issuperset(r.labels)))

    def partition(self, by: Callable[[Genes], NDArray[np.float64] | Genes], k: int) -> tuple[SearchSpace, ...]:
        """`k` compact sub-spaces by cost, such as ``space.partition(by=supernet.macs, k=3)``; see `space.partition`."""
        from supernet.space.partition import partition  # which is made of spaces itself

        return partition(self, by, k)

    def __mul__(self, other: SearchSpace) -> SearchSpace:
        """The product: every architecture of this space followed by the stages of every one of `other`.

        Raises:
            ValueError: the resolutions differ, or a setting of the whole network is in both.
        """
        if self.resolutions != other.resolutions:
            ours, theirs = listing(self.resolutions), listing(other.resolutions)
            raise ValueError(f"spaces of different resolutions, {ours} and {theirs}; restrict them to the same")
        if both := sorted(self.settings.keys() & other.settings.keys()):
            raise ValueError(f"{', '.join(both)} is a setting of both spaces")
        moved = tuple(relation.moved(len(self.stages)) for relation in other.relations)
        return replace(
            self,
            stages=self.stages + other.stages,
            settings={**self.settings, **other.settings},
            relations=self.relations + moved,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **({"relations": [str(relation) for relation in self.relations]} if self.relations else {}),
            "resolutions": list(self.resolutions),
            "settings": {name: list(choices) for name, choices in self.settings.items()},
            "stages": [
                {
                    "depths": list(stage.depths),
                    "shared": {name: list(choices) for name, choices in stage.shared.items()},
                    "blocks": [{name: list(choices) for name, choices in block.items()} for block in stage.blocks],
                    **({"when": {n: [o, list(v)] for n, (o, v) in stage.when.items()}} if stage.when else {}),
                }
                for stage in self.stages
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: something is missing or is not of the form that `to_dict` writes.
        """
        try:
            stages = tuple(
                Stage(
                    tuple(s["depths"]),
                    tuple(_tuples(block) for block in s["blocks"]),
                    _tuples(s["shared"]),
                    {name: (other, tuple(values)) for name, (other, values) in s.get("when", {}).items()},
                )
                for s in data["stages"]
            )
            relations = tuple(map(Relation.parse, data.get("relations", ())))
            return cls(tuple(data["resolutions"]), stages, _tuples(data["settings"]), relations)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a search space: {str(data)[:80]!r} ({error})") from error

    # -- inside -------------------------------------------------------------------------------------------------------

    def _broken(self, genes: Genes) -> Relation | None:
        """The first relation that does not hold for some row."""
        if self.holds(genes).all():
            return None
        columns = dict(zip((gene.label for gene in self.genes), self.values(genes).T, strict=True))
        return next(relation for relation in self.relations if not relation.holds(columns).all())

    def _size_with_relations(self) -> int:
        """Enumerates the genes that relations are about, and the depths they depend on; the others only multiply."""
        labels = {label for relation in self.relations for label in relation.labels}
        stages = {gene.stage for gene in self.genes if gene.label in labels and gene.stage is not None}
        related = [
            i
            for i, gene in enumerate(self.genes)
            if gene.label in labels or (gene.name == "depth" and gene.stage in stages)
        ]
        n_combinations = math.prod(int(self.n_choices[i]) for i in related)
        if n_combinations > _MOST_COMBINATIONS:
            raise ValueError(f"relations tie {n_combinations:,} combinations together; more than can be counted")
        combinations = np.array(list(itertools.product(*(range(self.n_choices[i]) for i in related))), dtype=np.int64)
        genes = np.zeros((len(combinations), len(self.genes)), dtype=np.int64)
        genes[:, related] = combinations
        valid = genes[self.holds(genes) & (genes == np.where(self.active(genes), genes, 0)).all(axis=1)]
        free = [i for i in range(self._network_genes) if i not in related]
        size = 0
        for row, count in zip(*np.unique(self.depths(valid), axis=0, return_counts=True), strict=True):
            ways = int(count) * math.prod(int(self.n_choices[i]) for i in free)
            for s, (stage, columns) in enumerate(zip(self.stages, self._stage_columns, strict=True)):
                if s not in stages:
                    ways *= stage.size
                    continue
                open_genes = [i for i in range(columns.start + 1, columns.stop) if i not in related]
                ways *= math.prod(int(self.n_choices[i]) for i in open_genes if self._block_of_gene[i] < row[s])
            size += ways
        return size

    @property
    def _network_genes(self) -> int:
        return 1 + len(self.settings)

    @cached_property
    def _stage_columns(self) -> list[slice]:
        columns, start = [], self._network_genes
        for stage in self.stages:
            stop = start + 1 + len(stage.shared) + sum(len(block) for block in stage.blocks)
            columns.append(slice(start, stop))
            start = stop
        return columns

    @cached_property
    def _block_of_gene(self) -> Genes:
        return np.array([-1 if gene.block is None else gene.block for gene in self.genes], dtype=np.int64)

    @cached_property
    def _conditions(self) -> list[tuple[int, int, NDArray[np.bool_]]]:
        """Genes that exist only with others: their column, that of the other, and for each of its choices whether."""
        columns = {gene.label: i for i, gene in enumerate(self.genes)}
        found = []
        for i, gene in enumerate(self.genes):
            condition = (
                None if gene.block is None or gene.stage is None else self.stages[gene.stage].when.get(gene.name)
            )
            if condition is not None:
                other = columns[replace(gene, name=condition[0]).label]
                found.append((i, other, np.array([value in condition[1] for value in self.genes[other].choices])))
        return found

    @cached_property
    def _ways(self) -> dict[int, NDArray[np.float64]]:
        """Per column that others depend on, the share of the settings that each of its choices has."""
        found = {}
        for other in {other for _, other, _ in self._conditions}:
            gene = self.genes[other]
            assert gene.stage is not None and gene.block is not None
            stage = self.stages[gene.stage]
            ways = np.array(stage.ways_of_choices(stage.blocks[gene.block], gene.name), dtype=float)
            found[other] = ways / ways.sum()
        return found

    def _network_values(self, row: Row) -> tuple[int, Settings]:
        settings = {name: choices[i] for (name, choices), i in zip(self.settings.items(), row[1:], strict=True)}
        return self.resolutions[row[0]], Settings(**settings)

    @cached_property
    def _stage_readers(self) -> list[Callable[[Row], tuple[Block, ...]]]:
        return [stage_reader(stage) for stage in self.stages]

    @cached_property
    def _stage_writers(self) -> list[Callable[[tuple[Block, ...]], list[int]]]:
        return [stage_writer(stage, self.genes[c]) for stage, c in zip(self.stages, self._stage_columns, strict=True)]

    def _encode_network(self, resolution: int, settings: Settings) -> list[int]:
        check_names(settings, self.settings, "the network")
        values = [resolution, *(settings[name] for name in self.settings)]
        return [choice_index(gene, value) for gene, value in zip(self.genes, values, strict=False)]


def _stage_rows(stage: Stage) -> Iterator[tuple[int, ...]]:
    width = sum(len(block) for block in stage.blocks)
    for d, depth in enumerate(stage.depths):
        shared = [[(i,) for i in range(len(choices) if depth else 1)] for choices in stage.shared.values()]
        for parts in itertools.product(*shared, *(_block_rows(stage, block) for block in stage.blocks[:depth])):
            row = sum(parts, (d,))
            yield row + (0,) * (1 + len(stage.shared) + width - len(row))


def _block_rows(stage: Stage, block: Mapping[str, Choices]) -> list[tuple[int, ...]]:
    """Every setting of a block once, as indices."""
    rows: list[tuple[tuple[int, ...], dict[str, Number]]] = [((), {})]
    for name, choices in block.items():
        longer = []
        for row, values in rows:
            if stage.exists(name, values):
                longer += [((*row, i), {**values, name: value}) for i, value in enumerate(choices)]
            else:
                longer.append(((*row, 0), values))
        rows = longer
    return [row for row, _ in rows]


def _tuples(mapping: Mapping[str, Sequence[Number]]) -> dict[str, Choices]:
    return {name: tuple(choices) for name, choices in mapping.items()}


def _runs(items: Sequence[_T]) -> Iterator[tuple[tuple[int, int], _T]]:
    """Runs of equal neighbours as ((first, last), item)."""
    first = 0
    for i in range(1, len(items) + 1):
        if i == len(items) or items[i] != items[first]:
            yield (first, i - 1), items[first]
            first = i
