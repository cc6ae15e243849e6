"""The published once-for-all ResNet50-D: a timm `ResNet` whose stem has a residual convolution that can be left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from timm.layers.helpers import make_divisible
from timm.models.resnet import Bottleneck, ResNet, downsample_avg
from torch import Tensor, nn

from supernet.architecture import Architecture, Number
from supernet.families.inverted_residual import expanded_width
from supernet.families.residual import ResidualSupernet
from supernet.networks.importance import Importance, l1_importance
from supernet.networks.slicing import bare_copy, narrow_conv, narrow_norm, shell
from supernet.networks.sorting import sort_between
from supernet.registry import register_supernet
from supernet.space import SearchSpace, Stage

__all__ = ["OnceForAllResNet", "resnet_d"]

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


def resnet_d(
    stem_widths: tuple[int, int],
    stem_residual: bool,
    outputs: Sequence[int],
    middles: Sequence[Sequence[int]],
    num_classes: int,
    in_chans: int,
    eps: float = 1e-5,
    momentum: float = 0.1,
) -> ResNet:
    """A timm `ResNet` of the published form.

    Args:
        stem_widths: channels inside and after the stem: conv3x3 with stride 2, a convolution with identity if
            `stem_residual`, conv3x3.
        outputs: channels (multiples of 4) of each of the four stages.
        middles: per stage the middle channels of each block.
    """
    norm: Any = partial(nn.BatchNorm2d, eps=eps, momentum=momentum)
    mid, out = stem_widths
    planes = tuple(width // Bottleneck.expansion for width in outputs)
    model = ResNet(
        cast(Any, Bottleneck),
        tuple(map(len, middles)),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_type="deep",
        avg_down=True,
        channels=planes,
        norm_layer=norm,
    )
    conv = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
    residual = _Residual(conv(mid, mid), norm(mid), nn.ReLU(inplace=True)) if stem_residual else nn.Identity()
    first = [conv(in_chans, mid, stride=2), norm(mid), nn.ReLU(inplace=True)]
    model.conv1 = nn.Sequential(*first, residual, conv(mid, out))
    model.bn1 = norm(out)
    model.feature_info[0]["num_chs"] = out
    n_in = out
    for s, (width, stage) in enumerate(zip(planes, middles, strict=True)):
        stride, n_out = min(s + 1, 2), width * Bottleneck.expansion
        blocks = []
        for b, middle in enumerate(stage):
            # Bottleneck takes the floor of `width * base_width / 64`; the half keeps that at `middle` in any rounding.
            base_width: Any = 64 * (middle + 0.5) / width
            if b == 0:
                downsample = downsample_avg(n_in, n_out, 1, stride, norm_layer=norm)
                blocks.append(Bottleneck(n_in, width, stride, downsample, base_width=base_width, norm_layer=norm))
            else:
                blocks.append(Bottleneck(n_out, width, base_width=base_width, norm_layer=norm))
        setattr(model, f"layer{s + 1}", nn.Sequential(*blocks))
        n_in = n_out
    model.init_weights()
    return model


class OnceForAllResNet(ResidualSupernet):
    """The published elastic ResNet-D; see `ResidualSupernet`. Middle widths follow the active width of their stage."""

    def sort_channels(self, importance: Importance = l1_importance, within: SearchSpace | None = None) -> None:
        super().sort_channels(importance, within)
        conv1, bn1, layer1 = cast(Any, self.conv1), self.bn1, cast(Any, self.layer1)
        mid, out = (
            {self._stem_channels(name, width) for width in within.settings[name]} if within else set()
            for name in _STEM_WIDTHS
        )
        with torch.no_grad():
            residual, last = conv1[3], conv1[4]
            sort_between([last, bn1], [layer1[0].conv1, layer1[0].downsample[-2]], importance, out)
            # The identity ties the inputs of the residual convolution to its outputs.
            sort_between([conv1[0], conv1[1], residual[0], residual[1]], [residual[0], last], importance, mid)

    def _stem_channels(self, name: str, width: float) -> int:
        conv1 = cast(Any, self.conv1)
        return make_divisible((conv1[0] if name == "stem_mid_width" else conv1[-1]).out_channels * width, 8)

    def _stem_width(self, settings: Mapping[str, Number]) -> int:
        return self._stem_channels("stem_out_width", settings["stem_out_width"])

    def _middle_width(self, module: Any, n_out: int, expand: float) -> int:
        return expanded_width(n_out, expand)

    def _narrow_child(self, name: str, child: nn.Module, arch: Architecture, copy: bool) -> nn.Module:
        if name == "bn1":
            return narrow_norm(child, copy, self._stem_width(arch.settings))
        if name != "conv1":
            return super()._narrow_child(name, child, arch, copy)
        mid, out = (self._stem_channels(setting, arch.settings[setting]) for setting in _STEM_WIDTHS)
        conv, norm, act, residual, last = cast(Any, child)
        layers = [narrow_conv(conv, copy, mid), narrow_norm(norm, copy, mid), shell(act, copy)]
        if arch.settings.stem_residual:
            conv, norm, act = residual
            branch = [narrow_conv(conv, copy, mid, mid), narrow_norm(norm, copy, mid), shell(act, copy)]
            layers.append(_filled(residual, branch, copy))
        else:  # keeps the names of the layers after it
            layers.append(nn.Identity())
        return _filled(child, [*layers, narrow_conv(last, copy, out, mid)], copy)


class _Residual(nn.Sequential):
    """Adds to its input what its layers make of it."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)


def _filled(container: nn.Module, layers: Sequence[nn.Module], copy: bool) -> nn.Module:
    """The container once more with these layers."""
    bare = bare_copy(container, copy)
    bare._modules = {str(i): layer for i, layer in enumerate(layers)}
    return bare
