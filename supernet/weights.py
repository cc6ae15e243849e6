"""Begin with weights that somebody has trained: ours, or a published checkpoint."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from supernet.networks.weights import load_tensors, read_tensors
from supernet.ofa.checkpoints import load_ofa_checkpoint, published

__all__ = ["load_weights"]


def load_weights(supernet: nn.Module, path: str | Path) -> None:
    """Load the weights in a file into a supernet, in place.

    The file is a ``supernet.safetensors`` of ours, a checkpoint of torch with the same names, or a published checkpoint
    for a supernet of a published layout (Once-for-All, Cai et al. 2020). It is known by what is in it, not by its name.

    Raises:
        ValueError: no such file, neither of these, or tensors are unknown, missing or of another shape; one line that
            names them, and nothing has been loaded.
    """
    path = Path(path)
    tensors = read_tensors(path)
    own = supernet.state_dict()
    if published(supernet) and not any(_canonical(str(name)) in own for name in tensors):
        load_ofa_checkpoint(supernet, path)
    else:
        load_tensors(supernet, tensors, {name: name for name in own}, _canonical, path)


def _canonical(name: str) -> str:
    """Without the prefix of data-parallel training."""
    return name.removeprefix("module.")
