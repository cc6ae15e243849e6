"""A vision transformer of several stages, between which space is reduced residually (ViT-ResNAS, Liao et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supernet.networks.masking import MaskedLayerNorm

__all__ = ["Block", "BlockMasks", "MultiStageViT", "Reduction", "Sizes", "StageMasks", "Stem"]

_EPS = 1e-6


class Sizes(NamedTuple):
    """Of a stage: the embedding width, the width of a head, and per block its heads and the neurons of its MLP."""

    width: int
    head_dim: int
    blocks: tuple[tuple[int, int], ...]


class BlockMasks(NamedTuple):
    """What a block is for every image: heads (batch, heads, 1, 1), neurons (batch, 1, neurons), and its output
    (batch, 1, width), which is 0 where there is no such block."""

    heads: Tensor
    hidden: Tensor
    output: Tensor


class StageMasks(NamedTuple):
    """The embedding (batch, 1, width) of every image, and its blocks."""

    width: Tensor
    blocks: tuple[BlockMasks, ...]


class MultiStageViT(nn.Module):
    """A class token and a grid of tokens, whose sides halve and whose width grows from stage to stage.

    Every tensor of a smaller network of the kind is made of the first values of that of a larger one.

    Args:
        image_size: side of the square images in pixels; a multiple of the patch times 2 to the number of reductions.
        patch_size: side of what becomes one token, in pixels; even.
        stem_width: channels of the convolutions before the tokens.
        stages: sizes of each; the width of none is below the one before.
        num_classes: logits.
        in_chans: channels of the images.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        stem_width: int,
        stages: Sequence[Sizes],
        num_classes: int,
        in_chans: int,
    ) -> None:
        super().__init__()
        side, width = image_size // patch_size, stages[0].width
        self.stem = Stem(in_chans, stem_width, width, patch_size)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + side**2, width))
        self.stages = nn.ModuleList()
        self.reductions = nn.ModuleList()
        for i, stage in enumerate(stages):
            if i:
                side //= 2
                self.reductions.append(Reduction(stages[i - 1].width, stage.width, side))
            self.stages.append(_Stage(stage))
        self.norm = MaskedLayerNorm(stages[-1].width, eps=_EPS)
        self.head_drop = nn.Dropout(0.0)
        self.head = nn.Linear(stages[-1].width, num_classes)

    def forward(self, images: Tensor, masks: tuple[StageMasks, ...] | None = None) -> Tensor:
        """Logits (batch, num_classes) of images (batch, in_chans, image_size, image_size).

        With `masks` every image runs on a smaller network of its own; those computed are as costly as this one.
        """
        x = self.stem(images)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        width = None
        for i, stage in enumerate(self.stages):
            own = None if masks is None else masks[i]
            if i:
                x = self.reductions[i - 1](x, width)
            if own is not None:
                width = own.width
                x = x * width
            x = stage(x, own)
        return self.head(self.head_drop(self.norm(x, width)[:, 0]))


class Stem(nn.Module):
    """Images to tokens: a convolution that halves, two with a shortcut, and a projection."""

    def __init__(self, in_chans: int, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, channels, 3, 2, 1)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)
        self.conv3 = nn.Conv2d(channels, channels, 3, 1, 1)
        # Over the channels of each pixel alone: the same whatever else is in the batch.
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=_EPS) for _ in range(3))
        self.projection = nn.Conv2d(channels, width, patch_size // 2, patch_size // 2)

    def forward(self, images: Tensor) -> Tensor:
        x = self._normed(self.conv1(images), 0)
        x = x + self._normed(self.conv3(self._normed(self.conv2(x), 1)), 2)
        return self.projection(x).flatten(2).transpose(1, 2)

    def _normed(self, x: Tensor, which: int) -> Tensor:
        return F.gelu(self.norms[which](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class Reduction(nn.Module):
    """Half the side and a larger width: a strided convolution of the normed tokens, and their average pool padded."""

    def __init__(self, before: int, width: int, side: int) -> None:
        super().__init__()
        self.norm = MaskedLayerNorm(before, eps=_EPS)
        self.conv = nn.Conv2d(before, width, 3, 2, 1)
        self.cls = nn.Linear(before, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side**2, width))
        self._side = side

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.norm(x, mask)
        grid = self.conv(self._grid(normed)).flatten(2).transpose(1, 2) + self.pos_embed
        main = torch.cat([self.cls(normed[:, :1]), grid], dim=1)
        pooled = F.avg_pool2d(self._grid(x), 2).flatten(2).transpose(1, 2)
        residual = torch.cat([x[:, :1], pooled], dim=1)
        return main + F.pad(residual, (0, main.shape[-1] - x.shape[-1]))

    def _grid(self, x: Tensor) -> Tensor:
        side = 2 * self._side
        return x[:, 1:].transpose(1, 2).reshape(x.shape[0], -1, side, side)


class _Stage(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(sizes.width, sizes.head_dim, *block) for block in sizes.blocks)

    def forward(self, x: Tensor, masks: StageMasks | None = None) -> Tensor:
        for i, block in enumerate(self.blocks):
            x = block(x) if masks is None else block(x, masks.width, masks.blocks[i])
        return x


class Block(nn.Module):
    """Attention, then an MLP."""

    def __init__(self, width: int, head_dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self._head_dim = head_dim
        self.norm1, self.norm2 = (MaskedLayerNorm(width, eps=_EPS) for _ in range(2))
        self.qkv = nn.Linear(width, heads * 3 * head_dim)  # query, key and value of the first head, of the second, ...
        self.proj = nn.Linear(heads * head_dim, width)
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.drop_path1: nn.Module = nn.Identity()
        self.drop_path2: nn.Module = nn.Identity()

    def forward(self, x: Tensor, width: Tensor | None = None, masks: BlockMasks | None = None) -> Tensor:
        heads, hidden, output = (None, None, None) if masks is None else masks
        batch, tokens, _ = x.shape
        qkv = self.qkv(self.norm1(x, width)).reshape(batch, tokens, -1, 3, self._head_dim).permute(3, 0, 2, 1, 4)
        q, k, v = qkv.unbind(0)
        attended = _masked(F.scaled_dot_product_attention(q, k, v), heads).transpose(1, 2).flatten(2)
        # What is added is masked: then so is the sum, since what it is added to was.
        x = x + self.drop_path1(_masked(self.proj(attended), output))
        neurons = _masked(F.gelu(self.fc1(self.norm2(x, width))), hidden)
        return x + self.drop_path2(_masked(self.fc2(neurons), output))


def _masked(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
