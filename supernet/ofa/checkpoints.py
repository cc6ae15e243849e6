"""Weights of published once-for-all networks: checkpoints of supernets, and of single specialised networks."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from timm.models._efficientnet_blocks import ConvBnAct, DepthwiseSeparableConv, InvertedResidual
from timm.models.resnet import ResNet
from torch import nn

from supernet.families.inverted_residual import InvertedResidualSupernet
from supernet.networks.weights import load_tensors, read_tensors
from supernet.ofa.networks import build_specialized
from supernet.ofa.resnet50d import OnceForAllResNet

__all__ = ["load_ofa_checkpoint", "load_ofa_specialized", "published"]

# Where the layers of a block live in the published layout; timm's names to the left.
_INVERTED = {
    "conv_pw": "inverted_bottleneck.conv",
    "bn1": "inverted_bottleneck.bn",
    "conv_dw": "depth_conv.conv",
    "bn2": "depth_conv.bn",
    "se.conv_reduce": "depth_conv.se.fc.reduce",
    "se.conv_expand": "depth_conv.se.fc.expand",
    "conv_pwl": "point_linear.conv",
    "bn3": "point_linear.bn",
}
_SEPARABLE = {
    "conv_dw": "depth_conv.conv",
    "bn1": "depth_conv.bn",
    "se.conv_reduce": "depth_conv.se.fc.reduce",
    "se.conv_expand": "depth_conv.se.fc.expand",
    "conv_pw": "point_linear.conv",
    "bn2": "point_linear.bn",
}
_BOTTLENECK = {
    **{f"conv{i}": f"conv{i}.conv" for i in (1, 2, 3)},
    **{f"bn{i}": f"conv{i}.bn" for i in (1, 2, 3)},
    "downsample.1": "downsample.conv",
    "downsample.2": "downsample.bn",
}


def published(supernet: nn.Module) -> bool:
    """Whether the supernet is of a class that has a published layout."""
    return isinstance(supernet, InvertedResidualSupernet | OnceForAllResNet)


def load_ofa_checkpoint(supernet: nn.Module, path: str | Path) -> None:
    """Load a published supernet checkpoint (Once-for-All, Cai et al. 2020) into the supernet of that name.

    The file is read as it is: the tensors may be nested under ``state_dict``, have the older names
    (``mobile_inverted_conv``), the names of static networks, or the prefix of data-parallel training.

    Raises:
        ValueError: the file is no checkpoint, or tensors are unknown, missing or of another shape; they are named, and
            nothing has been loaded.
    """
    if not published(supernet):
        raise ValueError(f"published checkpoints fit the supernets named ofa_...; this is a {type(supernet).__name__}")
    _load(supernet, Path(path), elastic=True)


def load_ofa_specialized(net_config: Mapping[str, Any] | str | Path, checkpoint: str | Path) -> nn.Module:
    """A published specialised network as a plain timm network in eval mode, from its ``net.config`` and checkpoint.

    Args:
        net_config: the published description, or the JSON file with it.
        checkpoint: the file of its weights, which published folders call ``init``.

    Raises:
        ValueError: something in the description has no counterpart in timm, or the weights do not fit it.
    """
    if not isinstance(net_config, Mapping):
        try:
            net_config = cast(Mapping[str, Any], json.loads(Path(net_config).read_text()))
        except (OSError, ValueError) as error:
            raise ValueError(f"{net_config} is not a net.config: {error}") from error
    model = build_specialized(net_config)
    _load(model, Path(checkpoint), elastic=False)
    return model.eval()


def _load(network: nn.Module, path: Path, elastic: bool) -> None:
    load_tensors(network, read_tensors(path), _published_names(network, elastic), _canonical, path)


def _canonical(name: str) -> str:
    """One name for what the published code calls differently in static, elastic and older networks."""
    name = name.removeprefix("module.")
    name = re.sub(r"^(blocks\.\d+)\.(mobile_inverted_conv|conv)\.", r"\1.", name)
    name = re.sub(r"(\.conv)*(\.bn)+\.(?=\w+$)", ".bn.", name)
    name = re.sub(r"(\.conv)+\.weight$", ".conv.weight", name)
    return name.replace(".linear.linear.", ".linear.")


def _published_names(network: nn.Module, elastic: bool) -> dict[str, str]:
    """The published name of every tensor of a network; `elastic` layers wrap their tensors once more."""
    residual = isinstance(network, ResNet | OnceForAllResNet)
    layers = _residual_layers(network, elastic) if residual else _inverted_layers(network, elastic)
    names = {}
    for ours in network.state_dict():
        layer, _, tensor = ours.rpartition(".")
        if layer not in layers:
            raise ValueError(f"{ours} has no place in the published layouts, which are those of the names ofa_...")
        names[ours] = f"{layers[layer]}.{tensor}"
    return names


def _inverted_layers(network: Any, elastic: bool) -> dict[str, str]:
    layers = {
        "conv_stem": "first_conv.conv",
        "bn1": "first_conv.bn",
        "conv_head": "feature_mix_layer.conv",
        "bn2": "feature_mix_layer.bn",
        "classifier": "classifier.linear",
    }
    blocks = ((f"{s}.{b}", block) for s, stage in enumerate(network.blocks) for b, block in enumerate(stage))
    for i, (place, block) in enumerate(blocks):
        if isinstance(block, ConvBnAct):
            layers |= {
                f"blocks.{place}.conv": "final_expand_layer.conv",
                f"blocks.{place}.bn1": "final_expand_layer.bn",
            }
            continue
        wrapped = elastic and isinstance(block, InvertedResidual)
        of_block = _SEPARABLE if isinstance(block, DepthwiseSeparableConv) else _INVERTED
        for ours, published in of_block.items():
            layers[f"blocks.{place}.{ours}"] = f"blocks.{i}.conv.{_wrapped(published) if wrapped else published}"
        layers[f"kernel_transforms.{place.replace('.', '_')}"] = f"blocks.{i}.conv.depth_conv.conv"
    return layers


def _residual_layers(network: Any, elastic: bool) -> dict[str, str]:
    wrap = _wrapped if elastic else str
    layers = {"conv1.0": wrap("input_stem.0.conv"), "conv1.1": wrap("input_stem.0.bn"), "fc": wrap("classifier.linear")}
    last = 1
    if isinstance(network.conv1[3], nn.Sequential):  # the residual convolution, which a specialised stem may lack
        layers |= {"conv1.3.0": wrap("input_stem.1.conv.conv"), "conv1.3.1": wrap("input_stem.1.conv.bn")}
        last = 2
    layers |= {"conv1.4": wrap(f"input_stem.{last}.conv"), "bn1": wrap(f"input_stem.{last}.bn")}
    blocks = (f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in range(len(getattr(network, f"layer{s}"))))
    for i, place in enumerate(blocks):
        layers |= {f"{place}.{ours}": f"blocks.{i}.{wrap(published)}" for ours, published in _BOTTLENECK.items()}
    return layers


def _wrapped(layer: str) -> str:
    """``x.conv`` as ``x.conv.conv``, and so for ``bn`` and ``linear``; squeeze-excite is not wrapped."""
    kind = layer.rpartition(".")[2]
    return f"{layer}.{kind}" if kind in ("conv", "bn", "linear") else layer
