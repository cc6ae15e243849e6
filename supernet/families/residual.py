"""The elastic residual family: timm ResNets whose depths, middle widths and stage widths can be chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from timm.layers.helpers import make_divisible
from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from supernet.architecture import Architecture, Number
from supernet.networks.choices import check_choices, default_resolutions, depth_choices, own_and_below
from supernet.networks.counting import Part, layer_costs
from supernet.networks.importance import Importance, l1_importance
from supernet.networks.slicing import bare_copy, narrow_conv, narrow_linear, narrow_norm, shell
from supernet.networks.sorting import sort_between
from supernet.networks.timm_supernet import TimmSupernet
from supernet.space import Genes, SearchSpace, Stage

__all__ = ["ResidualSupernet", "elastic_resnet"]

_Block = Any
"""A timm `BasicBlock` or `Bottleneck`, whose layers type checkers only know as ``Tensor | Module``."""

_LAYERS = ("layer1", "layer2", "layer3", "layer4")


def elastic_resnet(
    model: ResNet,
    *,
    resolutions: Sequence[int] | None = None,
    depths: Sequence[int] | Sequence[Sequence[int]] | None = None,
    fractions: Sequence[float] = (0.5, 0.75),
    widths: Sequence[float] = (),
) -> ResidualSupernet:
    """A timm ResNet, ResNet-D, ResNeXt or Wide-ResNet as a supernet. What the model has is always the largest choice.

    Args:
        resolutions: input sizes in pixels; default: four from 4/7 of the model's to the model's.
        depths: numbers of blocks, for all stages or for each; default: from half of the blocks to all of them.
        fractions: middle widths over the block's own; default: a half, three quarters and all. Widths are multiples of
            8 and of whole groups, and those that come to the same number count once.
        widths: output widths of a stage over its own, one for all its blocks; default: as they are.

    Raises:
        ValueError: the model is not of this family or has parts that cannot be narrowed, or a choice is impossible;
            the message says what is.
    """
    _check_supported(model)
    check_choices("resolutions", resolutions or (), lambda r: r == int(r) and r >= 1, "whole numbers from 1")
    check_choices("fractions", fractions, lambda f: 0 < f <= 1, "above 0 up to 1")
    check_choices("widths", widths, lambda w: 0 < w <= 1, "above 0 up to 1")
    if any(width < 1 for width in widths):
        _check_elastic_outputs(model)
    layers = [cast(Sequence[_Block], getattr(model, name)) for name in _LAYERS]
    own = [len(layer) for layer in layers]
    shared = {"width": own_and_below(1.0, widths)} if any(width < 1 for width in widths) else {}
    stages = tuple(
        Stage(depths, tuple({"expand": _distinct(module, own_and_below(1.0, fractions))} for module in layer), shared)
        for depths, layer in zip(depth_choices(depths, [1] * 4, own, [-(-n // 2) for n in own]), layers, strict=True)
    )
    return ResidualSupernet(model, SearchSpace(tuple(sorted({*(resolutions or default_resolutions(model))})), stages))


class ResidualSupernet(TimmSupernet[ResNet]):
    """A timm `ResNet` as a supernet.

    Settings of a block are ``expand``, its middle width as a fraction of the model's, and, where a stage shares one,
    ``width``, its output width as a fraction of the model's. Grouped convolutions are narrowed by whole groups.
    """

    block_classes = (BasicBlock, Bottleneck)

    def __init__(self, model: ResNet, space: SearchSpace) -> None:
        super().__init__(model, space)
        if len(space.stages) != len(_LAYERS):
            raise ValueError(f"a ResNet has {len(_LAYERS)} stages; the space has {len(space.stages)}")
        for name, stage in zip(_LAYERS, space.largest.stages, strict=True):
            if len(stage) != len(self._layer(name)):
                raise ValueError(f"{name} has {len(self._layer(name))} blocks; the space {len(stage)}")

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Sort the middle channels of every block, and the outputs of every stage whose width can be chosen.

        The inputs of the last convolution of a block are sorted first, then those of the one before it.
        """
        with torch.no_grad():
            for s, name in enumerate(_LAYERS):
                for b, module in enumerate(self._layer(name)):
                    self._sort_middle(module, importance, self._trained_middles(module, within, s, b))
                if "width" in self.space.stages[s].shared:
                    self._sort_outputs(s, importance, self._trained_outputs(within, s))

    # -- widths -------------------------------------------------------------------------------------------------------

    def _layer(self, name: str) -> Sequence[_Block]:
        return cast(Sequence[_Block], getattr(self, name))

    def _stem_width(self, settings: Mapping[str, Number]) -> int:
        """Channels that reach the first stage."""
        return cast(nn.BatchNorm2d, self.bn1).num_features

    def _output_width(self, s: int, width: float) -> int:
        return make_divisible(_last_norm(self._layer(_LAYERS[s])[0]).num_features * width, 8)

    def _middle_width(self, module: _Block, n_out: int, expand: float) -> int:
        """Middle channels of a block with `n_out` active outputs."""
        return _middle_width(module, expand * n_out / _last_norm(module).num_features)

    def _widths(self, arch: Architecture) -> list[int]:
        """Channels after the stem and after every stage."""
        outputs = [self._output_width(s, stage[0].get("width", 1.0)) for s, stage in enumerate(arch.stages)]
        return [self._stem_width(arch.settings), *outputs]

    # -- putting a sub-network together -------------------------------------------------------------------------------

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        if name in _LAYERS:
            return self._assemble_layer(name, arch, copy)
        if name == "fc" and isinstance(child, nn.Linear):
            last = self._output_width(len(_LAYERS) - 1, arch.stages[-1][0].get("width", 1.0))
            factor = child.in_features // cast(int, self._template[0].num_features)  # 2 where two poolings are joined
            return narrow_linear(child, copy, in_features=factor * last)
        return shell(child, copy)

    def _assemble_layer(self, name: str, arch: Architecture, copy: bool) -> nn.Sequential:
        s = _LAYERS.index(name)
        n_in, n_out = self._widths(arch)[s : s + 2]
        blocks = []
        for module, block in zip(self._layer(name), arch.stages[s], strict=False):  # the absent blocks are the last
            middle = self._middle_width(module, n_out, block.expand)
            blocks.append(_narrow_block(module, copy, n_in, middle, n_out))
            n_in = n_out
        layer = nn.Sequential(*blocks)
        layer.training = self.training
        return layer

    def _adapt(self, model: ResNet, arch: Architecture) -> None:
        widths = self._widths(arch)
        model.num_features = widths[-1]
        model.head_hidden_size = widths[-1] * model.global_pool.feat_mult()
        model.feature_info = [
            {**info, "num_chs": width} for info, width in zip(self._template[0].feature_info, widths, strict=True)
        ]

    # -- sorting ------------------------------------------------------------------------------------------------------

    def _trained_outputs(self, within: SearchSpace | None, s: int) -> set[int]:
        if within is None:
            return set()
        return {self._output_width(s, width) for width in within.stages[s].shared.get("width", (1.0,))}

    def _trained_middles(self, module: _Block, within: SearchSpace | None, s: int, b: int) -> set[int]:
        if within is None or b >= len(within.stages[s].blocks):
            return set()
        expands = within.stages[s].blocks[b]["expand"]
        return {self._middle_width(module, n, e) for n, e in product(self._trained_outputs(within, s), expands)}

    def _sort_middle(self, module: _Block, importance: Importance, trained_widths: set[int]) -> None:
        first, second = (module.conv1, module.bn1), (module.conv2, module.bn2)
        if isinstance(module, BasicBlock):
            sort_between(first, [module.conv2], importance, trained_widths)
        elif module.conv2.groups > 1:  # a group keeps its inputs, so both move together
            group = module.conv2.out_channels // module.conv2.groups
            sort_between((*first, *second), [module.conv3], importance, trained_widths, group)
        else:
            sort_between(second, [module.conv3], importance, trained_widths)
            sort_between(first, [module.conv2], importance, trained_widths)

    def _sort_outputs(self, s: int, importance: Importance, trained_widths: set[int]) -> None:
        layer = self._layer(_LAYERS[s])
        writers = [m for module in layer for m in (_last_conv(module), _last_norm(module))]
        writers += layer[0].downsample[-2:]
        readers = [module.conv1 for module in layer[1:]]
        if s + 1 < len(_LAYERS):
            following = self._layer(_LAYERS[s + 1])[0]
            readers += [following.conv1, following.downsample[-2]]
        elif isinstance(self.fc, nn.Linear):
            readers.append(self.fc)
        if readers:
            sort_between(writers, readers, importance, trained_widths)

    # -- counting -----------------------------------------------------------------------------------------------------

    def _parts(self) -> list[Part]:
        columns = {gene.label: i for i, gene in enumerate(self.space.genes)}
        sizes = np.array(self.space.resolutions)
        stem = list(self.space.settings)
        parts = [self._part("stem", [columns[label] for label in stem], self._stem_costs, sizes)]
        for name in ("conv1", "maxpool"):
            sizes = _size_after(cast(nn.Module, getattr(self, name)), sizes)
        before = stem
        for s, name in enumerate(_LAYERS):
            own = [f"stage{s + 1}.width"] if "width" in self.space.stages[s].shared else []
            for b, module in enumerate(self._layer(name)):
                labels = [f"stage{s + 1}.block{b + 1}.expand", *own, *(before if b == 0 else [])]
                count = partial(self._block_costs, s, b)
                parts.append(self._part(f"{name}.{b}", [columns[label] for label in labels], count, sizes, s, b))
                sizes = _size_after(module, sizes)
            before = own
        parts.append(self._part("fc", [columns[label] for label in before], self._head_costs, sizes))
        return parts

    def _part(
        self,
        name: str,
        genes: list[int],
        count: Callable[[Architecture, Genes], Genes],
        sizes: Genes,
        stage: int | None = None,
        block: int | None = None,
    ) -> Part:
        """A part whose costs are counted on architectures that differ from the largest in `genes` alone."""

        def cost(*indices: int) -> Genes:
            row = self.space.n_choices - 1
            row[genes] = indices
            return count(self.space.decode(row[None])[0], sizes)

        return Part(name, cost, tuple(genes), stage, block)

    def _stem_costs(self, arch: Architecture, sizes: Genes) -> Genes:
        names = ("conv1", "bn1", "act1", "maxpool")
        children = [self._narrow_child(name, cast(nn.Module, getattr(self, name)), arch, copy=False) for name in names]
        return layer_costs(nn.Sequential(*children), sizes)[0]

    def _block_costs(self, s: int, b: int, arch: Architecture, sizes: Genes) -> Genes:
        n_in, n_out = self._widths(arch)[s : s + 2]
        module = self._layer(_LAYERS[s])[b]
        middle = self._middle_width(module, n_out, arch.stages[s][b].expand)
        narrow = _narrow_block(module, False, n_in if b == 0 else n_out, middle, n_out)
        downsample = narrow._modules.pop("downsample", None)
        costs, after = layer_costs(narrow, sizes, pooled=SEModule)
        if downsample is not None:  # beside the others; a pooling in it has halved what its convolution sees
            conv = downsample[-2]
            costs = costs + layer_costs(downsample, sizes if conv.stride[0] > 1 else after)[0]
        return costs

    def _head_costs(self, arch: Architecture, sizes: Genes) -> Genes:
        head = self._narrow_child("fc", cast(nn.Module, self.fc), arch, copy=False)
        return layer_costs(nn.Sequential(head), np.ones_like(sizes))[0]


