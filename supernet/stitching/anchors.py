"""A pretrained network as a row of blocks between a stem and a head, and where two such rows correspond."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

__all__ = ["Anchor", "places"]

_M = TypeVar("_M", bound=nn.Module)


class Anchor(nn.Module):
    """A copy of a timm model, taken apart: a stem, `blocks` and a head, which one after the other compute what it does.

    Attributes:
        kind: the class of the model.
        rows: numbers of blocks of its stages; a transformer is a single stage.
        in_chans: channels of its images.
        num_classes: logits.

    Raises:
        ValueError: the model is of another class.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.kind: type[nn.Module] = type(model)
        if isinstance(model, ResNet) and self.kind is ResNet:
            stages: list[nn.Sequential] = [model.layer1, model.layer2, model.layer3, model.layer4]  # type: ignore[list-item]
            head: nn.Module = _Head(_without(model, *_RESNET_STEM, *_RESNET_STAGES))
            self.stem = _Stem(_without(model, *_RESNET_STAGES, "fc"))
        elif isinstance(model, VisionTransformer) and self.kind is VisionTransformer:
            stages = [model.blocks]
            head = nn.Sequential(
                copy.deepcopy(model.norm), _Head(_without(model, *_TRANSFORMER_STEM, "blocks", "norm"))
            )
            self.stem = _Stem(_without(model, "blocks", *_TRANSFORMER_HEAD))
        else:
            raise ValueError(f"a {self.kind.__name__} cannot be stitched; a ResNet or a VisionTransformer of timm can")
        self.rows = tuple(len(stage) for stage in stages)
        self.blocks = nn.ModuleList(copy.deepcopy(block) for stage in stages for block in stage)
        self.head = head
        self.in_chans = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        self.num_classes = model.num_classes

    def activations(self, images: Tensor) -> list[Tensor]:
        """What comes out of the stem and of every block, for images (batch, channels, height, width)."""
        found: list[Tensor] = [self.stem(images)]
        for block in self.blocks:
            found.append(block(found[-1]))
        return found

    def shapes(self, resolution: int) -> list[torch.Size]:
        """The shapes of `activations` for one image of a side of `resolution` pixels.

        Raises:
            ValueError: the network takes no such image.
        """
        shadow = copy.deepcopy(self).to("meta", torch.float32).eval()
        try:
            with torch.no_grad():
                return [
                    x.shape for x in shadow.activations(torch.zeros(1, self.in_chans, *[resolution] * 2, device="meta"))
                ]
        except (AssertionError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"a {self.kind.__name__} takes no images of {resolution} pixels: {reason}") from error


def places(
    rows: tuple[Sequence[int], Sequence[int]], shapes: tuple[Sequence[torch.Size], Sequence[torch.Size]], overlap: int
) -> Mapping[int, Sequence[int]]:
    """After how many blocks of the first network the second can go on, and after how many of its own it does.

    Stages correspond in turn, and within a stage the share of blocks that are done. `overlap` is how many of those
    blocks of the second may be run nevertheless. A place where the shapes differ in more than the channels is none, and
    the second goes on only where it has as many channels as at the first of its places.

    Args:
        rows: numbers of blocks of the stages of both.
        shapes: of what comes out of the stem and of every block of both.
    """
    found: dict[int, list[int]] = {}
    done = before = 0
    for first, second in zip(*rows, strict=True):
        for n in range(1, first + 1):
            there = before + max(1, (2 * n * second + first) // (2 * first))  # rounded, half a block up
            possible = range(there, max(0, there - overlap) - 1, -1)
            goals = [q for q in possible if q < sum(rows[1]) and _fits(shapes[0][done + n], shapes[1][q])]
            if goals:  # those of as many channels share a stitch
                found[done + n] = [q for q in goals if shapes[1][q] == shapes[1][goals[0]]]
        done, before = done + first, before + second
    return found


def _fits(a: torch.Size, b: torch.Size) -> bool:
    """Whether maps (batch, channels, height, width) or tokens (batch, n, channels) differ in channels alone."""
    return len(a) == len(b) and (a[2:] == b[2:] if len(a) == 4 else a[1] == b[1])


class _Stem(nn.Module):
    def __init__(self, model: ResNet | VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.forward_features(images)


class _Head(nn.Module):
    def __init__(self, model: ResNet | VisionTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.forward_head(features)


_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
_RESNET_STEM = ("conv1", "bn1", "act1", "maxpool")
_TRANSFORMER_STEM = ("patch_embed", "pos_drop", "patch_drop", "norm_pre", "cls_token", "reg_token", "pos_embed")
_TRANSFORMER_HEAD = ("norm", "attn_pool", "fc_norm", "head_drop", "head")


def _without(model: _M, *names: str) -> _M:
    """A copy in which modules pass on what they get, and parameters are None."""
    model = copy.copy(model)  # so that what is left out is not copied
    model._modules, model._parameters = dict(model._modules), dict(model._parameters)
    for name in names:
        if model._modules.get(name) is not None:
            model._modules[name] = nn.Identity()
        elif name in model._parameters:
            model._parameters[name] = None
    return copy.deepcopy(model)
