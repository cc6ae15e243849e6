"""The supernet of multi-stage vision transformers, of which a batch can run many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from supernet.architecture import Architecture
from supernet.families.multi_stage_costs import multi_stage_costs
from supernet.families.multi_stage_vit import BlockMasks, MultiStageViT, Sizes, StageMasks
from supernet.networks.counting import Costs, CostTable
from supernet.networks.dropout import set_dropout
from supernet.networks.masking import first, union
from supernet.networks.measured import MeasuredSupernet
from supernet.networks.slicing import clone
from supernet.registry import register_supernet
from supernet.space import Genes, SearchSpace, Stage
from supernet.space.roles import Role

__all__ = ["MultiStageSupernet"]

PerStage = Sequence[Sequence[int]]


class MultiStageSupernet(nn.Module):
    """Multi-stage vision transformers with shared weights (ViT-ResNAS, Liao et al. 2021).

    A smaller network has the first blocks of every stage, the first heads and neurons of every block and the first
    values of every token. Published networks leave out every second block instead of the last ones.

    Args:
        num_classes: logits.
        in_chans: channels of the images.
        image_size: their side in pixels.
        patch_size: side of what becomes one token, in pixels; even.
        stem_width: channels of the convolutions before the tokens.
        depths: per stage, choices for the number of blocks.
        widths: per stage, choices for the embedding width; none below the largest of the stage before.
        heads: per stage, choices for the heads of every block.
        hidden: per stage, choices for the neurons of the MLP of every block.
        head_dims: per stage, the width of a head.

    Attributes:
        space: every stage has its embedding as one choice, ``embed_dim``; every block has ``heads`` and ``hidden``.
        roles: of these.
        largest: the largest network.

    Raises:
        ValueError: sizes that do not go together; the message says what is possible.
    """

    roles: Mapping[str, Role] = {"hidden": "middle_width"}

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        image_size: int = 224,
        patch_size: int = 14,
        stem_width: int = 24,
        depths: PerStage = ((3, 4, 5, 6),) * 3,
        widths: PerStage = ((160, 176, 192, 224, 256), (320, 352, 384, 448, 512), (640, 704, 768, 896, 1024)),
        heads: PerStage = ((4, 6, 8), (6, 8, 10), (8, 12, 16)),
        hidden: PerStage = ((512, 768), (1024, 1536), (2048, 3072)),
        head_dims: Sequence[int] = (32, 48, 64),
    ) -> None:
        super().__init__()
        _check(image_size, patch_size, depths, widths, heads, hidden, head_dims)
        self._fixed = (image_size, patch_size, stem_width)
        self._ends = (num_classes, in_chans)
        self._head_dims = tuple(head_dims)
        stages = []
        for n_blocks, width, n_heads, neurons in zip(depths, widths, heads, hidden, strict=True):
            block = {"heads": tuple(sorted(n_heads)), "hidden": tuple(sorted(neurons))}
            shared = {"embed_dim": tuple(sorted(width))}
            stages.append(Stage(tuple(sorted(n_blocks)), (block,) * max(n_blocks), shared))
        self.space = SearchSpace((image_size,), tuple(stages))
        self.largest = self._network(self.space.largest)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (batch, num_classes) of `arch` on images (batch, in_chans, image_size, image_size)."""
        return functional_call(*self._cut(arch), (images,))

    def forward_many(self, images: Tensor, archs: Sequence[Architecture]) -> Tensor:
        """Logits (batch, num_classes) of images of which every one has its own architecture.

        Each has what `forward` gives it, but all are computed in one pass at the cost of the smallest architecture in
        which all of these lie: what an image does not have is masked.

        Raises:
            ValueError: not as many architectures as images.
        """
        if len(archs) != len(images):
            raise ValueError(f"{len(images)} images need as many architectures, not {len(archs)}")
        whole = union(self.space, archs)
        masks = tuple(_masks([arch.stages[s] for arch in archs], stage, images) for s, stage in enumerate(whole.stages))
        return functional_call(*self._cut(whole), (images, masks))

    def extract(self, arch: Architecture) -> MultiStageViT:
        """Sub-network `arch` alone, with weights of its own."""
        small, weights = self._cut(arch)
        small.load_state_dict({name: clone(weight) for name, weight in weights.items()}, assign=True)
        return small.requires_grad_()

    def set_dropout(self, drop_rate: float = 0.0, drop_path_rate: float = 0.0) -> Self:
        """Dropout and stochastic depth for training; see `supernet.networks.dropout.set_dropout`. Returns self."""
        set_dropout(self.largest, drop_rate, drop_path_rate)
        return self

    @cached_property
    def cost_table(self) -> CostTable:
        """What the parts of any sub-networks cost."""
        _, patch_size, stem_width = self._fixed
        return multi_stage_costs(self.space, patch_size, stem_width, self._head_dims, *self._ends)

    def costs(self, genes: Genes) -> Costs:
        """The same of genes (n_archs, n_genes), for one image."""
        return self.cost_table(genes)

    def _network(self, arch: Architecture) -> MultiStageViT:
        stages = [
            Sizes(int(blocks[0].embed_dim), head_dim, tuple((int(block.heads), int(block.hidden)) for block in blocks))
            for blocks, head_dim in zip(arch.stages, self._head_dims, strict=True)
        ]
        return MultiStageViT(*self._fixed, stages, *self._ends)

    def _cut(self, arch: Architecture) -> tuple[MultiStageViT, dict[str, Tensor]]:
        """A network without data, and the views of the weights that are its own."""
        if arch not in self.space:
            raise ValueError(f"{arch} is not in the space of the supernet")
        with torch.device("meta"):
            small = self._network(arch).train(self.training)
        large: Any = self.largest
        small.head_drop = large.head_drop
        for s, stage in enumerate(arch.stages):
            for b in range(len(stage)):
                block: Any = small.get_submodule(f"stages.{s}.blocks.{b}")
                whole = large.stages[s].blocks[b]
                block.drop_path1, block.drop_path2 = whole.drop_path1, whole.drop_path2
        full = dict(self.largest.named_parameters())
        return small, {n: full[n][tuple(slice(size) for size in p.shape)] for n, p in small.named_parameters()}


