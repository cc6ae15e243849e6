"""What multi-stage vision transformers cost, by table."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from supernet.families.multi_stage_vit import Block, Reduction, Stem
from supernet.networks.counting import COUNTS, CostTable, Numbers, Part, add_layer
from supernet.space import SearchSpace

__all__ = ["multi_stage_costs"]


def multi_stage_costs(
    space: SearchSpace, patch_size: int, stem_width: int, head_dims: tuple[int, ...], num_classes: int, in_chans: int
) -> CostTable:
    """Costs of every architecture; attention counts its two matrix products, queries by keys and weights by values."""
    columns = {gene.label: i for i, gene in enumerate(space.genes)}
    widths = [columns[f"stage{s + 1}.embed_dim"] for s in range(len(space.stages))]
    (image,) = space.resolutions
    side = image // patch_size

    def chosen(gene: int, index: int) -> int:
        return int(space.genes[gene].choices[index])

    def stem(index: int) -> Numbers:
        width = chosen(widths[0], index)
        costs = _costs(module := Stem(in_chans, stem_width, width, patch_size), (2 + side**2) * width)
        for conv in (module.conv1, module.conv2, module.conv3):
            _add(costs, conv, (image // 2) ** 2)
        _add(costs, module.projection, side**2)
        return costs

    def reduction(s: int, before: int, index: int) -> Numbers:
        half = side >> s
        module = Reduction(chosen(widths[s - 1], before), chosen(widths[s], index), half)
        costs = _costs(module)
        _add(costs, module.conv, half**2)
        _add(costs, module.cls, 1)
        return costs

    def block(s: int, genes: tuple[int, int, int], *indices: int) -> Numbers:
        width, heads, hidden = map(chosen, genes, indices)
        tokens = 1 + (side >> s) ** 2
        costs = _costs(module := Block(width, head_dims[s], heads, hidden))
        for layer in (module.qkv, module.proj, module.fc1, module.fc2):
            _add(costs, layer, tokens)
        costs[:, 0] += 2 * tokens**2 * heads * head_dims[s]
        return costs

    def head(index: int) -> Numbers:
        width = chosen(widths[-1], index)
        costs = _costs(module := nn.Linear(width, num_classes), 2 * width)  # and the norm before it
        _add(costs, module, 1)
        return costs

    parts = [Part("stem", stem, (widths[0],))]
    for s, stage in enumerate(space.stages):
        if s:
            parts.append(Part(f"reductions.{s - 1}", partial(reduction, s), (widths[s - 1], widths[s])))
        for b in range(len(stage.blocks)):
            place = f"stage{s + 1}.block{b + 1}"
            genes = widths[s], columns[f"{place}.heads"], columns[f"{place}.hidden"]
            parts.append(Part(f"stages.{s}.blocks.{b}", partial(block, s, genes), genes, s, b))
    parts.append(Part("head", head, (widths[-1],)))
    with torch.device("meta"):
        table = CostTable(space, parts)
        _ = table(np.zeros((1, len(space.genes)), dtype=np.int64))  # makes the tables, of layers without data
    return table


def _costs(module: nn.Module, further: int = 0) -> Numbers:
    """(1, n_counts) with the parameters of a module, and some that are beside it."""
    costs = np.zeros((1, len(COUNTS)), dtype=np.int64)
    costs[:, 1] = sum(parameter.numel() for parameter in module.parameters()) + further
    return costs


def _add(costs: Numbers, layer: nn.Conv2d | nn.Linear, times: int) -> None:
    add_layer(costs, layer.weight, np.array([times]))
