"""The elastic inverted-residual family: timm MobileNets and EfficientNets with elastic kernels, widths and depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
)
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from supernet.architecture import Architecture, Block
from supernet.networks.choices import check_choices, default_resolutions, depth_choices, own_and_below
from supernet.networks.counting import Part, layer_costs
from supernet.networks.elastic_kernel import KernelTransform, keep_absent_transforms
from supernet.networks.importance import Importance, l1_importance, scores_of
from supernet.networks.slicing import bare_copy, narrow_conv, narrow_norm, shell
from supernet.networks.sorting import descending, permute
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space import Genes, SearchSpace, Stage

__all__ = ["InvertedResidualSupernet", "elastic_inverted_residual", "expanded_width"]

_Block = Any
"""A timm `InvertedResidual`, whose layers type checkers only know as ``Tensor | Module``."""


def expanded_width(width: int, expand: float) -> int:
    """Middle channels of a block: a multiple of 8, never more than 10 % below ``width * expand``."""
    return make_divisible(round(width * expand), 8)


class InvertedResidualSupernet(TimmSupernet[MobileNetV3 | EfficientNet]):
    """A timm `MobileNetV3` or `EfficientNet` as a supernet (Once-for-All, Cai et al. 2020).

    Beside the parameters of the timm model there are the matrices of the elastic kernels, under ``kernel_transforms``.

    Args:
        model: the largest network. Its stages of plain inverted residuals (1x1 expansion and projection, depth-wise
            convolution, BatchNorm, with or without squeeze-excite) become the stages of `space`, in order; every other
            stage is used as it is. The first block of a stage always stays, and so does one without a skip connection.
        space: the choices; the largest architecture must be `model`. Settings of a block are ``kernel`` and ``expand``.

    Raises:
        ValueError: the largest architecture of `space` is not `model`, or the model has parts that are not supported.
    """

    def __init__(self, model: MobileNetV3 | EfficientNet, space: SearchSpace) -> None:
        super().__init__(model, space)
        self.elastic_stages = _elastic_stages(model)
        if len(self.elastic_stages) != len(space.stages):
            raise ValueError(f"the model has {len(self.elastic_stages)} elastic stages; the space {len(space.stages)}")
        self.kernel_transforms = nn.ModuleDict()
        for s, stage, largest in zip(self.elastic_stages, space.stages, space.largest.stages, strict=True):
            modules = _stages(model)[s]
            if len(modules) != len(largest):
                raise ValueError(f"stage {s} of the model has {len(modules)} blocks; the space {len(largest)}")
            if stage.depths[0] < _fewest_blocks(modules):
                raise ValueError(
                    f"depth {stage.depths[0]} of stage {s}: only blocks with a skip connection can be absent"
                )
            for b, (module, block) in enumerate(zip(modules, largest, strict=True)):
                _check_largest(f"blocks.{s}.{b}", module, block)
                kernels = {**stage.shared, **stage.blocks[b]}["kernel"]
                if len(kernels) > 1:
                    self.kernel_transforms[f"{s}_{b}"] = KernelTransform([int(k) for k in kernels])
        self.register_load_state_dict_pre_hook(keep_absent_transforms)

    block_classes = (InvertedResidual,)

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Sort the middle channels of every block, and by the same rule those of squeeze-excite; see the base class."""
        with torch.no_grad():
            for i, s in enumerate(self.elastic_stages):
                for b, module in enumerate(_stages(self)[s]):
                    expands: Sequence[float] = ()
                    if within is not None and b < len(within.stages[i].blocks):
                        expands = {**within.stages[i].shared, **within.stages[i].blocks[b]}["expand"]
                    widths = [expanded_width(module.conv_pw.in_channels, expand) for expand in expands]
                    _sort_block(module, importance, widths)

    # -- putting a sub-network together -------------------------------------------------------------------------------

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        return self._assemble_stages(arch, copy) if name == "blocks" else shell(child, copy)

    def _assemble_stages(self, arch: Architecture, copy: bool) -> nn.Sequential:
        chosen = dict(zip(self.elastic_stages, arch.stages, strict=True))
        stages = []
        for s, stage in enumerate(_stages(self)):
            if s in chosen:  # the blocks that do not exist are the last ones
                pairs = zip(stage, chosen[s], strict=False)
                blocks = [
                    self._narrow_block(f"{s}_{b}", module, block, copy) for b, (module, block) in enumerate(pairs)
                ]
                stages.append(_sequential(blocks, self.training))
            else:
                stages.append(shell(cast(nn.Module, stage), copy))
        return _sequential(stages, self.training)

    def _narrow_block(self, name: str, module: _Block, block: Block, copy: bool) -> _Block:
        middle = expanded_width(module.conv_pw.in_channels, block.expand)
        weight = None
        if block.kernel != module.conv_dw.kernel_size[0]:
            weight = self.kernel_transforms[name](module.conv_dw.weight[:middle], int(block.kernel))
        bare = bare_copy(module, copy)
        for child_name, child in module.named_children():
            if child_name == "conv_pw":
                narrow: nn.Module = narrow_conv(cast(nn.Conv2d, child), copy, out_channels=middle)
            elif child_name == "conv_dw":
                narrow = narrow_conv(cast(nn.Conv2d, child), copy, out_channels=middle, weight=weight)
            elif child_name in ("bn1", "bn2"):
                narrow = narrow_norm(child, copy, middle)
            elif child_name == "se" and isinstance(child, SqueezeExcite):
                narrow = _narrow_squeeze_excite(child, copy, middle)
            elif child_name == "conv_pwl":
                narrow = narrow_conv(cast(nn.Conv2d, child), copy, in_channels=middle)
            else:
                narrow = shell(child, copy)
            bare._modules[child_name] = narrow
        return bare

    # -- counting -----------------------------------------------------------------------------------------------------

    def _parts(self) -> list[Part]:
        columns = {gene.label: i for i, gene in enumerate(self.space.genes)}
        sizes = np.array(self.space.resolutions)
        parts: list[Part] = []

        def fixed(name: str, module: nn.Module, sizes: Genes) -> Genes:
            cost, sizes = layer_costs(module, sizes, pooled=SqueezeExcite)
            parts.append(Part(name, lambda: cost))
            return sizes

        for name in self._template[0]._modules:
            child = cast(nn.Module, getattr(self, name))
            if name == "global_pool" and getattr(child, "pool_type", "avg"):  # '' is no pooling
                sizes = np.ones_like(sizes)
            if name != "blocks":
                if any(True for _ in child.parameters()):
                    sizes = fixed(name, child, sizes)
                continue
            for s, stage in enumerate(_stages(self)):
                for b, module in enumerate(stage):
                    if s not in self.elastic_stages:
                        sizes = fixed(f"blocks.{s}.{b}", module, sizes)
                        continue
                    place = self.elastic_stages.index(s)
                    parts.append(self._block_part(f"{s}_{b}", module, place, b, columns, sizes))
                    sizes = -(-sizes // module.conv_dw.stride[0])
        return parts

    def _block_part(self, name: str, module: _Block, stage: int, b: int, columns: dict[str, int], sizes: Genes) -> Part:
        shared = self.space.stages[stage].shared
        settings = [*shared, *self.space.stages[stage].blocks[b]]
        genes = [
            columns[f"stage{stage + 1}.{n}" if n in shared else f"stage{stage + 1}.block{b + 1}.{n}"] for n in settings
        ]

        def cost(*indices: int) -> Genes:
            choices = {n: self.space.genes[g].choices[i] for n, g, i in zip(settings, genes, indices, strict=True)}
            narrow = self._narrow_block(name, module, Block(**choices), copy=False)
            return layer_costs(narrow, sizes, pooled=SqueezeExcite)[0]

        return Part(f"blocks.{name.replace('_', '.')}", cost, tuple(genes), stage, b)


def elastic_inverted_residual(
    model: MobileNetV3 | EfficientNet,
    *,
    resolutions: Sequence[int] | None = None,
    depths: Sequence[int] | Sequence[Sequence[int]] | None = None,
    kernels: Sequence[int] | None = None,
    expands: Sequence[float] | None = None,
    fractions: Sequence[float] | None = None,
) -> InvertedResidualSupernet:
    """A timm MobileNet or EfficientNet as a supernet. What a block has is always a choice, and its largest one.

    Args:
        resolutions: input sizes in pixels; default: four from 4/7 of the model's to the model's.
        depths: numbers of blocks, for all stages or for each; default: from half of the blocks to all of them.
        kernels: sizes of the depth-wise kernels; default: the odd ones from 3.
        expands: middle widths of a block over its input width.
        fractions: instead of `expands`, middle widths over the block's own; default: a half, three quarters and all.
            Widths are rounded as published, and those that come to the same number count once.

    Raises:
        ValueError: the model has nothing that can be elastic, or a choice is impossible; the message says what is.
    """
    stages = [_stages(model)[s] for s in _elastic_stages(model)]
    blocks = [block for stage in stages for block in stage]
    check_choices("resolutions", resolutions or (), lambda r: r == int(r) and r >= 1, "whole numbers from 1")
    largest_kernel = max(block.conv_dw.kernel_size[0] for block in blocks)
    odd = range(3, largest_kernel + 1, 2)
    check_choices("kernels", kernels or (), lambda k: k in odd, ", ".join(map(str, odd)))
    highest = max(block.conv_pw.out_channels / block.conv_pw.in_channels for block in blocks)
    check_choices("expands", expands or (), lambda e: 0 < e <= highest, f"above 0 up to {highest:.3g}")
    check_choices("fractions", fractions or (), lambda f: 0 < f <= 1, "above 0 up to 1")
    if expands and fractions:
        raise ValueError("expands and fractions both choose the middle widths; give one of them")
    stage_depths = depth_choices(
        depths,
        [_fewest_blocks(stage) for stage in stages],
        [len(stage) for stage in stages],
        [max(_fewest_blocks(stage), -(-len(stage) // 2)) for stage in stages],
    )

    def block_choices(block: _Block) -> dict[str, tuple[float, ...]]:
        width, own = block.conv_pw.in_channels, block.conv_pw.out_channels
        ratios = expands or [own / width * fraction for fraction in fractions or (0.5, 0.75)]
        widths = own_and_below(own, (expanded_width(width, ratio) for ratio in ratios))
        return {
            "kernel": own_and_below(block.conv_dw.kernel_size[0], odd if kernels is None else kernels),
            "expand": tuple(_ratio(width, middle) for middle in widths),
        }

    space = SearchSpace(
        tuple(sorted({*(resolutions or default_resolutions(model))})),
        tuple(Stage(d, tuple(map(block_choices, stage))) for d, stage in zip(stage_depths, stages, strict=True)),
    )
    return InvertedResidualSupernet(model, space)


def _ratio(width: int, middle: int) -> float:
    """The shortest number `expand` of which `middle` is the expanded width."""
    ratios = (round(middle / width, digits) for digits in range(1, 17))
    return next(ratio for ratio in ratios if expanded_width(width, ratio) == middle)


def _elastic_stages(model: nn.Module) -> tuple[int, ...]:
    """Positions of the stages that can be elastic.

    Raises:
        ValueError: there are none, or the model has a kind of block whose costs are not known.
    """
    for s, stage in enumerate(_stages(model)):
        for b, block in enumerate(stage):
            if reason := next(_unknown_parts(block), None):
                raise ValueError(f"blocks.{s}.{b} {reason}, which is not supported")
    reasons = [{reason for block in stage for reason in _obstacles(block)} for stage in _stages(model)]
    elastic = tuple(s for s, why in enumerate(reasons) if not why)
    if not elastic:
        raise ValueError(f"no stage can be elastic: its blocks {'; '.join(sorted(set().union(*reasons)))}")
    return elastic


def _unknown_parts(block: _Block) -> Iterator[str]:
    if type(block) not in (InvertedResidual, DepthwiseSeparableConv, EdgeResidual, ConvBnAct):
        yield f"is a {type(block).__name__}"
    for name, child in block.named_children():
        if name == "aa" and not isinstance(child, nn.Identity):
            yield f"has anti-aliasing ({type(child).__name__})"
        if name == "se" and type(child) not in (SqueezeExcite, nn.Identity):
            yield f"has attention of class {type(child).__name__}"
        if name.startswith("conv") and not isinstance(child, nn.Conv2d):
            yield f"has a {type(child).__name__}"


def _obstacles(block: _Block) -> Iterator[str]:
    kind: type[nn.Module] = type(block)
    if kind is not InvertedResidual:
        yield f"are {kind.__name__}"
        return
    height, width = block.conv_dw.kernel_size
    if block.conv_s2d is not None or height != width or height % 2 == 0:
        yield "move space to depth or have kernels that are not odd and square"
    if block.conv_pw.kernel_size != (1, 1) or block.conv_pwl.kernel_size != (1, 1):
        yield "expand or project with kernels above 1x1"
    if block.conv_dw.groups != block.conv_dw.in_channels or {block.conv_pw.groups, block.conv_pwl.groups} != {1}:
        yield "have grouped convolutions"
    if not all(isinstance(norm, nn.BatchNorm2d) for norm in (block.bn1, block.bn2, block.bn3)):
        yield f"are normalised by {type(block.bn1).__name__}"
    if block.conv_pw.out_channels % 8:
        yield f"have {block.conv_pw.out_channels} middle channels, no multiple of 8"


def _fewest_blocks(stage: Sequence[_Block]) -> int:
    """The first block of a stage stays, and so does every block up to the last one without a skip connection."""
    return max((b + 1 for b, block in enumerate(stage) if not block.has_skip), default=1)


def _stages(model: nn.Module) -> Sequence[Sequence[_Block]]:
    return cast(Any, model.blocks)


def _sequential(modules: Sequence[nn.Module], training: bool) -> nn.Sequential:
    sequential = nn.Sequential(*modules)
    sequential.training = training
    return sequential


def _check_largest(name: str, module: _Block, largest: Block) -> None:
    width = expanded_width(module.conv_pw.in_channels, largest.expand)
    found = (module.conv_dw.kernel_size[0], module.conv_pw.out_channels)
    if found != (largest.kernel, width):
        raise ValueError(
            f"{name} has kernel {found[0]} and {found[1]} middle channels; the largest architecture of the space asks "
            f"for kernel {largest.kernel} and {width} (expand {largest.expand:g})"
        )


def _reduced_width(module: Any, middle: int) -> int:
    """Channels inside a squeeze-excite of `middle` channels: a quarter as a multiple of 8 (the published rule).

    A module that was not made by that rule takes its width from the input of the block, which is not elastic.
    """
    full = module.conv_reduce.out_channels
    return make_divisible(middle // 4, 8) if full == make_divisible(module.conv_reduce.in_channels // 4, 8) else full


def _narrow_squeeze_excite(module: Any, copy: bool, middle: int) -> nn.Module:
    reduced = _reduced_width(module, middle)
    bare = bare_copy(module, copy)
    for name, child in module.named_children():
        if name == "conv_reduce":
            narrow: nn.Module = narrow_conv(cast(nn.Conv2d, child), copy, reduced, middle)
        elif name == "conv_expand":
            narrow = narrow_conv(cast(nn.Conv2d, child), copy, middle, reduced)
        else:
            narrow = shell(child, copy)
        bare._modules[name] = narrow
    return bare


def _sort_block(module: _Block, importance: Importance, trained_widths: Sequence[int]) -> None:
    norms = [module.bn1.weight, module.bn2.weight]
    order = descending(scores_of(importance, [module.conv_pwl.weight], norms), trained_widths)
    permute(module.conv_pwl.weight, order, dim=1)
    for tensor in (module.conv_pw.weight, module.conv_dw.weight):
        permute(tensor, order)
    for norm in (module.bn1, module.bn2):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            permute(tensor, order)
    if not isinstance(module.se, SqueezeExcite):
        return
    reduce, expand = module.se.conv_reduce, module.se.conv_expand
    permute(reduce.weight, order, dim=1)
    permute(expand.weight, order)
    permute(expand.bias, order)
    inner = descending(importance(expand.weight), [_reduced_width(module.se, width) for width in trained_widths])
    permute(expand.weight, inner, dim=1)
    permute(reduce.weight, inner)
    permute(reduce.bias, inner)
