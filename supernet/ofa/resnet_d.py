"""The published ResNet-D: a timm `ResNet` whose stem has a residual convolution that can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from timm.models.resnet import Bottleneck, ResNet, downsample_avg
from torch import Tensor, nn

__all__ = ["resnet_d"]


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


class _Residual(nn.Sequential):
    """Adds to its input what its layers make of it."""

    def forward(self, input: Tensor) -> Tensor:
        return input + super().forward(input)
