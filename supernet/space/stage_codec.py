"""Between genes and the blocks of one stage, with every distinct block and stage made once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import numpy as np

from supernet.architecture import Block, Number
from supernet.space.stage import Choices, Gene, Genes, Stage, listing

__all__ = ["Row", "check_names", "choice_index", "decode_rows", "encode_values", "stage_reader", "stage_writer"]

_T = TypeVar("_T")
Row = bytes | tuple[int, ...]
"""Indices of the genes of a stage."""


def stage_reader(stage: Stage) -> Callable[[Row], tuple[Block, ...]]:
    """A function from a row of the stage's genes to its blocks."""
    n_shared = len(stage.shared)
    stops = list(itertools.accumulate(map(len, stage.blocks), initial=1 + n_shared))

    @cache  # a stage of 20,000 settings has only some 40 different blocks
    def block(position: int, shared: Row, own: Row) -> Block:
        names = itertools.chain(stage.shared.items(), stage.blocks[position].items())
        values: dict[str, Number] = {}
        for (name, choices), i in zip(names, (*shared, *own), strict=True):
            if stage.exists(name, values):
                values[name] = choices[i]
        return Block(**values)

    def read(row: Row) -> tuple[Block, ...]:
        shared = row[1 : 1 + n_shared]
        return tuple([block(b, shared, row[stops[b] : stops[b + 1]]) for b in range(stage.depths[row[0]])])

    return read


def stage_writer(stage: Stage, genes_of_stage: Sequence[Gene]) -> Callable[[tuple[Block, ...]], list[int]]:
    """A function from the blocks of the stage to a row of its genes; it raises ValueError for what is no choice."""
    depth_gene, *genes = genes_of_stage
    shared_genes = genes[: len(stage.shared)]
    block_genes = [[gene for gene in genes if gene.block == b] for b in range(len(stage.blocks))]
    names = [{**stage.shared, **choices} for choices in stage.blocks]

    @cache
    def row_of(position: int, block: Block) -> list[int]:
        known = {name: choices for name, choices in names[position].items() if stage.exists(name, block)}
        check_names(block, known, f"a block of stage {(depth_gene.stage or 0) + 1}")
        return [choice_index(gene, block[gene.name]) if gene.name in known else 0 for gene in block_genes[position]]

    def write(blocks: tuple[Block, ...]) -> list[int]:
        row = [choice_index(depth_gene, len(blocks))]
        own = [i for b, block in enumerate(blocks) for i in row_of(b, block)]
        for gene in shared_genes:
            values = {block[gene.name] for block in blocks}
            if len(values) > 1:
                found = listing(sorted(values))
                raise ValueError(f"{gene.label} is one for the whole stage, but its blocks have {found}")
            row.append(choice_index(gene, values.pop()) if values else 0)
        row += own
        return row + [0] * (len(genes_of_stage) - len(row))

    return write


def decode_rows(genes: Genes, read: Callable[[Row], _T]) -> list[_T]:
    """`read` of every row, called once for equal rows."""
    width = genes.shape[1]
    if genes.max(initial=0) < 256:  # bytes are rows that can be sliced, hashed and compared at once
        blob = genes.astype(np.uint8).tobytes()
        rows: list[Row] = [blob[i : i + width] for i in range(0, len(blob), width)]
    else:
        rows = list(map(tuple, genes.tolist()))
    table = {row: read(row) for row in set(rows)}
    return [table[row] for row in rows]


def encode_values(values: Sequence[_T], keys: Sequence[Hashable], write: Callable[[_T], Sequence[int]]) -> Genes:
    """The rows that `write` makes of the values, called once for equal keys."""
    distinct = dict(zip(keys, values, strict=True))
    rows = np.array([write(value) for value in distinct.values()], dtype=np.int64)
    position = {key: i for i, key in enumerate(distinct)}
    return rows[[position[key] for key in keys]]


def check_names(given: Mapping[str, Number], known: Mapping[str, Choices], where: str) -> None:
    """Raises ValueError where settings are missing or unknown."""
    if given.keys() != known.keys():
        names = ", ".join(sorted(given)) or "nothing"
        raise ValueError(f"{where} is set by {', '.join(sorted(known)) or 'nothing'}; got {names}")


def choice_index(gene: Gene, value: Number) -> int:
    """The index of a value among the choices; ValueError names the gene and the choices."""
    try:
        return gene.choices.index(value)
    except ValueError:
        raise ValueError(f"{gene.label} {value} is not a choice; possible are {listing(gene.choices)}") from None
