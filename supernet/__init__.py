"""Architectures, search spaces, elastic networks and their training."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from supernet.architecture import Architecture, Block, Settings
    from supernet.networks.from_timm import elastic
    from supernet.ofa.checkpoints import load_ofa_checkpoint, load_ofa_specialized
    from supernet.protocol import Supernet
    from supernet.registry import create_supernet, register_supernet, supernet_names
    from supernet.scoring.calibration import recalibrate
    from supernet.space import SearchSpace, Stage
    from supernet.subnet import load_subnet

__getattr__, __dir__ = lazy(__name__, __file__)
