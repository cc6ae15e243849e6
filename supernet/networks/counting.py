"""Multiply-accumulates, parameters and activations of architectures, by table and for any number of genes at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from supernet.space import Genes, SearchSpace

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["COUNTS", "CostTable", "Costs", "Part", "add_layer", "layer_costs"]

Numbers = NDArray[np.int64]

COUNTS = ("macs", "parameters", "activations", "layers", "widening", "narrowing", "depth-wise", "pooled")
"""What is counted of a part. The last four are those of its MACs that belong to layers of one kind, since a device does
not do them at one price: 1x1 convolutions and linear layers that put out more channels than they take in, and those
that do not; depth-wise convolutions; and layers that see one value per channel. `layers` are convolutions and linear
layers, each a kernel to launch."""
_WIDENING, _NARROWING, _DEPTHWISE, _POOLED = range(4, 8)


@dataclass(frozen=True)
class Costs:
    """What the parts of architectures cost for one image, each an array (n_archs, n_parts); 0 where a part is absent.

    `macs` counts convolutions and linear layers (the published convention: no normalisation, activation, pooling or
    bias), `parameters` everything that is trained, `activations` the values that convolutions and linear layers write.
    """

    names: tuple[str, ...]
    macs: Numbers
    parameters: Numbers
    activations: Numbers


@dataclass(frozen=True)
class Part:
    """A piece of a network whose cost depends on the resolution and on the genes named here.

    `cost` maps one index per gene to (n_resolutions, n): the first n of `COUNTS` at each resolution of the space, at
    least macs, parameters and activations; a part of which no more is known is one layer of no kind. A part of a block
    counts only while the block exists.
    """

    name: str
    cost: Callable[..., Numbers]
    genes: tuple[int, ...] = ()
    stage: int | None = None
    block: int | None = None


class CostTable:
    """Costs of any architectures of a space, by looking up each part's table.

    Building the tables evaluates every part once per combination of its own genes, so it takes milliseconds, and then
    100,000 architectures are counted in a fraction of a second.
    """

    def __init__(self, space: SearchSpace, parts: Sequence[Part]) -> None:
        self.space = space
        self.parts = tuple(parts)

    @property
    def stages(self) -> tuple[int | None, ...]:
        """Per part the stage whose blocks or genes, and no other's, it depends on; None where there is none."""
        genes = self.space.genes
        found = []
        for part in self.parts:
            of_genes = {genes[i].stage for i in part.genes} - {None}
            found.append(part.stage if part.stage is not None else of_genes.pop() if len(of_genes) == 1 else None)
        return tuple(found)

    @cached_property
    def _tables(self) -> list[Numbers]:
        """Per part an array (n_resolutions, n_choices of each of its genes..., n_counts)."""
        return [self._table(part) for part in self.parts]

    def __call__(self, genes: Genes) -> Costs:
        """Costs of genes (n_archs, n_genes)."""
        counts = self.counts(genes, 3)
        return Costs(tuple(part.name for part in self.parts), counts[..., 0], counts[..., 1], counts[..., 2])

    def counts(self, genes: Genes, n: int = len(COUNTS)) -> Numbers:
        """(n_archs, n_parts, n) the first `n` of `COUNTS`, of genes (n_archs, n_genes); 0 where a part is absent."""
        genes = self.space.canonical(genes)
        depths = self.space.depths(genes)
        counts = np.zeros((len(genes), len(self.parts), n), dtype=np.int64)
        for p, (part, table) in enumerate(zip(self.parts, self._tables, strict=True)):
            looked_up = table[..., :n][tuple(genes[:, i] for i in (0, *part.genes))]
            if part.stage is not None and part.block is not None:
                looked_up = np.where((depths[:, part.stage] > part.block)[:, None], looked_up, 0)
            counts[:, p] = looked_up
        return counts

    def weighted(self, genes: Genes, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over parts and counts of ``counts(genes) * weights``, of genes (n_archs, n_genes).

        The products are formed once per entry of a table, not once per architecture.

        Args:
            weights: (n_parts, n_counts) for one sum, or (n_parts, n_counts, n_sums).

        Returns:
            (n_archs,), or (n_archs, n_sums).
        """
        rows = np.ascontiguousarray((genes if self._masked else self.space.canonical(genes)).T)
        depths = np.ascontiguousarray(self.space.depths(genes).T)
        lowest = [stage.depths[0] for stage in self.space.stages]
        n_sums = weights.shape[2:]
        everywhere = np.zeros((len(self.space.resolutions), *n_sums))
        total = np.zeros((len(genes), *n_sums))
        for part, table, weight in zip(self.parts, self._tables, weights, strict=True):
            products = table @ weight
            if not part.genes and part.block is None:
                everywhere += products
                continue
            index = rows[0]
            for gene, n_choices in zip(part.genes, table.shape[1:-1], strict=True):
                index = index * n_choices + rows[gene]
            looked_up = products.reshape(-1, *n_sums)[index]
            if part.stage is not None and part.block is not None and part.block >= lowest[part.stage]:
                looked_up[depths[part.stage] <= part.block] = 0.0
            total += looked_up
        return total + everywhere[rows[0]]

    @cached_property
    def _masked(self) -> bool:
        """Whether no part that exists depends on a gene that may be inactive."""
        genes = self.space.genes
        return all(
            genes[i].stage is None or (genes[i].stage == part.stage and genes[i].block in (None, part.block))
            for part in self.parts
            for i in part.genes
            if genes[i].name != "depth"
        )

    def _table(self, part: Part) -> Numbers:
        shape = tuple(len(self.space.genes[i].choices) for i in part.genes)
        table = np.zeros((len(self.space.resolutions), *shape, len(COUNTS)), dtype=np.int64)
        for indices in itertools.product(*map(range, shape)):
            cost = part.cost(*indices)
            table[(slice(None), *indices, slice(cost.shape[1]))] = cost
            if cost.shape[1] == 3:
                table[(slice(None), *indices, 3)] = cost[:, 0] > 0
        return table


def layer_costs(module: nn.Module, sizes: Numbers, pooled: type[nn.Module] | tuple[()] = ()) -> tuple[Numbers, Numbers]:
    """Costs (n_sizes, n_counts) of a module whose layers run one after the other, and the sizes (n_sizes,) it puts out.

    `sizes` are edge lengths of square inputs. Convolutions pad so that an edge shrinks by their stride alone (rounded
    up). Layers inside a module of class `pooled` see one value per channel.
    """
    total = np.zeros((len(sizes), len(COUNTS)), dtype=np.int64)
    for child in module.children():
        inside = isinstance(child, pooled)
        cost, inner = layer_costs(child, np.ones_like(sizes) if inside else sizes, pooled)
        if inside:
            cost[:, _WIDENING] = cost[:, _NARROWING] = 0
            cost[:, _POOLED] = cost[:, 0]
        total += cost
        sizes = sizes if inside else inner
    weight = module._parameters.get("weight")
    total[:, 1] += sum(p.numel() for p in module._parameters.values() if p is not None)
    if weight is not None and weight.ndim == 4:  # a convolution
        sizes = -(-sizes // cast(Any, module).stride[0])
        add_layer(total, weight, sizes**2)
    elif weight is not None and weight.ndim == 2:  # a linear layer
        add_layer(total, weight, np.ones_like(sizes))
    return total, sizes


def add_layer(costs: Numbers, weight: Tensor, times: Numbers) -> None:
    """Add to costs (n_sizes, n_counts) one layer of that weight, applied `times` (n_sizes,), except its parameters."""
    macs = weight.numel() * times
    costs[:, 0] += macs
    costs[:, 2] += len(weight) * times
    costs[:, 3] += 1
    if weight.ndim == 2 and (times == 1).all():
        costs[:, _POOLED] += macs
    elif weight.shape[2:].numel() == 1:
        costs[:, _WIDENING if len(weight) > weight.shape[1] else _NARROWING] += macs
    elif weight.shape[1] == 1:
        costs[:, _DEPTHWISE] += macs
