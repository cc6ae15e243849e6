"""A sub-network as files: ``model.safetensors`` for the weights, ``arch.json`` for what they are the weights of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from supernet.architecture import Architecture
from supernet.registry import create_supernet

__all__ = ["load_subnet", "save_subnet"]

_FORMAT = 1


def save_subnet(
    model: nn.Module, arch: Architecture, definition: Mapping[str, Any] | None, directory: Path, **extra: Any
) -> None:
    """Write an extracted network into an existing folder.

    `definition` is the ``definition`` of the supernet it was extracted from; `extra` is kept in ``arch.json`` for
    people and other tools.

    Raises:
        ValueError: there is no definition, so the files could not be read again.
    """
    if definition is None:
        raise ValueError(
            "the supernet has no definition, so nobody could build this network again; make the supernet with "
            "create_supernet or with elastic() of a model as timm.create_model returns it, or keep the state_dict"
        )
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, directory / "model.safetensors")
    content = {"format": _FORMAT, "id": arch.id, "architecture": arch.to_dict(), "supernet": dict(definition), **extra}
    (directory / "arch.json").write_text(json.dumps(content, indent=2) + "\n")


def load_subnet(directory: str | Path) -> nn.Module:
    """The torch module of a bundle in eval mode; neither the supernet nor its weights are needed.

    The result is an instance of the timm class that `extract` returned when the bundle was written.

    Raises:
        ValueError: a file of the bundle is missing, damaged, or does not fit the other.
    """
    directory = Path(directory)
    for name in ("arch.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} is not a bundle: {name} is missing")
    try:
        content = json.loads((directory / "arch.json").read_text())
        arch = Architecture.from_dict(content["architecture"])
        with torch.device("meta"):  # only the shapes: the weights come from the file
            model = create_supernet(**content["supernet"]).extract(arch)
        weights = load_file(directory / "model.safetensors")
        model.load_state_dict(weights, assign=True)
    except (json.JSONDecodeError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"the bundle {directory} is damaged: {str(error).splitlines()[0]}") from error
    return model.eval()
