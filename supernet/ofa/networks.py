"""Published specialised networks: plain timm networks built from their ``net.config``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn

from supernet.families.inverted_residual import expanded_width
from supernet.ofa.resnet_d import resnet_d

__all__ = ["build_specialized"]

_ACTIVATIONS: dict[str, tuple[str, type[nn.Module]]] = {
    "relu": ("re", nn.ReLU),
    "relu6": ("r6", nn.ReLU6),
    "h_swish": ("hs", nn.Hardswish),
    "swish": ("sw", nn.SiLU),
}
Config = Mapping[str, Any]


def build_specialized(config: Config) -> nn.Module:
    """A timm network of fresh weights with the layers of a published description: MobileNetV3, ProxylessNAS or ResNet.

    Raises:
        ValueError: the description lacks something, or has something that timm does not have.
    """
    try:
        return _residual(config) if "input_stem" in config else _inverted(config)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a published net.config: {str(config)[:80]!r} ({error!r})") from error


def _inverted(config: Config) -> nn.Module:
    first, mix, classifier = config["first_conv"], config["feature_mix_layer"], config["classifier"]
    act_layer = _activation("first_conv", first)[1]
    _expect("first_conv", first, kernel_size=3, stride=2, use_bn=True)
    _expect("feature_mix_layer", mix, kernel_size=1, stride=1, act_func=first["act_func"])
    stages: list[list[str]] = []
    width = first["out_channels"]
    for i, block in enumerate(config["blocks"]):
        line = _block_line(f"blocks.{i}", block, width)
        if not stages or block["shortcut"] is None:
            stages.append([])
        stages[-1].append(line)
        width = _inner(block)["out_channels"]
    settings: dict[str, Any] = {
        "num_classes": classifier["out_features"],
        "in_chans": first["in_channels"],
        "stem_size": first["out_channels"],
        "fix_stem": True,
        "num_features": mix["out_channels"],
        "drop_rate": classifier.get("dropout_rate") or 0.0,
        "act_layer": act_layer,
        "norm_layer": partial(nn.BatchNorm2d, **_norm(config)),
        "se_layer": partial(
            SqueezeExcite, gate_layer="hard_sigmoid", force_act_layer=nn.ReLU, rd_round_fn=round_channels
        ),
        "round_chs_fn": int,
    }
    last = config.get("final_expand_layer")
    if last is None:
        _expect("feature_mix_layer", mix, use_bn=True)
        return _checked(EfficientNet(decode_arch_def(stages), **settings), config)
    _expect("final_expand_layer", last, kernel_size=1, stride=1, use_bn=True)
    _expect("feature_mix_layer", mix, use_bn=False)
    stages.append([f"cn_r1_k1_s1_c{last['out_channels']}_n{_activation('final_expand_layer', last)[0]}"])
    return _checked(MobileNetV3(decode_arch_def(stages), head_bias=bool(mix.get("bias")), **settings), config)


def _inner(block: Config) -> Config:
    """The layers of a block, which older descriptions call otherwise."""
    return block["mobile_inverted_conv"] if "mobile_inverted_conv" in block else block["conv"]


def _block_line(name: str, block: Config, width: int) -> str:
    """A block of `width` inputs in timm's notation."""
    layers, skip = _inner(block), block["shortcut"] is not None
    _expect(name, layers, in_channels=width)
    identity = layers["stride"] == 1 and layers["out_channels"] == width
    if skip and not identity:
        raise ValueError(f"{name} has a shortcut from {width} to {layers['out_channels']} channels, which timm has not")
    expand = layers["expand_ratio"]
    kind = "ds" if expand == 1 else f"ir_e{_middle(layers) / width!r}"
    line = f"{kind}_r1_k{layers['kernel_size']}_s{layers['stride']}_c{layers['out_channels']}"
    line += f"_n{_activation(name, layers)[0]}"
    return line + ("_se0.25" if layers.get("use_se") else "") + ("_noskip" if identity and not skip else "")


def _middle(layers: Config) -> int:
    return layers.get("mid_channels") or round(layers["in_channels"] * layers["expand_ratio"])


def _checked(model: Any, config: Config) -> nn.Module:
    """The model, if it has the middle widths of the description (timm rounds to multiples of 8)."""
    blocks = [block for stage in model.blocks for block in stage]
    for i, (block, described) in enumerate(zip(blocks, config["blocks"], strict=False)):
        width = _middle(_inner(described))
        if _inner(described)["expand_ratio"] != 1 and block.conv_pw.out_channels != width:
            raise ValueError(f"blocks.{i} has {width} middle channels; timm builds multiples of 8")
    return model


def _residual(config: Config) -> nn.Module:
    first, *middle, last = config["input_stem"]
    if len(middle) > 1:
        raise ValueError(f"input_stem has {len(middle) + 2} layers; possible are 2 and 3")
    _expect("input_stem.0", first, kernel_size=3, stride=2, use_bn=True, act_func="relu")
    for i, layer in enumerate([*(inner["conv"] for inner in middle), last], start=1):
        _expect(f"input_stem.{i}", layer, kernel_size=3, stride=1, use_bn=True, act_func="relu")
    outputs: list[int] = []
    middles: list[list[int]] = []
    width = last["out_channels"]
    for i, block in enumerate(config["blocks"]):
        _expect(f"blocks.{i}", block, kernel_size=3, groups=1, act_func="relu", in_channels=width)
        width = block["out_channels"]
        if block["stride"] != 1 or block["in_channels"] != width:
            _expect(f"blocks.{i}", block, downsample_mode="avgpool_conv", stride=2 if outputs else 1)
            outputs.append(width)
            middles.append([])
        ratio = (block.get("mid_channels") or round(width * block["expand_ratio"])) / width
        middles[-1].append(expanded_width(width, ratio))
    if len(outputs) != 4:
        raise ValueError(f"the network has {len(outputs)} stages; timm's ResNet has 4")
    classes = config["classifier"]["out_features"]
    widths = (first["out_channels"], last["out_channels"])
    return resnet_d(widths, bool(middle), outputs, middles, classes, first["in_channels"], **_norm(config))


def _norm(config: Config) -> dict[str, float]:
    norm = config.get("bn") or {}
    if norm.get("ws_eps") is not None:
        raise ValueError(f"weight standardisation (ws_eps = {norm['ws_eps']}) is not supported; possible is None")
    return {"eps": norm.get("eps", 1e-5), "momentum": norm.get("momentum", 0.1)}


def _activation(name: str, layer: Config) -> tuple[str, type[nn.Module]]:
    act = layer["act_func"]
    if act not in _ACTIVATIONS:
        raise ValueError(f"act_func {act!r} of {name}; possible are {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[act]


def _expect(name: str, layer: Config, **values: Any) -> None:
    """Refuse a layer that is described otherwise; what is not described at all is as expected."""
    for key, value in values.items():
        if layer.get(key, value) != value:
            raise ValueError(f"{key} {layer[key]!r} of {name}; possible is {value!r}")
