"""The published once-for-all ResNet50-D: the space, and how a sub-network is cut out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from timm.layers.helpers import make_divisible
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from supernet.architecture import Architecture
from supernet.families.inverted_residual import expanded_width
from supernet.networks.counting import Part, layer_costs
from supernet.networks.importance import Importance, l1_importance
from supernet.networks.slicing import bare_copy, narrow_conv, narrow_linear, narrow_norm, shell
from supernet.networks.sorting import sort_between
from supernet.networks.timm_supernet import TimmSupernet
from supernet.ofa.resnet_d import resnet_d
from supernet.registry import register_supernet
from supernet.space import Genes, SearchSpace, Stage

__all__ = ["OnceForAllResNet"]

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_STEM_WIDTHS = ("stem_mid_width", "stem_out_width")


@register_supernet("ofa_resnet50d")
def _ofa_resnet50d(num_classes: int, in_chans: int) -> OnceForAllResNet:
    """The published space (Once-for-All, Cai et al. 2020): 0 to 2 blocks more than 2, 2, 4 and 2, and elastic widths.

    `expand` is the middle width of a block as a fraction of its active outputs; `width`, `stem_mid_width` and
    `stem_out_width` are fractions of the largest; `stem_residual` is 1 where the stem keeps its residual convolution.
    """
    expands, widths = (0.2, 0.25, 0.35), (0.65, 0.8, 1.0)
    outputs, depths = (256, 512, 1024, 2048), (2, 2, 4, 2)
    stages = tuple(
        Stage((base, base + 1, base + 2), ({"expand": expands},) * (base + 2), {"width": widths}) for base in depths
    )
    settings = {"stem_residual": (0, 1), "stem_mid_width": widths, "stem_out_width": widths}
    model = resnet_d(
        (32, 64),
        True,
        outputs,
        [[expanded_width(out, max(expands))] * (base + 2) for out, base in zip(outputs, depths, strict=True)],
        num_classes,
        in_chans,
    )
    return OnceForAllResNet(model, SearchSpace(tuple(range(128, 225, 4)), stages, settings))


class OnceForAllResNet(TimmSupernet[ResNet]):
    """The published elastic ResNet-D, as `resnet_d` makes it: a stem and four stages of bottlenecks.

    The settings are those of the space of ``ofa_resnet50d``. Middle widths follow the active width of their stage.
    """

    block_classes = (Bottleneck,)

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        """Sort the middle channels of every block, the outputs of every stage, and the stem.

        The inputs of the last convolution of a block are sorted first, then those of the one before it.
        """
        with torch.no_grad():
            for s in range(len(_LAYERS)):
                outputs = {self._output_width(s, w) for w in within.stages[s].shared["width"]} if within else set()
                for b, block in enumerate(self._layer(s)):
                    expands = (
                        within.stages[s].blocks[b]["expand"] if within and b < len(within.stages[s].blocks) else ()
                    )
                    middles = {expanded_width(n, expand) for n, expand in product(outputs, expands)}
                    sort_between((block.conv2, block.bn2), [block.conv3], importance, middles)
                    sort_between((block.conv1, block.bn1), [block.conv2], importance, middles)
                self._sort_outputs(s, importance, outputs)
            self._sort_stem(importance, within)

    # -- widths -------------------------------------------------------------------------------------------------------

    def _layer(self, s: int) -> Sequence[Any]:
        return cast(Sequence[Any], getattr(self, _LAYERS[s]))

    def _stem_width(self, name: str, width: float) -> int:
        conv1 = cast(Any, self.conv1)
        return make_divisible((conv1[0] if name == "stem_mid_width" else conv1[-1]).out_channels * width, 8)

    def _output_width(self, s: int, width: float) -> int:
        return make_divisible(self._layer(s)[0].conv3.out_channels * width, 8)

    def _widths(self, arch: Architecture) -> list[int]:
        """Channels after the stem and after every stage."""
        outputs = [self._output_width(s, stage[0].width) for s, stage in enumerate(arch.stages)]
        return [self._stem_width("stem_out_width", arch.settings.stem_out_width), *outputs]

    # -- putting a sub-network together -------------------------------------------------------------------------------

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        if name in _LAYERS:
            return self._narrow_layer(_LAYERS.index(name), arch, copy)
        if name == "conv1":
            return self._narrow_stem(child, arch, copy)
        if name == "bn1":
            return narrow_norm(child, copy, self._widths(arch)[0])
        if name == "fc" and isinstance(child, nn.Linear):
            return narrow_linear(child, copy, in_features=self._widths(arch)[-1])
        return shell(child, copy)

    def _narrow_stem(self, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        mid, out = (self._stem_width(setting, arch.settings[setting]) for setting in _STEM_WIDTHS)
        conv, norm, act, residual, last = cast(Any, child)
        layers = [narrow_conv(conv, copy, mid), narrow_norm(norm, copy, mid), shell(act, copy)]
        if arch.settings.stem_residual:
            conv, norm, act = residual
            branch = [narrow_conv(conv, copy, mid, mid), narrow_norm(norm, copy, mid), shell(act, copy)]
            layers.append(_filled(residual, branch, copy))
        else:  # keeps the names of the layers after it
            layers.append(nn.Identity())
        return _filled(child, [*layers, narrow_conv(last, copy, out, mid)], copy)

    def _narrow_layer(self, s: int, arch: Architecture, copy: bool) -> nn.Sequential:
        n_in, n_out = self._widths(arch)[s : s + 2]
        blocks = []
        for block, chosen in zip(self._layer(s), arch.stages[s], strict=False):  # the absent blocks are the last
            blocks.append(_narrow_block(block, copy, n_in, expanded_width(n_out, chosen.expand), n_out))
            n_in = n_out
        layer = nn.Sequential(*blocks)
        layer.training = self.training
        return layer

    def _adapt(self, model: ResNet, arch: Architecture) -> None:
        widths = self._widths(arch)
        model.num_features = model.head_hidden_size = widths[-1]
        model.feature_info = [
            {**info, "num_chs": width} for info, width in zip(self._template[0].feature_info, widths, strict=True)
        ]

    # -- sorting ------------------------------------------------------------------------------------------------------

    def _sort_outputs(self, s: int, importance: Importance, trained: set[int]) -> None:
        first, *others = self._layer(s)
        writers = [layer for block in (first, *others) for layer in (block.conv3, block.bn3)]
        readers = [block.conv1 for block in others]
        if s + 1 < len(_LAYERS):
            following = self._layer(s + 1)[0]
            readers += [following.conv1, following.downsample[-2]]
        elif isinstance(self.fc, nn.Linear):
            readers.append(self.fc)
        sort_between([*writers, *first.downsample[-2:]], readers, importance, trained)

    def _sort_stem(self, importance: Importance, within: SearchSpace | None) -> None:
        conv1, bn1, first = cast(Any, self.conv1), self.bn1, self._layer(0)[0]
        mid, out = (
            {self._stem_width(name, width) for width in within.settings[name]} if within else set()
            for name in _STEM_WIDTHS
        )
        residual, last = conv1[3], conv1[4]
        sort_between([last, bn1], [first.conv1, first.downsample[-2]], importance, out)
        # The identity ties the inputs of the residual convolution to its outputs.
        sort_between([conv1[0], conv1[1], residual[0], residual[1]], [residual[0], last], importance, mid)

    # -- counting -----------------------------------------------------------------------------------------------------

    def _parts(self) -> list[Part]:
        sizes = np.array(self.space.resolutions)
        before = list(self.space.settings)
        stem = ("conv1", "bn1", "act1", "maxpool")
        parts = [self._part("stem", before, lambda arch: self._narrowed(stem, arch), sizes)]
        sizes = -(-sizes // 4)
        for s, name in enumerate(_LAYERS):
            own = [f"stage{s + 1}.width"]
            for b, block in enumerate(self._layer(s)):
                labels = [f"stage{s + 1}.block{b + 1}.expand", *own, *(before if b == 0 else [])]
                one = partial(self._narrowed_block, s, b)
                parts.append(self._part(f"{name}.{b}", labels, one, sizes, s, b))
                sizes = -(-sizes // block.stride)
            before = own
        parts.append(self._part("fc", before, lambda arch: self._narrowed(["fc"], arch), np.ones_like(sizes)))
        return parts

    def _part(
        self,
        name: str,
        labels: Sequence[str],
        narrowed: Callable[[Architecture], nn.Module],
        sizes: Genes,
        stage: int | None = None,
        block: int | None = None,
    ) -> Part:
        """A part that is counted in architectures that differ from the largest in the genes `labels` alone."""
        columns = [gene.label for gene in self.space.genes]
        genes = [columns.index(label) for label in labels]

        def cost(*indices: int) -> Genes:
            row = self.space.n_choices - 1
            row[genes] = indices
            module = narrowed(self.space.decode(row[None])[0])
            downsample = module._modules.pop("downsample", None)
            costs, after = layer_costs(module, sizes)
            if downsample is not None:  # beside the others; its pooling has halved what its convolution sees
                costs = costs + layer_costs(downsample, after)[0]
            return costs

        return Part(name, cost, tuple(genes), stage, block)

    def _narrowed(self, names: Sequence[str], arch: Architecture) -> nn.Module:
        children = [(name, cast(nn.Module, getattr(self, name))) for name in names]
        return nn.Sequential(*(self._narrow_child(name, child, arch, copy=False) for name, child in children))

    def _narrowed_block(self, s: int, b: int, arch: Architecture) -> nn.Module:
        return self._narrow_layer(s, arch, copy=False)[b]


def _narrow_block(block: Any, copy: bool, n_in: int, middle: int, n_out: int) -> Any:
    widths = {"1": (n_in, middle), "2": (middle, middle), "3": (middle, n_out)}
    bare = bare_copy(block, copy)
    for name, child in block.named_children():
        before, after = widths.get(name[-1], (n_in, n_out))
        if isinstance(child, nn.Conv2d):
            narrow: nn.Module = narrow_conv(child, copy, after, before)
        elif isinstance(child, nn.BatchNorm2d):
            narrow = narrow_norm(child, copy, after)
        elif name == "downsample":
            *pools, conv, norm = cast(Any, child)
            layers = [*(shell(pool, copy) for pool in pools), narrow_conv(conv, copy, n_out, n_in)]
            narrow = _filled(child, [*layers, narrow_norm(norm, copy, n_out)], copy)
        else:
            narrow = shell(child, copy)
        bare._modules[name] = narrow
    return bare


def _filled(container: nn.Module, layers: Sequence[nn.Module], copy: bool) -> nn.Module:
    """The container once more with these layers."""
    bare = bare_copy(container, copy)
    bare._modules = {str(i): layer for i, layer in enumerate(layers)}
    return bare