def _narrow_block(module: _Block, copy: bool, n_in: int, middle: int, n_out: int) -> _Block:
    second = middle if isinstance(module, Bottleneck) else n_out
    widths = {"conv1": (n_in, middle), "conv2": (middle, second), "conv3": (middle, n_out)}
    bare = bare_copy(module, copy)
    for name, child in module.named_children():
        if name in widths:
            narrow: nn.Module = narrow_conv(cast(nn.Conv2d, child), copy, widths[name][1], widths[name][0])
        elif name in ("bn1", "bn2", "bn3"):
            narrow = narrow_norm(child, copy, widths[name.replace("bn", "conv")][1])
        elif name == "downsample":
            *pools, conv, norm = cast(Any, child)
            narrow = bare_copy(child, copy)
            layers = [
                *(shell(pool, copy) for pool in pools),
                narrow_conv(conv, copy, n_out, n_in),
                narrow_norm(norm, copy, n_out),
            ]
            narrow._modules = {str(i): layer for i, layer in enumerate(layers)}
        else:
            narrow = shell(child, copy)
        bare._modules[name] = narrow
    return bare


def _last_conv(module: _Block) -> Any:
    return module.conv3 if isinstance(module, Bottleneck) else module.conv2


def _last_norm(module: _Block) -> Any:
    return module.bn3 if isinstance(module, Bottleneck) else module.bn2


