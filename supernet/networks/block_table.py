"""Every block that the sub-networks of a supernet can have, and which of them a sub-network has where."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.networks.pieces import pieces_of
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space import Genes, SearchSpace

__all__ = ["BlockTable", "Position", "ReachableBlock", "block_table"]

_ATTEMPTS = 200  # to find an architecture that has what is still missing; relations may forbid it


@dataclass(frozen=True)
class ReachableBlock:
    """One of the distinct blocks, and where to find it: at `place` in the sub-network `arch`."""

    key: str
    kind: str
    input_shape: tuple[int, ...]  # without the batch
    place: str
    arch: Architecture


@dataclass(frozen=True)
class Position:
    """A place in the network. Which block is there follows from the resolution and a few genes."""

    name: str
    genes: tuple[int, ...]  # columns
    stage: int | None
    block: int | None  # it exists while the stage is deeper than this
    table: NDArray[np.int64]  # (n_resolutions, n_choices of each gene...): row number of the block; -1 for none


@dataclass(frozen=True)
class BlockTable:
    """All blocks and all positions of a space."""

    space: SearchSpace
    blocks: tuple[ReachableBlock, ...]
    positions: tuple[Position, ...]

    def lookup(self, genes: Genes) -> Genes:
        """(n_archs, n_positions) which block architectures of genes (n_archs, n_genes) have where; -1 for none."""
        genes = self.space.canonical(genes)
        depths = self.space.depths(genes)
        columns = []
        for position in self.positions:
            found = position.table[tuple(genes[:, i] for i in (0, *position.genes))]
            if position.stage is not None and position.block is not None:
                found = np.where(depths[:, position.stage] > position.block, found, -1)
            columns.append(found)
        return np.stack(columns, axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, without the space."""
        return {
            "blocks": [vars(block) | {"arch": block.arch.to_dict()} for block in self.blocks],
            "positions": [vars(position) | {"table": position.table.tolist()} for position in self.positions],
        }

    @classmethod
    def from_dict(cls, space: SearchSpace, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: it is not of that form.
        """
        try:
            blocks = [
                ReachableBlock(
                    **b | {"arch": Architecture.from_dict(b["arch"]), "input_shape": tuple(b["input_shape"])}
                )
                for b in data["blocks"]
            ]
            positions = [
                Position(**p | {"genes": tuple(p["genes"]), "table": np.array(p["table"], dtype=np.int64)})
                for p in data["positions"]
            ]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a table of blocks: {str(data)[:80]!r} ({error})") from error
        return cls(space, tuple(blocks), tuple(positions))


def block_table(
    supernet: TimmSupernet[Any], channels: int, seed: int = 0, resolutions: Sequence[int] | None = None
) -> BlockTable:
    """The table of a supernet for images of so many channels, at every resolution of its space or at some.

    Sub-networks in which every combination of the genes that a position depends on occurs are taken apart, at every
    resolution. One sub-network shows a combination at every position, so it takes as many as the position with the most
    combinations has, not as many as there are blocks.

    Raises:
        ValueError: the networks cannot be taken apart, or a block depends on more than the genes of its costs.
    """
    if not isinstance(supernet, TimmSupernet):
        raise ValueError(
            f"a {type(supernet).__name__} cannot be taken apart into blocks, only a supernet of a timm model"
        )
    space = supernet.space
    largest = pieces_of(supernet.extract(space.largest).eval(), supernet.block_classes, _image(space.largest, channels))
    owners = {piece.name: supernet.owner_of(piece.members) for piece in largest}
    tables = {
        name: np.full((len(space.resolutions), *(len(space.genes[i].choices) for i in genes)), -1)
        for name, (genes, _, _) in owners.items()
    }
    blocks: dict[str, ReachableBlock] = {}
    numbers: dict[str, int] = {}
    for row in _covering(space, [genes for genes, _, _ in owners.values()], np.random.default_rng(seed)):
        for resolution in (space.resolutions.index(r) for r in resolutions or space.resolutions):
            row[0] = resolution
            (arch,) = space.decode(row[None])
            network = supernet.extract(arch).eval()
            for piece in pieces_of(network, supernet.block_classes, _image(arch, channels)):
                if piece.name not in tables:
                    raise ValueError(f"{arch} has a piece {piece.name!r} that the largest network does not have")
                found = ReachableBlock(piece.key, piece.kind, piece.input_shape, piece.name, arch)
                blocks.setdefault(piece.key, found)
                number = numbers.setdefault(piece.key, len(numbers))
                place = (resolution, *(row[i] for i in owners[piece.name][0]))
                if tables[piece.name][place] not in (-1, number):
                    raise ValueError(f"the block at {piece.name} depends on more than the genes that its costs name")
                tables[piece.name][place] = number
    positions = tuple(Position(name, *owners[name], table) for name, table in tables.items())
    return BlockTable(space, tuple(blocks.values()), positions)


def _image(arch: Architecture, channels: int) -> torch.Tensor:
    return torch.zeros(1, channels, arch.resolution, arch.resolution)


def _covering(space: SearchSpace, groups: list[tuple[int, ...]], rng: np.random.Generator) -> Iterator[Genes]:
    """Genes (n_genes,) of full depth until every combination of every group of genes was there."""
    missing = {
        group: set(itertools.product(*(range(len(space.genes[i].choices)) for i in group))) for group in groups if group
    }
    deepest = [i for i, gene in enumerate(space.genes) if gene.name == "depth"]
    failures = 0
    first = True
    while first or (any(missing.values()) and failures < _ATTEMPTS):
        row = space.sample_genes(1, rng)[0]
        row[deepest] = space.n_choices[deepest] - 1
        fixed: dict[int, int] = {}
        for group in sorted(missing, key=lambda group: -len(missing[group])):
            for combination in sorted(missing[group]):
                wanted = dict(zip(group, combination, strict=True))
                if all(fixed.get(gene, choice) == choice for gene, choice in wanted.items()):
                    fixed |= wanted
                    break
        for gene, choice in fixed.items():
            row[gene] = choice
        row = space.canonical(row[None])[0]
        shown = {group: tuple(int(row[i]) for i in group) for group in missing}
        if not space.holds(row[None])[0] or not (first or any(shown[g] in missing[g] for g in missing)):
            failures += 1
            continue
        failures, first = 0, False
        for group, combination in shown.items():
            missing[group].discard(combination)
        yield row
