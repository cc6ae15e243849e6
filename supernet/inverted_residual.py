"""The elastic inverted-residual family: timm MobileNetV3 models whose kernels, expansions and depths can be chosen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.mobilenetv3 import MobileNetV3
from torch import Tensor, nn

from supernet.architecture import Architecture, Block
from supernet.counting import Part, layer_costs
from supernet.elastic_kernel import KernelTransform
from supernet.slicing import bare_copy, narrow_conv, narrow_norm, shell
from supernet.space import Genes, SearchSpace
from supernet.timm_supernet import Importance, TimmSupernet, l1_importance

__all__ = ["InvertedResidualSupernet", "expanded_width"]

_Block = Any
"""A timm `InvertedResidual`, whose layers type checkers only know as ``Tensor | Module``."""


def expanded_width(width: int, expand: float) -> int:
    """Middle channels of a block: a multiple of 8, never more than 10 % below ``width * expand``."""
    return make_divisible(round(width * expand), 8)


class InvertedResidualSupernet(TimmSupernet[MobileNetV3]):
    """A timm `MobileNetV3` as a supernet (Once-for-All, Cai et al. 2020).

    Beside the parameters of the timm model there are the matrices of the elastic kernels, under ``kernel_transforms``.

    Args:
        model: the largest network. Its stages of inverted residuals become the stages of `space`, in order; every
            other stage is used as it is.
        space: the choices; the largest architecture must be `model`. Settings of a block are ``kernel`` and ``expand``.

    Raises:
        ValueError: the largest architecture of `space` is not `model`.
    """

    def __init__(self, model: MobileNetV3, space: SearchSpace) -> None:
        super().__init__(model, space)
        self.elastic_stages = tuple(
            s for s, stage in enumerate(_stages(model)) if all(isinstance(b, InvertedResidual) for b in stage)
        )
        if len(self.elastic_stages) != len(space.stages):
            raise ValueError(f"the model has {len(self.elastic_stages)} elastic stages; the space {len(space.stages)}")
        self.kernel_transforms = nn.ModuleDict()
        for s, stage, largest in zip(self.elastic_stages, space.stages, space.largest.stages, strict=True):
            modules = _stages(model)[s]
            if len(modules) != len(largest):
                raise ValueError(f"stage {s} of the model has {len(modules)} blocks; the space {len(largest)}")
            for b, (module, block) in enumerate(zip(modules, largest, strict=True)):
                _check_largest(f"blocks.{s}.{b}", module, block)
                kernels = {**stage.shared, **stage.blocks[b]}["kernel"]
                if len(kernels) > 1:
                    self.kernel_transforms[f"{s}_{b}"] = KernelTransform([int(k) for k in kernels])
        self.register_load_state_dict_pre_hook(_keep_absent_transforms)

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Sort the middle channels of every block, and by the same rule those of squeeze-excite; see the base class."""
        with torch.no_grad():
            for i, s in enumerate(self.elastic_stages):
                for b, module in enumerate(_stages(self)[s]):
                    expands = {**within.stages[i].shared, **within.stages[i].blocks[b]}["expand"] if within else ()
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
        bare = bare_copy(module)
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
            if name == "global_pool":
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
    bare = bare_copy(module)
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
    order = _order(importance(module.conv_pwl.weight), trained_widths)
    _permute(module.conv_pwl.weight, order, dim=1)
    for tensor in (module.conv_pw.weight, module.conv_dw.weight):
        _permute(tensor, order)
    for norm in (module.bn1, module.bn2):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            _permute(tensor, order)
    if not isinstance(module.se, SqueezeExcite):
        return
    reduce, expand = module.se.conv_reduce, module.se.conv_expand
    _permute(reduce.weight, order, dim=1)
    _permute(expand.weight, order)
    _permute(expand.bias, order)
    inner = _order(importance(expand.weight), [_reduced_width(module.se, width) for width in trained_widths])
    _permute(expand.weight, inner, dim=1)
    _permute(reduce.weight, inner)
    _permute(reduce.bias, inner)


def _order(scores: Tensor, trained_widths: Sequence[int]) -> Tensor:
    """Indices by descending score, each segment between the trained widths sorted on its own."""
    bounds = sorted({0, *trained_widths, len(scores)})
    segments = [
        start + torch.argsort(scores[start:stop], descending=True, stable=True) for start, stop in pairwise(bounds)
    ]
    return torch.cat(segments)


def _permute(tensor: Any, order: Tensor, dim: int = 0) -> None:
    tensor.copy_(tensor.index_select(dim, order))


def _keep_absent_transforms(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """A state dict of timm has no kernel matrices; loading it keeps those there are."""
    own = {
        f"{prefix}kernel_transforms.{k}": v for k, v in cast(nn.Module, module.kernel_transforms).state_dict().items()
    }
    if not own.keys() & state.keys():
        state.update(own)
