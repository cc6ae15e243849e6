"""The published once-for-all ProxylessNAS network, a timm `EfficientNet` of MobileNetV2 style."""

from __future__ import annotations

from functools import partial

from timm.layers.helpers import make_divisible
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import nn

from supernet.families.inverted_residual import InvertedResidualSupernet
from supernet.registry import register_supernet
from supernet.space import SearchSpace, Stage

__all__ = ["ofa_proxyless"]


def ofa_proxyless(num_classes: int, in_chans: int, width_mult: float) -> InvertedResidualSupernet:
    """The published space: five stages of 2 to 4 blocks and a sixth of exactly one (Once-for-All, Cai et al. 2020).

    ReLU6 everywhere, no squeeze-excite, and BatchNorms with eps 1e-3.
    """
    widths = (make_divisible(w * width_mult, 8) for w in (32, 16, 24, 40, 80, 96, 192, 320, 1280))
    stem, first, *stages, feature = widths
    arch_def = [[f"ds_r1_k3_s1_c{first}_noskip"]]
    space_stages = []
    for width, stride, depths in zip(stages, (2, 2, 2, 1, 2, 1), (*((2, 3, 4),) * 5, (1,)), strict=True):
        arch_def.append([f"ir_r{max(depths)}_k7_s{stride}_e6_c{width}"])
        space_stages.append(Stage.uniform(depths, kernel=(3, 5, 7), expand=(3, 4, 6)))
    model = EfficientNet(
        decode_arch_def(arch_def),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=stem,
        fix_stem=True,
        num_features=feature,
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3, momentum=0.1),
    )
    return InvertedResidualSupernet(model, SearchSpace(tuple(range(128, 225, 4)), tuple(space_stages)))


@register_supernet("ofa_proxyless_w1.3")
def _ofa_proxyless_w13(num_classes: int, in_chans: int) -> InvertedResidualSupernet:
    return ofa_proxyless(num_classes, in_chans, 1.3)