@register_supernet("multi_stage_vit")
def _multi_stage_vit(num_classes: int = 1000, in_chans: int = 3, **sizes: Any) -> MeasuredSupernet:
    return MeasuredSupernet(MultiStageSupernet(num_classes, in_chans, **sizes), in_chans, None)


def _masks(chosen: Sequence[Sequence[Any]], whole: Sequence[Any], images: Tensor) -> StageMasks:
    """Of one stage, of which every image has the blocks `chosen`, as far as they go in `whole`."""
    width = first([int(blocks[0].embed_dim) for blocks in chosen], int(whole[0].embed_dim), images)[:, None]
    masks = []
    for b, block in enumerate(whole):
        there = [blocks[b] if b < len(blocks) else None for blocks in chosen]
        heads = first([0 if one is None else int(one.heads) for one in there], int(block.heads), images)
        hidden = first([0 if one is None else int(one.hidden) for one in there], int(block.hidden), images)
        present = images.new_tensor([float(one is not None) for one in there])
        masks.append(BlockMasks(heads[:, :, None, None], hidden[:, None], width * present[:, None, None]))
    return StageMasks(width, tuple(masks))


def _check(
    image_size: int,
    patch_size: int,
    depths: PerStage,
    widths: PerStage,
    heads: PerStage,
    hidden: PerStage,
    head_dims: Sequence[int],
) -> None:
    per_stage = {"depths": depths, "widths": widths, "heads": heads, "hidden": hidden}
    for name, choices in {**per_stage, "head_dims": head_dims}.items():
        if len(choices) != len(widths):
            raise ValueError(
                f"{name} has {len(choices)} stages and widths {len(widths)}; give one entry for each stage"
            )
    for name, choices in per_stage.items():
        for one in choices:
            if not one or min(one) < 1:
                raise ValueError(f"{name} of a stage are {list(one)}; give at least one choice, none below 1")
    step = patch_size * 2 ** (len(widths) - 1)
    if patch_size < 2 or patch_size % 2 or image_size < step or image_size % step:
        raise ValueError(
            f"image_size {image_size} with patch_size {patch_size}: the patch must be even, and with {len(widths)} "
            f"stages the image a multiple of {step}"
        )
    for before, after in pairwise(widths):
        if min(after) < max(before):
            raise ValueError(
                f"width {min(after)} of a stage is below {max(before)} of the one before; widths must grow"
            )
