"""Search spaces: ordered choices, their genes, and everything that is counted, sampled or encoded with them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any, Literal, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture, Block, Number, Settings

__all__ = ["Gene", "Genes", "SearchSpace", "Stage"]

Genes = NDArray[np.int64]
Choices = tuple[Number, ...]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Gene:
    """One decision: an index into `choices`. `stage` and `block` say where it belongs (None: to the whole network)."""

    name: str
    choices: Choices
    stage: int | None = None
    block: int | None = None

    @property
    def label(self) -> str:
        """A unique readable name, such as ``stage2.block1.kernel`` (positions count from 1)."""
        place = "" if self.stage is None else f"stage{self.stage + 1}."
        return place + ("" if self.block is None else f"block{self.block + 1}.") + self.name


@dataclass(frozen=True)
class Stage:
    """A run of blocks: how many of them exist, and what can be chosen for each.

    `blocks` has one mapping (setting name to choices) for every block position; a block exists while its position is
    below the chosen depth. `shared` choices are made once and hold for every block of the stage.
    """

    depths: tuple[int, ...]
    blocks: tuple[Mapping[str, Choices], ...]
    shared: Mapping[str, Choices] = field(default_factory=dict)

    @classmethod
    def uniform(cls, depths: Sequence[int], **choices: Sequence[Number]) -> Self:
        """A stage whose block positions all have the same choices."""
        ordered = {name: tuple(sorted(values)) for name, values in choices.items()}
        return cls(tuple(sorted(depths)), (ordered,) * max(depths, default=0))

    def __post_init__(self) -> None:
        if not self.depths or min(self.depths) < 0 or max(self.depths) != len(self.blocks):
            raise ValueError(
                f"depths {self.depths} do not fit {len(self.blocks)} blocks: the largest depth must be "
                "the number of block positions and none may be negative"
            )
        if sum(self.depths) == 0:
            raise ValueError("a stage needs at least one depth above 0")
        for name, choices in (
            ("depth", self.depths),
            *self.shared.items(),
            *(item for block in self.blocks for item in block.items()),
        ):
            _check_choices(name, choices)

    @property
    def size(self) -> int:
        """Number of distinct settings of the stage, an exact integer."""
        return sum(self._sizes_per_depth)

    @property
    def _sizes_per_depth(self) -> list[int]:
        shared = math.prod(len(choices) for choices in self.shared.values())
        per_block = [math.prod(len(choices) for choices in block.values()) for block in self.blocks]
        # Without any block there is nothing the shared choices could tell apart.
        return [(shared if depth else 1) * math.prod(per_block[:depth]) for depth in self.depths]


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

    def __post_init__(self) -> None:
        for name, choices in (("resolution", self.resolutions), *self.settings.items()):
            _check_choices(name, choices)
        if not self.stages:
            raise ValueError("a search space needs at least one stage")

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
            yield self.decode(np.array([sum(rows, ())], dtype=np.int64))[0]

    def __str__(self) -> str:
        lines = [f"search space of {self.size:.4g} architectures, {len(self.genes)} genes"]
        lines.append(f"  resolution {_listing(self.resolutions)}")
        lines += [f"  {name} {_listing(choices)}" for name, choices in self.settings.items()]
        for s, stage in enumerate(self.stages):
            shared = "".join(f", one {name} {_listing(choices)}" for name, choices in stage.shared.items())
            lines.append(f"  stage {s + 1}: depth {_listing(stage.depths)}{shared}")
            for (first, last), block in _runs(stage.blocks):
                which = f"block {first + 1}" if first == last else f"blocks {first + 1} to {last + 1}"
                choices = ", ".join(f"{name} {_listing(choices)}" for name, choices in block.items())
                lines.append(f"    {which}: {choices or 'fixed'}")
        return "\n".join(lines)

    # -- encoding -----------------------------------------------------------------------------------------------------

    def decode(self, genes: Genes) -> list[Architecture]:
        """Architectures of genes (n_archs, n_genes), which need not be canonical.

        Raises:
            ValueError: wrong number of columns, or an index outside the choices.
        """
        genes = self.canonical(genes)
        network = _decoded(genes[:, : self._network_genes], self._network_values)
        stages = [
            _decoded(genes[:, columns], read)
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
        network = {(arch.resolution, arch.settings): None for arch in archs}
        rows = {key: self._encode_network(*key) for key in network}
        genes[:, : self._network_genes] = [rows[arch.resolution, arch.settings] for arch in archs]
        for s, columns in enumerate(self._stage_columns):
            # Architectures that came out of `decode` share equal stages as one object: write each object once.
            write = self._stage_writers[s]
            stages = {id(arch.stages[s]): arch.stages[s] for arch in archs}
            stage_rows = {key: write(stage) for key, stage in stages.items()}
            genes[:, columns] = [stage_rows[id(arch.stages[s])] for arch in archs]
        return genes

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
        by counting how many each depth has.
        """
        genes = rng.integers(0, self.n_choices, size=(n, len(self.genes)))
        if uniform == "architectures":
            for stage, columns in zip(self.stages, self._stage_columns, strict=True):
                sizes = np.array([size / stage.size for size in stage._sizes_per_depth])
                genes[:, columns.start] = rng.choice(len(sizes), size=n, p=sizes / sizes.sum())
        return np.where(self.active(genes), genes, 0)

    def sample(
        self, n: int, rng: np.random.Generator, uniform: Literal["genes", "architectures"] = "genes"
    ) -> list[Architecture]:
        """`n` architectures drawn with replacement; see `sample_genes`."""
        return self.decode(self.sample_genes(n, rng, uniform))

    # -- making other spaces ------------------------------------------------------------------------------------------

    def restrict(self, **choices: Sequence[Number]) -> SearchSpace:
        """The sub-space in which the named genes keep only the given choices: ``restrict(depth=(4,), kernel=(5, 7))``.

        Names are ``resolution``, ``depth``, or any setting; wherever a name occurs it keeps those of its choices that
        are given.

        Raises:
            ValueError: an unknown name, a value that is nowhere a choice, or a gene left without any choice.
        """
        known = {
            gene.name: sorted({c for g in self.genes if g.name == gene.name for c in g.choices}) for gene in self.genes
        }
        for name, values in choices.items():
            if name not in known:
                raise ValueError(f"no choice is named {name!r}; there are {', '.join(known)}")
            for value in values:
                if value not in known[name]:
                    raise ValueError(f"{name} {value} is not a choice; possible are {_listing(known[name])}")

        def keep(name: str, values: Choices) -> Choices:
            kept = tuple(value for value in values if name not in choices or value in choices[name])
            if not kept:
                raise ValueError(f"{name} {_listing(choices[name])} leaves nothing of {_listing(values)}")
            return kept

        def keep_all(mapping: Mapping[str, Choices]) -> dict[str, Choices]:
            return {name: keep(name, values) for name, values in mapping.items()}

        stages = []
        for stage in self.stages:
            depths = tuple(int(depth) for depth in keep("depth", stage.depths))
            blocks = tuple(keep_all(block) for block in stage.blocks[: max(depths)])
            stages.append(Stage(depths, blocks, keep_all(stage.shared)))
        resolutions = tuple(int(r) for r in keep("resolution", self.resolutions))
        return replace(self, resolutions=resolutions, stages=tuple(stages), settings=keep_all(self.settings))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "resolutions": list(self.resolutions),
            "settings": {name: list(choices) for name, choices in self.settings.items()},
            "stages": [
                {
                    "depths": list(stage.depths),
                    "shared": {name: list(choices) for name, choices in stage.shared.items()},
                    "blocks": [{name: list(choices) for name, choices in block.items()} for block in stage.blocks],
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
                Stage(tuple(s["depths"]), tuple(_tuples(block) for block in s["blocks"]), _tuples(s["shared"]))
                for s in data["stages"]
            )
            return cls(tuple(data["resolutions"]), stages, _tuples(data["settings"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a search space: {str(data)[:80]!r} ({error})") from error

    # -- inside -------------------------------------------------------------------------------------------------------

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

    def _network_values(self, row: Sequence[int]) -> tuple[int, Settings]:
        settings = {name: choices[i] for (name, choices), i in zip(self.settings.items(), row[1:], strict=True)}
        return self.resolutions[row[0]], Settings(**settings)

    @cached_property
    def _stage_readers(self) -> list[Callable[[Sequence[int]], tuple[Block, ...]]]:
        return [self._stage_reader(s) for s in range(len(self.stages))]

    @cached_property
    def _stage_writers(self) -> list[Callable[[tuple[Block, ...]], list[int]]]:
        return [self._stage_writer(s) for s in range(len(self.stages))]

    def _stage_reader(self, s: int) -> Callable[[Sequence[int]], tuple[Block, ...]]:
        stage = self.stages[s]
        n_shared = len(stage.shared)
        stops = list(itertools.accumulate(map(len, stage.blocks), initial=1 + n_shared))

        @cache  # a stage of 20,000 settings has only some 40 different blocks
        def block(position: int, shared: tuple[int, ...], own: tuple[int, ...]) -> Block:
            names = itertools.chain(stage.shared.items(), stage.blocks[position].items())
            return Block(**{name: choices[i] for (name, choices), i in zip(names, shared + own, strict=True)})

        def read(row: Sequence[int]) -> tuple[Block, ...]:
            shared = tuple(row[1 : 1 + n_shared])
            depth = stage.depths[row[0]]
            return tuple(block(b, shared, tuple(row[stops[b] : stops[b + 1]])) for b in range(depth))

        return read

    def _encode_network(self, resolution: int, settings: Settings) -> list[int]:
        _check_names(settings, self.settings, "the network")
        values = [resolution, *(settings[name] for name in self.settings)]
        return [_index(gene, value) for gene, value in zip(self.genes, values, strict=False)]

    def _stage_writer(self, s: int) -> Callable[[tuple[Block, ...]], list[int]]:
        stage, columns = self.stages[s], self._stage_columns[s]
        depth_gene, *genes = self.genes[columns]
        shared_genes = genes[: len(stage.shared)]
        block_genes = [[gene for gene in genes if gene.block == b] for b in range(len(stage.blocks))]
        names = [{**stage.shared, **choices} for choices in stage.blocks]

        @cache
        def row_of(position: int, block: Block) -> list[int]:
            _check_names(block, names[position], f"a block of stage {s + 1}")
            return [_index(gene, block[gene.name]) for gene in block_genes[position]]

        def write(blocks: tuple[Block, ...]) -> list[int]:
            row = [_index(depth_gene, len(blocks))]
            own = [i for b, block in enumerate(blocks) for i in row_of(b, block)]
            for gene in shared_genes:
                values = {block[gene.name] for block in blocks}
                if len(values) > 1:
                    listing = _listing(sorted(values))
                    raise ValueError(f"{gene.label} is one for the whole stage, but its blocks have {listing}")
                row.append(_index(gene, values.pop()) if values else 0)
            row += own
            return row + [0] * (columns.stop - columns.start - len(row))

        return write


def _decoded(genes: Genes, read: Callable[[Sequence[int]], _T]) -> list[_T]:
    """`read` of every row, called once for equal rows."""
    width = genes.shape[1] * genes.itemsize
    blob = np.ascontiguousarray(genes).tobytes()
    keys = [blob[i : i + width] for i in range(0, len(blob), width)]
    table = {key: read(np.frombuffer(key, dtype=genes.dtype).tolist()) for key in set(keys)}
    return [table[key] for key in keys]


def _stage_rows(stage: Stage) -> Iterator[tuple[int, ...]]:
    width = sum(len(block) for block in stage.blocks)
    for d, depth in enumerate(stage.depths):
        shared = [range(len(choices)) if depth else range(1) for choices in stage.shared.values()]
        blocks = [range(len(choices)) for block in stage.blocks[:depth] for choices in block.values()]
        for row in itertools.product(*shared, *blocks):
            yield (d, *row, *(0,) * (width - len(blocks)))


def _check_choices(name: str, choices: Sequence[Number]) -> None:
    if not choices or list(choices) != sorted(set(choices)):
        raise ValueError(f"choices of {name} must ascend and not repeat; got {_listing(choices) or 'none'}")


def _check_names(given: Mapping[str, Number], known: Mapping[str, Choices], where: str) -> None:
    if given.keys() != known.keys():
        names = ", ".join(sorted(given)) or "nothing"
        raise ValueError(f"{where} is set by {', '.join(sorted(known)) or 'nothing'}; got {names}")


def _index(gene: Gene, value: Number) -> int:
    try:
        return gene.choices.index(value)
    except ValueError:
        raise ValueError(f"{gene.label} {value} is not a choice; possible are {_listing(gene.choices)}") from None


def _tuples(mapping: Mapping[str, Sequence[Number]]) -> dict[str, Choices]:
    return {name: tuple(choices) for name, choices in mapping.items()}


def _listing(choices: Sequence[Number]) -> str:
    if len(choices) > 8:
        return f"{choices[0]:g}, {choices[1]:g}, ..., {choices[-1]:g}"
    return ", ".join(f"{choice:g}" for choice in choices)


def _runs(items: Sequence[_T]) -> Iterator[tuple[tuple[int, int], _T]]:
    """Runs of equal neighbours as ((first, last), item)."""
    first = 0
    for i in range(1, len(items) + 1):
        if i == len(items) or items[i] != items[first]:
            yield (first, i - 1), items[first]
            first = i
