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
    from torch import nn

__all__ = ["CostTable", "Costs", "Part", "layer_costs"]

Numbers = NDArray[np.int64]


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

    `cost` maps one index per gene to (n_resolutions, 3): macs, parameters and activations at each resolution of the
    space. A part of a block counts only while the block exists.
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

    @cached_property
    def _tables(self) -> list[Numbers]:
        """Per part an array (n_resolutions, n_choices of each of its genes..., 3)."""
        return [self._table(part) for part in self.parts]

    def __call__(self, genes: Genes) -> Costs:
        """Costs of genes (n_archs, n_genes)."""
        genes = self.space.canonical(genes)
        depths = self.space.depths(genes)
        counts = np.zeros((len(genes), len(self.parts), 3), dtype=np.int64)
        for p, (part, table) in enumerate(zip(self.parts, self._tables, strict=True)):
            looked_up = table[tuple(genes[:, i] for i in (0, *part.genes))]
            if part.stage is not None and part.block is not None:
                looked_up = np.where((depths[:, part.stage] > part.block)[:, None], looked_up, 0)
            counts[:, p] = looked_up
        return Costs(tuple(part.name for part in self.parts), counts[..., 0], counts[..., 1], counts[..., 2])

    def _table(self, part: Part) -> Numbers:
        shape = tuple(len(self.space.genes[i].choices) for i in part.genes)
        table = np.zeros((len(self.space.resolutions), *shape, 3), dtype=np.int64)
        for indices in itertools.product(*map(range, shape)):
            table[(slice(None), *indices)] = part.cost(*indices)
        return table


def layer_costs(module: nn.Module, sizes: Numbers, pooled: type[nn.Module] | tuple[()] = ()) -> tuple[Numbers, Numbers]:
    """Costs (n_sizes, 3) of a module whose layers run one after the other, and the sizes (n_sizes,) it puts out.

    `sizes` are edge lengths of square inputs. Convolutions pad so that an edge shrinks by their stride alone (rounded
    up). Layers inside a module of class `pooled` see one value per channel.
    """
    total = np.zeros((len(sizes), 3), dtype=np.int64)
    for child in module.children():
        inner = np.ones_like(sizes) if isinstance(child, pooled) else sizes
        cost, inner = layer_costs(child, inner, pooled)
        total += cost
        sizes = sizes if isinstance(child, pooled) else inner
    weight = module._parameters.get("weight")
    total[:, 1] += sum(p.numel() for p in module._parameters.values() if p is not None)
    if weight is not None and weight.ndim == 4:  # a convolution
        sizes = -(-sizes // cast(Any, module).stride[0])
        total[:, 0] += weight.numel() * sizes**2
        total[:, 2] += weight.shape[0] * sizes**2
    elif weight is not None and weight.ndim == 2:  # a linear layer
        total[:, 0] += weight.numel()
        total[:, 2] += weight.shape[0]
    return total, sizes
