"""Supernets of the MobileNetV3 class: the published once-for-all spaces, and small ones of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

from timm.layers.helpers import make_divisible
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from supernet.families.inverted_residual import InvertedResidualSupernet
from supernet.ofa.config import CHOICES, WIDTHS
from supernet.registry import register_supernet
from supernet.space import SearchSpace, Stage

__all__ = ["mobilenetv3", "ofa_mobilenetv3"]

_ACTIVATIONS = {"relu": "re", "relu6": "r6", "hard_swish": "hs", "silu": "sw"}


@register_supernet("mobilenetv3")
def mobilenetv3(
    num_classes: int,
    in_chans: int,
    *,
    stages: Sequence[Mapping[str, Any]],
    kernels: Sequence[int] = CHOICES["kernels"],
    expands: Sequence[float] = CHOICES["expands"],
    depths: Sequence[int] = CHOICES["depths"],
    resolutions: Sequence[int] = CHOICES["resolutions"],
    stem_width: int = WIDTHS["stem_width"],
    stem_stride: int = 2,
    head_width: int = WIDTHS["head_width"],
    feature_width: int = WIDTHS["feature_width"],
) -> InvertedResidualSupernet:
    """A supernet of the once-for-all MobileNetV3 class with stages of one's own.

    Args:
        stages: one mapping per elastic stage: ``width`` and ``stride`` and, where they differ from the defaults,
            ``depths``, ``kernels``, ``expands``, ``act`` (relu, relu6, hard_swish, silu; default hard_swish) and ``se``
            (squeeze-excite; default false).
        kernels, expands, depths, resolutions: choices.
        stem_width: channels of the stem and of the first block, which has no choices.
        head_width: channels of the last convolution before pooling.
        feature_width: channels between pooling and classifier.

    Raises:
        ValueError: a choice that cannot be built; the message says which and what can.
    """
    for name, values, odd in (
        ("kernels", kernels, True),
        ("depths", depths, False),
        ("resolutions", resolutions, False),
    ):
        _check_positive(name, values, odd)
    arch_def = [[f"ds_r1_k3_s1_e1_c{stem_width}_nre"]]
    space_stages = []
    for i, stage in enumerate(stages):
        where = f"stage {i + 1}"
        unknown = stage.keys() - {"width", "stride", "depths", "kernels", "expands", "act", "se"}
        if unknown or "width" not in stage:
            raise ValueError(f"{where} {'has unknown ' + ', '.join(sorted(unknown)) if unknown else 'lacks a width'}")
        stage_depths = stage.get("depths", depths)
        stage_kernels, stage_expands = stage.get("kernels", kernels), stage.get("expands", expands)
        _check_positive(f"depths of {where}", stage_depths, odd=False)
        _check_positive(f"kernels of {where}", stage_kernels, odd=True)
        act = stage.get("act", "hard_swish")
        if act not in _ACTIVATIONS:
            raise ValueError(f"act {act!r} of {where}; possible are {', '.join(_ACTIVATIONS)}")
        arch_def.append(
            [
                f"ir_r{max(stage_depths)}_k{max(stage_kernels)}_s{stage.get('stride', 1)}_e{max(stage_expands):g}"
                f"_c{stage['width']}_n{_ACTIVATIONS[act]}" + ("_se0.25" if stage.get("se") else "")
            ]
        )
        space_stages.append(Stage.uniform(stage_depths, kernel=stage_kernels, expand=stage_expands))
    arch_def.append([f"cn_r1_k1_s1_c{head_width}"])
    model = MobileNetV3(
        decode_arch_def(arch_def),
        num_classes=num_classes,
        in_chans=in_chans,
        stem_size=stem_width,
        fix_stem=True,
        num_features=feature_width,
        head_bias=False,
        act_layer=nn.Hardswish,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-5, momentum=0.1),
        se_layer=partial(SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels),
    )
    if stem_stride != 2:
        cast(nn.Conv2d, model.conv_stem).stride = (stem_stride, stem_stride)
        for feature in model.feature_info:
            feature["reduction"] = feature["reduction"] * stem_stride // 2
    space = SearchSpace(tuple(sorted(resolutions)), tuple(space_stages))
    return InvertedResidualSupernet(model, space)


def ofa_mobilenetv3(num_classes: int, in_chans: int, width_mult: float) -> InvertedResidualSupernet:
    """The published space: 7371^5 sub-networks at each of 25 resolutions (Once-for-All, Cai et al. 2020)."""
    stem, *widths, head, feature = (make_divisible(w * width_mult, 8) for w in (16, 24, 40, 80, 112, 160, 960, 1280))
    acts = ("relu", "relu", "hard_swish", "hard_swish", "hard_swish")
    se = (False, True, False, True, True)
    return mobilenetv3(
        num_classes,
        in_chans,
        stages=[
            {"width": width, "stride": stride, "act": act, "se": has_se}
            for width, stride, act, has_se in zip(widths, (2, 2, 2, 1, 2), acts, se, strict=True)
        ],
        resolutions=range(128, 225, 4),
        stem_width=stem,
        head_width=head,
        feature_width=feature,
    )


@register_supernet("ofa_mobilenetv3_w1.0")
def _ofa_mobilenetv3_w10(num_classes: int, in_chans: int) -> InvertedResidualSupernet:
    return ofa_mobilenetv3(num_classes, in_chans, 1.0)


@register_supernet("ofa_mobilenetv3_w1.2")
def _ofa_mobilenetv3_w12(num_classes: int, in_chans: int) -> InvertedResidualSupernet:
    return ofa_mobilenetv3(num_classes, in_chans, 1.2)


def _check_positive(name: str, values: Sequence[int], odd: bool) -> None:
    for value in values:
        if value < 1 or (odd and value % 2 == 0):
            raise ValueError(f"{name} {value}: each must be {'odd and ' if odd else ''}at least 1")
