"""Any network as a supernet: by a family of its own where it has one, by its dependency graph otherwise."""

from __future__ import annotations

import copy
import difflib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import timm
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.mobilenetv3 import MobileNetV3
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from supernet.families.inverted_residual import InvertedResidualSupernet, elastic_inverted_residual
from supernet.families.traced import TracedSupernet, elastic_traced, example_of
from supernet.families.transformer import TransformerSupernet, elastic_transformer
from supernet.graph.groups import on_meta
from supernet.networks.importance import Importance, importance_named, l1_importance
from supernet.networks.timm_supernet import TimmSupernet
from supernet.plugins import nearest
from supernet.registry import register_supernet
from supernet.space import SearchSpace

__all__ = ["FAMILIES", "create_model", "elastic"]


class _Family(NamedTuple):
    models: tuple[type[nn.Module], ...]
    with_choices: Callable[..., TimmSupernet[Any]]
    with_space: Callable[[Any, SearchSpace], TimmSupernet[Any]]


FAMILIES = (
    _Family((MobileNetV3, EfficientNet), elastic_inverted_residual, InvertedResidualSupernet),
    _Family((VisionTransformer,), elastic_transformer, TransformerSupernet),
)


def elastic(
    model: str | nn.Module,
    *,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    importance: Importance | str | None = l1_importance,
    space: SearchSpace | Mapping[str, Any] | None = None,
    example_input: Any = None,
    family: Literal["own", "traced"] | None = None,
    **choices: Any,
) -> TimmSupernet[Any]:
    """A supernet whose largest network is the model: any `nn.Module`, or a timm model by its name.

    Its weights are the model's, sorted so that what is most important comes first; the largest network computes what
    the model computes. A model that is given as a module is copied and stays as it is.

    Args:
        model: a network, or the name of one of timm's.
        pretrained: for a name: with timm's pretrained weights.
        model_args: for a name: further arguments of `timm.create_model`, such as ``num_classes`` or ``img_size``.
        importance: the order of channels, heads and neurons: a name of `IMPORTANCES`, or a function of a weight; None
            leaves them as they are. Criteria that need gradients are for `sort_channels` inside `gradients_of`.
        space: the choices as a whole, as a `SearchSpace` or its ``to_dict()``; instead of `choices`.
        example_input: what a network that is not timm's is called with: a tensor, a list, or a tuple of arguments.
        family: "own" for one of the families made by hand (inverted residual, transformer), "traced" for the
            general way; default: the first where it takes the model and `example_input` is not given.
        **choices: what can be chosen, such as ``depths=(2, 3)``; see `elastic_inverted_residual`, `elastic_transformer`
            and `elastic_traced` for what there is, what it means and what the defaults are.

    Raises:
        ValueError: a model that cannot be a supernet or a choice that is impossible; the message says what is possible.
    """
    if family not in (None, "own", "traced"):
        raise ValueError(f"family {family!r}: possible are 'own' and 'traced'")
    if isinstance(model, str):
        model = create_model(model, pretrained, model_args or {})
    elif pretrained or model_args:
        raise ValueError("pretrained and model_args are for models given by name; this one has been built already")
    else:
        model = copy.deepcopy(model)
    own = None if example_input is not None else next((f for f in FAMILIES if isinstance(model, f.models)), None)
    if family == "own" and own is None:
        known = ", ".join(m.__name__ for f in FAMILIES for m in f.models)
        raise ValueError(f"a {type(model).__name__} has no family of its own; these have: {known}")
    if space is not None and choices.keys() - {"multiple_of", "kernel_transforms"}:
        raise ValueError(f"space says all there is to choose; remove {', '.join(choices)}")
    whole = SearchSpace.from_dict(space) if space is not None and not isinstance(space, SearchSpace) else space
    if family != "traced" and own is not None:
        try:
            supernet = _of_family(own, model, whole, choices)
        except ValueError:
            # What the family's own code cannot cut the general way may; a wrong choice is the family's to name.
            if family == "own" or not _needs_tracing(own, model):
                raise
            supernet = _traced(model, whole, example_input, choices)
    else:
        supernet = _traced(model, whole, example_input, choices)
    if importance is not None:
        supernet.sort_channels(importance_named(importance) if isinstance(importance, str) else importance)
    supernet.definition = _definition(model, supernet.space)
    if supernet.definition is not None and isinstance(supernet, TracedSupernet):
        supernet.definition |= {"family": "traced", "multiple_of": supernet.multiple_of}
        if supernet.has_transforms:
            supernet.definition["kernel_transforms"] = True
    return supernet


def _of_family(
    family: _Family, model: nn.Module, space: SearchSpace | None, choices: Mapping[str, Any]
) -> TimmSupernet[Any]:
    if space is not None:
        return family.with_space(model, space)
    _check_names(model, choices, family.with_choices)
    return family.with_choices(model, **choices)


def _traced(
    model: nn.Module, space: SearchSpace | None, example_input: Any, choices: Mapping[str, Any]
) -> TimmSupernet[Any]:
    if space is not None:
        given = example_of(model, space.resolutions[-1]) if example_input is None else example_input
        return TracedSupernet(model, given, space, **choices)
    _check_names(model, choices, elastic_traced)
    return elastic_traced(model, example_input=example_input, **choices)


def _check_names(model: nn.Module, choices: Mapping[str, Any], function: Callable[..., Any]) -> None:
    names = [name for name in inspect.signature(function).parameters if name not in ("model", "example_input")]
    for name in choices:
        if name not in names:
            raise ValueError(f"a {type(model).__name__} has no choice {name!r}{nearest(name, names)}")


def _needs_tracing(family: _Family, model: nn.Module) -> bool:
    """Whether the family refuses the model itself, whatever the choices."""
    try:
        family.with_choices(on_meta(model))
    except ValueError:
        return True
    return False


@register_supernet("elastic")
def _elastic(
    num_classes: int,
    in_chans: int,
    *,
    model: str,
    pretrained: bool = False,
    model_args: Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    family: Literal["own", "traced"] | None = None,
    **choices: Any,
) -> TimmSupernet[Any]:
    return elastic(
        model,
        pretrained=pretrained,
        model_args={**(model_args or {}), "num_classes": num_classes, "in_chans": in_chans},
        importance=l1_importance if pretrained else None,  # random weights have no order
        space=space,
        family=family,
        **choices,
    )


def create_model(name: str, pretrained: bool, model_args: Mapping[str, Any]) -> nn.Module:
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
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture") if isinstance(config, dict) else config.architecture
    if not name or not timm.is_model(name) or not hasattr(model, "num_classes"):
        return None
    own = {"num_classes": model.num_classes, "in_chans": getattr(model, "in_chans", 3)}
    try:
        arguments = json.loads(json.dumps({**getattr(model, "_model_args", {}), **own}))
    except TypeError:  # layers or functions, which cannot be written down
        return None
    with torch.device("meta"):
        again = timm.create_model(name, **arguments)
    if repr(again) != repr(model) or _shapes(again) != _shapes(model):
        return None
    arguments = {key: value for key, value in arguments.items() if key not in own}
    return {"name": "elastic", **own, "model": name, "model_args": arguments, "space": space.to_dict()}


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}
