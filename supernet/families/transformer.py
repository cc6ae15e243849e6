"""The elastic transformer family: timm vision transformers whose depth, heads and widths can be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from timm.layers.attention import Attention
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import Block as TimmBlock
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from supernet.architecture import Architecture, Block, Settings
from supernet.families.transformer_axes import (
    EMBEDDING,
    HEADS,
    NEURONS,
    columns_of,
    is_known,
    narrow,
    narrow_tensor,
    permute_axes,
)
from supernet.networks.choices import check_choices, depth_choices, own_and_below
from supernet.networks.counting import COUNTS, Part, add_layer
from supernet.networks.importance import Importance, l1_importance
from supernet.networks.slicing import with_parameters
from supernet.networks.sorting import descending
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space import Genes, SearchSpace, Stage

__all__ = ["TransformerSupernet", "elastic_transformer", "hidden_width"]


def hidden_width(embed_dim: int, mlp_ratio: float) -> int:
    """Neurons of an MLP."""
    return round(embed_dim * mlp_ratio)


class TransformerSupernet(TimmSupernet[VisionTransformer]):
    """A timm `VisionTransformer` as a supernet (InstaTune, Sridhar et al. 2023; AutoFormer, Chen et al. 2021).

    A block keeps its first heads, each at full size, and the first neurons of its MLP; a shallower network keeps the
    first blocks. A narrower embedding keeps the first values of every token, and its LayerNorms see only those. At
    another resolution than the model's the position embedding is interpolated as timm does it.

    Args:
        model: the largest network.
        space: the choices, with one stage; the largest architecture must be `model`. Settings of a block are ``heads``
            and ``mlp_ratio`` (neurons over embedding width); ``embed_dim`` may be a setting of the whole network.

    Raises:
        ValueError: a kind of vision transformer that is not supported, or the largest architecture is not `model`.
    """

    block_classes = (TimmBlock,)

    def __init__(self, model: VisionTransformer, space: SearchSpace) -> None:
        _check_supported(model)
        super().__init__(model, space)
        for name, parameter in model.named_parameters(recurse=False):  # tokens and position embedding
            self.register_parameter(name, parameter)
        own = _own_space(model).largest
        if "embed_dim" in space.settings:
            own = replace(own, settings=Settings(embed_dim=model.embed_dim))
        if space.largest != own:
            raise ValueError(f"the largest architecture must be the model, {own}; the space has {space.largest}")
        self._resolution = own.resolution

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Sort the heads and neurons of every block and, where it is elastic, the embedding; see the base class.

        A neuron is judged by everything that belongs to it, its column of the second layer, its row of the first and
        its bias; a head likewise, by the sum over its channels (the rule of ViT-ResNAS, Liao et al. 2021). `importance`
        sees these as the columns of one matrix.
        """
        with torch.no_grad():
            for b, block in enumerate(_blocks(self)):
                trained = within.stages[0].blocks[b] if within and b < len(within.stages[0].blocks) else {}
                size = block.attn.head_dim
                scores = importance(columns_of(block, HEADS, "blocks")).view(-1, size).sum(dim=1)
                heads = descending(scores, map(int, trained.get("heads", ())))
                channels = (heads[:, None] * size + torch.arange(size, device=heads.device)).flatten()
                widths = {
                    hidden_width(embed_dim, ratio)
                    for ratio in trained.get("mlp_ratio", ())
                    for embed_dim in _embed_dims(self._template[0], within)
                }
                neurons = descending(importance(columns_of(block, NEURONS, "blocks")), widths)
                permute_axes(block, HEADS, channels, "blocks")
                permute_axes(block, NEURONS, neurons, "blocks")
            if "embed_dim" in self.space.settings and isinstance(self.head, nn.Linear):  # else it is what comes out
                order = descending(importance(columns_of(self, EMBEDDING)), _embed_dims(self._template[0], within))
                permute_axes(self, EMBEDDING, order)

    # -- putting a sub-network together -------------------------------------------------------------------------------

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        embed_dim = self._embed_dim(arch)
        if name != "blocks":
            return narrow(child, name, {EMBEDDING: embed_dim}, copy)
        chosen = zip(_blocks(self), arch.stages[0], strict=False)  # the blocks that do not exist are the last ones
        blocks = nn.Sequential(*(_narrow_block(block, choice, embed_dim, copy) for block, choice in chosen))
        blocks.training = self.training
        return blocks

    def _assemble(self, arch: Architecture, copy: bool) -> VisionTransformer:
        model = super()._assemble(arch, copy)
        widths = {EMBEDDING: self._embed_dim(arch)}
        tokens = {name: narrow_tensor(getattr(self, name), name, widths) for name in model._parameters}
        if arch.resolution != self._resolution and "pos_embed" in tokens:
            old: Any = cast(Any, self.patch_embed)
            tokens["pos_embed"] = resample_abs_pos_embed(
                tokens["pos_embed"],
                new_size=cast(Any, model.patch_embed).grid_size,
                old_size=old.grid_size,
                num_prefix_tokens=tokens["pos_embed"].shape[1] - old.num_patches,
            )
        return with_parameters(model, copy, tokens)

    def _adapt(self, model: VisionTransformer, arch: Architecture) -> None:
        full: Any = self._template[0]
        embed_dim = self._embed_dim(arch)
        model.embed_dim = model.num_features = model.head_hidden_size = embed_dim
        model.feature_info = [{**info, "num_chs": embed_dim} for info in full.feature_info[: arch.depths[0]]]
        if arch.resolution != self._resolution:
            size = (arch.resolution, arch.resolution)
            patches: Any = model.patch_embed
            patches.img_size, patches.grid_size, patches.num_patches = patches._init_img_size(size)
            cast(Any, model)._traits = {**getattr(full, "_traits", {}), "img_size": size}  # read by timm's data helpers

    def _embed_dim(self, arch: Architecture) -> int:
        return int(arch.settings.get("embed_dim", cast(Any, self._template[0]).embed_dim))

    # -- counting -----------------------------------------------------------------------------------------------------

    def _parts(self) -> list[Part]:
        """Attention counts its two matrix products, queries by keys and weights by values, as usual."""
        model: Any = self._template[0]
        columns = {gene.label: i for i, gene in enumerate(self.space.genes)}
        embed_genes = [columns["embed_dim"]] if "embed_dim" in columns else []
        patches = np.array(
            [(resolution // model.patch_embed.patch_size[0]) ** 2 for resolution in self.space.resolutions]
        )
        tokens = patches + model.num_prefix_tokens

        def embed_dim(index: Sequence[int]) -> int:
            return int(self.space.settings["embed_dim"][index[0]]) if index else model.embed_dim

        def child_cost(name: str, times: Genes, *indices: int) -> Genes:
            return _linear_costs(narrow(getattr(self, name), name, {EMBEDDING: embed_dim(indices)}, copy=False), times)

        def token_cost(*indices: int) -> Genes:
            values = (
                sum(p.numel() for n, p in self.named_parameters(recurse=False) if n != "pos_embed") // model.embed_dim
            )
            per_resolution = values + np.zeros_like(tokens)
            if model.pos_embed is not None:  # one per patch and, in most models, one per other token
                per_resolution = per_resolution + patches + model.pos_embed.shape[1] - model.patch_embed.num_patches
            zeros = np.zeros_like(tokens)
            return np.stack([zeros, per_resolution * embed_dim(indices), zeros], axis=1)

        def block_cost(b: int, *indices: int) -> Genes:
            names = list(self.space.stages[0].blocks[b])
            own = dict(zip(names, indices[: len(names)], strict=True))
            choice = Block(**{name: self.space.stages[0].blocks[b][name][i] for name, i in own.items()})
            block = _narrow_block(_blocks(self)[b], choice, embed_dim(indices[len(names) :]), copy=False)
            costs = _linear_costs(block, tokens)
            costs[:, 0] += 2 * tokens**2 * int(choice.heads) * block.attn.head_dim
            return costs

        parts = [Part("tokens", token_cost, tuple(embed_genes))]
        for name, child in self._template[0].named_children():
            if name == "blocks":
                for b, choices in enumerate(self.space.stages[0].blocks):
                    genes = [columns[f"stage1.block{b + 1}.{setting}"] for setting in choices]
                    parts.append(Part(f"blocks.{b}", partial(block_cost, b), (*genes, *embed_genes), 0, b))
            elif any(True for _ in child.parameters()):
                times = patches if name == "patch_embed" else np.ones_like(patches)
                parts.append(Part(name, partial(child_cost, name, times), tuple(embed_genes)))
        return parts


def elastic_transformer(
    model: VisionTransformer,
    *,
    resolutions: Sequence[int] | None = None,
    depths: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    mlp_ratios: Sequence[float] | None = None,
    embed_dims: Sequence[int] | None = None,
) -> TransformerSupernet:
    """A timm vision transformer as a supernet. What the model has is always a choice, and the largest one.

    Args:
        resolutions: multiples of the patch size up to the model's; default: that alone.
        depths: numbers of blocks; default: up to two fewer than the model has.
        heads: heads per block; default: a half, three quarters (rounded up) and all.
        mlp_ratios: neurons per block over embedding width; default: a half, three quarters and all of the model's.
        embed_dims: embedding widths; default: the model's alone.

    Raises:
        ValueError: a kind of vision transformer or a choice that is not possible; the message says what is.
    """
    _check_supported(model)
    own = _own_space(model)
    (own_resolution,), full_dim = own.resolutions, model.embed_dim
    patch = cast(Any, model.patch_embed).patch_size[0]
    check_choices(
        "resolutions",
        resolutions or (),
        lambda r: r % patch == 0 and 0 < r <= own_resolution,
        f"multiples of the patch size {patch} up to {own_resolution}",
    )
    blocks = own.largest.stages[0]
    most_heads, highest = max(int(block.heads) for block in blocks), max(block.mlp_ratio for block in blocks)
    check_choices("heads", heads or (), lambda h: h == int(h) and 1 <= h <= most_heads, f"1 to {most_heads}")
    check_choices("mlp_ratios", mlp_ratios or (), lambda r: 0 < r <= highest, f"above 0 up to {highest:g}")
    check_choices("embed_dims", embed_dims or (), lambda e: e == int(e) and 1 <= e <= full_dim, f"1 to {full_dim}")
    depth = len(blocks)
    (stage_depths,) = depth_choices(depths, [1], [depth], [max(1, depth - 2)])

    def block_choices(block: Block) -> dict[str, tuple[float, ...]]:
        default_heads = (-(-int(block.heads) * quarters // 4) for quarters in (2, 3))
        default_ratios = (block.mlp_ratio * quarters / 4 for quarters in (2, 3))
        return {
            "heads": own_and_below(int(block.heads), default_heads if heads is None else heads),
            "mlp_ratio": own_and_below(block.mlp_ratio, default_ratios if mlp_ratios is None else mlp_ratios),
        }

    embed_choices = own_and_below(full_dim, embed_dims or ())
    space = SearchSpace(
        own_and_below(own_resolution, resolutions or ()),
        (Stage(stage_depths, tuple(block_choices(block) for block in blocks)),),
        {"embed_dim": embed_choices} if len(embed_choices) > 1 else {},
    )
    return TransformerSupernet(model, space)


def _own_space(model: VisionTransformer) -> SearchSpace:
    """The space of the model alone."""
    blocks = tuple(
        {"heads": (block.attn.num_heads,), "mlp_ratio": (block.mlp.fc1.out_features / model.embed_dim,)}
        for block in _blocks(model)
    )
    return SearchSpace((cast(Any, model.patch_embed).img_size[0],), (Stage((len(blocks),), blocks),))


def _check_supported(model: VisionTransformer) -> None:
    obstacle = next(_obstacles(model), None)
    if obstacle:
        raise ValueError(
            f"this vision transformer cannot be made elastic: {obstacle}; supported are timm's plain pre-norm blocks "
            "(ViT, DeiT, DeiT-3) on square images"
        )


def _obstacles(model: Any) -> Iterator[str]:
    if type(model.patch_embed) is not PatchEmbed:
        yield f"its patches are embedded by a {type(model.patch_embed).__name__}"
    else:
        for what in ("img_size", "patch_size"):
            if len(set(getattr(model.patch_embed, what) or ())) != 1:
                yield f"its {what} is {getattr(model.patch_embed, what)}"
    if model.attn_pool is not None or not model.global_pool:
        yield f"it pools by {model.global_pool or 'nothing'!r}"
    for block in model.blocks:
        if type(block) is not TimmBlock:
            yield f"its blocks are {type(block).__name__}"
            return
        for part, plain in (("attn", Attention), ("mlp", Mlp), ("ls1", LayerScale), ("ls2", LayerScale)):
            if type(getattr(block, part)) not in (plain, nn.Identity):
                yield f"a block has a {type(getattr(block, part)).__name__}"
    for name, module in model.named_modules():
        if hasattr(module, "normalized_shape") and module.weight is None:
            yield f"the normalisation {name} has no weight"
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        if not is_known(name):
            yield f"it has a {name}"


def _blocks(model: nn.Module) -> Sequence[Any]:
    return cast(Any, model.blocks)


def _embed_dims(model: VisionTransformer, space: SearchSpace | None) -> tuple[int, ...]:
    return tuple(map(int, space.settings.get("embed_dim", (model.embed_dim,)))) if space else ()


def _narrow_block(block: Any, choice: Block, embed_dim: int, copy: bool) -> Any:
    channels = int(choice.heads) * block.attn.head_dim
    widths = {EMBEDDING: embed_dim, HEADS: channels, NEURONS: hidden_width(embed_dim, choice.mlp_ratio)}
    bare = narrow(block, "blocks", widths, copy)
    bare.attn.num_heads, bare.attn.attn_dim = int(choice.heads), channels
    return bare


def _linear_costs(module: nn.Module, times: Genes) -> Genes:
    """Costs (n_resolutions, n_counts) of linear layers and convolutions that are applied `times` (n_resolutions,)."""
    costs = np.zeros((len(times), len(COUNTS)), dtype=np.int64)
    costs[:, 1] = sum(parameter.numel() for parameter in module.parameters())
    for layer in module.modules():
        weight = layer._parameters.get("weight")
        if weight is not None and weight.ndim > 1:
            add_layer(costs, weight, times)
    return costs