def _middle_width(module: _Block, fraction: float) -> int:
    """The fraction of a block's middle channels as a multiple of 8, and of whole groups; all of them for 1."""
    full, groups = module.conv1.out_channels, module.conv2.groups
    group = module.conv2.out_channels // groups if groups > 1 else 1
    return full if fraction == 1 else min(full, make_divisible(full * fraction, math.lcm(8, group)))


def _size_after(module: nn.Module, sizes: Genes) -> Genes:
    """Edge lengths of square feature maps after a stem, a pooling or a block."""
    strides = (
        [module.stride]
        if isinstance(module, BasicBlock | Bottleneck)
        else [m.stride for m in module.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d)]
    )
    for stride in strides:
        sizes = -(-sizes // (stride if isinstance(stride, int) else stride[0]))
    return sizes


def _distinct(module: _Block, expands: Sequence[float]) -> tuple[float, ...]:
    """The largest fraction for every middle width that the block can have."""
    by_width = {_middle_width(module, expand): expand for expand in expands}
    return tuple(by_width.values())


def _check_supported(model: nn.Module) -> None:
    if not isinstance(model, ResNet):
        raise ValueError(f"{type(model).__name__} is not a timm ResNet")
    for layer, b, module in ((n, b, m) for n in _LAYERS for b, m in enumerate(cast(Any, getattr(model, n)))):
        where = f"{layer}.{b}"
        if type(module) not in (BasicBlock, Bottleneck):
            raise ValueError(
                f"{where} is of class {type(module).__name__}; only BasicBlock and Bottleneck can be elastic"
            )
        for name, known, why in (
            ("aa", nn.Identity, "anti-aliasing cannot be narrowed"),
            ("drop_block", nn.Identity, "DropBlock is not supported; build the model with drop_block_rate=0"),
            ("se", SEModule, "of the attention layers only squeeze-excite (SEModule) is supported"),
            ("bn1", nn.BatchNorm2d, "only BatchNorm can be narrowed"),
        ):
            part = getattr(module, name, None)
            if part is not None and not isinstance(part, known):
                raise ValueError(f"{where}.{name} is of class {type(part).__name__}: {why}")
        if module.conv1.out_channels != module.conv2.in_channels or (
            isinstance(module, Bottleneck) and module.conv2.in_channels != module.conv2.out_channels
        ):
            raise ValueError(f"{where} has two middle widths (reduce_first above 1); only one width can be elastic")


def _check_elastic_outputs(model: Any) -> None:
    for name in _LAYERS:
        if getattr(model, name)[0].downsample is None:
            raise ValueError(f"{name} adds its input to its output, so its width is fixed; possible widths: 1")
        if getattr(model, name)[0].se is not None:
            raise ValueError(f"{name} has squeeze-excite on its outputs, so its width is fixed; possible widths: 1")
    if model.global_pool.feat_mult() != 1:
        raise ValueError("the head joins two poolings, so the widths are fixed; possible widths: 1")
