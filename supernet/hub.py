"""Sub-networks as models that timm knows: importing this lets ``timm.create_model`` load a folder or a hub repository.

``import supernet.hub; timm.create_model("hf-hub:USER/NAME", pretrained=True)``, or ``"local-dir:FOLDER"``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from supernet.architecture import Architecture
from supernet.registry import create_supernet

__all__ = ["NAME", "supernet_subnet"]

NAME = "supernet_subnet"
"""The architecture in ``config.json``."""


@register_model
def supernet_subnet(
    pretrained: bool = False, *, supernet: Mapping[str, Any], subnet: Mapping[str, Any], **options: Any
) -> nn.Module:
    """The sub-network `subnet` of a supernet of the definition `supernet`, an instance of one of timm's classes.

    timm calls it with what ``config.json`` says; `options` are timm's own, such as `num_classes` for a new head.

    Raises:
        ValueError: no supernet of that definition, or no such sub-network of it.
    """

    def make(**more: Any) -> nn.Module:
        return create_supernet(**{**supernet, **more}).extract(Architecture.from_dict(subnet))

    return build_model_with_cfg(make, NAME, pretrained, **options)
