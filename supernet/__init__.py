"""Architectures, search spaces, elastic networks and their training.

Names are imported when they are first used, so that ``import supernet`` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supernet.architecture import Architecture, Block, Settings
    from supernet.networks.from_timm import elastic
    from supernet.ofa.checkpoints import load_ofa_checkpoint, load_ofa_specialized
    from supernet.protocol import Supernet
    from supernet.registry import create_supernet, register_supernet, supernet_names
    from supernet.scoring.calibration import recalibrate
    from supernet.space import SearchSpace, Stage
    from supernet.subnet import load_subnet

_HOMES = {
    "Architecture": "supernet.architecture",
    "Block": "supernet.architecture",
    "SearchSpace": "supernet.space",
    "Settings": "supernet.architecture",
    "Stage": "supernet.space",
    "Supernet": "supernet.protocol",
    "create_supernet": "supernet.registry",
    "elastic": "supernet.networks.from_timm",
    "load_ofa_checkpoint": "supernet.ofa.checkpoints",
    "load_ofa_specialized": "supernet.ofa.checkpoints",
    "load_subnet": "supernet.subnet",
    "recalibrate": "supernet.scoring.calibration",
    "register_supernet": "supernet.registry",
    "supernet_names": "supernet.registry",
}

__all__ = [
    "Architecture",
    "Block",
    "SearchSpace",
    "Settings",
    "Stage",
    "Supernet",
    "create_supernet",
    "elastic",
    "load_ofa_checkpoint",
    "load_ofa_specialized",
    "load_subnet",
    "recalibrate",
    "register_supernet",
    "supernet_names",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'supernet' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
