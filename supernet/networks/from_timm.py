"""Any timm model of a supported family as a supernet."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from supernet.families.inverted_residual import InvertedResidualSupernet, elastic_inverted_residual
from supernet.families.residual import ResidualSupernet, elastic_resnet
from supernet.families.transformer import TransformerSupernet, elastic_transformer
from supernet.networks.timm_supernet import Importance, TimmSupernet, l1_importance
from supernet.plugins import nearest
from supernet.registry import register_supernet
from supernet.space import SearchSpace

__all__ = ["elastic"]


class _Family(NamedTuple):
    models: tuple[type[nn.Module], ...]
    with_choices: Callable[..., TimmSupernet[Any]]
    with_space: Callable[[Any, SearchSpace], TimmSupernet[Any]]


_FAMILIES = (
    _Family((MobileNetV3, EfficientNet), elastic_inverted_residual, InvertedResidualSupernet),
    _Family((ResNet,), elastic_resnet, ResidualSupernet),
    _Family((VisionTransformer,), elastic_transformer, TransformerSupernet),
)


def elastic(
    model: str | nn.Module,
    *,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    importance: Importance | None = l1_importance,
    space: SearchSpace | Mapping[str, Any] | None = None,
    **choices: Any,
) -> TimmSupernet[Any]:
    """A supernet whose largest network is a timm model: inverted residual, residual or transformer.

    Its weights are the model's, sorted so that what is most important comes first; the largest network computes what
    the model computes. A model that is given as a module is copied and stays as it is.

    Args:
        model: a timm model, or its name.
        pretrained: for a name: with timm's pretrained weights.
        model_args: for a name: further arguments of `timm.create_model`, such as ``num_classes`` or ``img_size``.
        importance: the order of channels, heads and neurons; None leaves them as they are.
        space: the choices as a whole, as a `SearchSpace` or its ``to_dict()``; instead of `choices`.
        **choices: what can be chosen, such as ``depths=(2, 3)``; see `elastic_inverted_residual`, `elastic_resnet` and
            `elastic_transformer` for what there is, what it means and what the defaults are.

    Raises:
        ValueError: a model that is not supported or a choice that is impossible; the message says what is possible.
    """
    if isinstance(model, str):
        model = _create(model, pretrained, model_args or {})
    elif pretrained or model_args:
        raise ValueError("pretrained and model_args are for models given by name; this one has been built already")
    else:
        model = copy.deepcopy(model)
    family = next((f for f in _FAMILIES if isinstance(model, f.models)), None)
    if family is None:
        known = ", ".join(m.__name__ for f in _FAMILIES for m in f.models)
        raise ValueError(f"a {type(model).__name__} cannot become a supernet; supported timm classes are {known}")
    if space is not None:
        if choices:
            raise ValueError(f"space says all there is to choose; remove {', '.join(choices)}")
        whole = space if isinstance(space, SearchSpace) else SearchSpace.from_dict(space)
        supernet = family.with_space(model, whole)
    else:
        names = [name for name in inspect.signature(family.with_choices).parameters if name != "model"]
        for name in choices:
            if name not in names:
                raise ValueError(f"a {type(model).__name__} has no choice {name!r}{nearest(name, names)}")
        supernet = family.with_choices(model, **choices)
    if importance is not None:
        supernet.sort_channels(importance)
    supernet.definition = _definition(model, supernet.space)
    return supernet


@register_supernet("elastic")
def _elastic(
    num_classes: int,
    in_chans: int,
    *,
    model: str,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    **choices: Any,
) -> TimmSupernet[Any]:
    return elastic(
        model,
        pretrained=pretrained,
        model_args={**(model_args or {}), "num_classes": num_classes, "in_chans": in_chans},
        importance=l1_importance if pretrained else None,  # random weights have no order
        space=space,
        **choices,
    )


def _create(name: str, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
    if ":" not in name and not timm.is_model(name.split(".")[0]):  # with a colon it is an address for timm to resolve
        close = difflib.get_close_matches(name, timm.list_models(), n=1)
        raise ValueError(f"timm has no model {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
    try:
        return timm.create_model(name, pretrained=pretrained, **model_args)
    except Exception as error:  # timm raises whatever an argument that it hands on leads to
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"timm cannot make {name!r} with {', '.join(model_args)}: {reason[:300]}") from error


def _definition(model: Any, space: SearchSpace) -> dict[str, Any] | None:
    """What `create_supernet` needs to build the network again; None where timm would not build the same one."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    own = {"num_classes": model.num_classes, "in_chans": model.in_chans}
    try:
        arguments = json.loads(json.dumps({**getattr(model, "_model_args", {}), **own}))
    except TypeError:  # layers or functions, which cannot be written down
        return None
    if not name or not timm.is_model(name):
        return None
    with torch.device("meta"):
        again = timm.create_model(name, **arguments)
    if repr(again) != repr(model) or _shapes(again) != _shapes(model):
        return None
    arguments = {key: value for key, value in arguments.items() if key not in own}
    return {"name": "elastic", **own, "model": name, "model_args": arguments, "space": space.to_dict()}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
