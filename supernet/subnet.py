"""A sub-network as files: ``model.safetensors`` for the weights, ``arch.json`` for what they are the weights of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from supernet.architecture import Architecture
from supernet.files import replacing
from supernet.registry import call_factory, create_supernet, open_supernet, supernet_names

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
            "open_supernet, or with elastic() of a model as timm.create_model returns it, or keep the state_dict"
        )
    weights = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    with replacing(directory / "model.safetensors") as temporary:  # save_file makes files that nobody else may read
        save_file(weights, temporary)
    content = {"format": _FORMAT, "id": arch.id, "architecture": arch.to_dict(), "supernet": dict(definition), **extra}
    (directory / "arch.json").write_text(json.dumps(content, indent=2) + "\n")


def load_subnet(directory: str | Path, factory: Callable[..., nn.Module] | None = None) -> nn.Module:
    """The torch module of a bundle in eval mode; neither the supernet nor its weights are needed.

    The result is an instance of the class that `extract` returned when the bundle was written, such as one of timm's.

    Args:
        directory: the bundle.
        factory: what made the supernet, where that was a ``package.module:factory`` of one's own. A bundle may come
            from anybody, so no module that it names is imported; a name that an installed package brings is known.

    Raises:
        ValueError: a file of the bundle is missing, damaged, or does not fit the other, or `factory` is needed.
    """
    directory = Path(directory)
    for name in ("arch.json", "model.safetensors"):
        if not (directory / name).is_file():
            raise ValueError(f"{directory} is not a bundle: {name} is missing")
    try:
        content = json.loads((directory / "arch.json").read_text())
        arch, definition = Architecture.from_dict(content["architecture"]), dict(content["supernet"])
        weights = load_file(directory / "model.safetensors")
        own = ":" in definition["name"]
        if own and factory is None:
            raise ValueError(
                f"the bundle {directory} is of a supernet of {definition['name']}, which is not imported because a "
                "file says so: give it as load_subnet(directory, factory)"
            )
        if own:
            assert factory is not None
            model = _cut(call_factory(factory, **definition), arch, content)
        elif definition["name"] not in supernet_names():
            model = _cut(open_supernet(**definition), arch, content)
        else:
            with torch.device("meta"):  # only the shapes: the weights come from the file
                model = _cut(create_supernet(**definition), arch, content)
            if any(name not in weights for name, _ in model.named_buffers()):  # a table that is made with the network
                model = _cut(create_supernet(**definition), arch, content)
        model.load_state_dict(weights, assign=True)
    except (json.JSONDecodeError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"the bundle {directory} is damaged: {str(error).splitlines()[0]}") from error
    return model.eval()


def _cut(supernet: Any, arch: Architecture, content: Mapping[str, Any]) -> Any:
    """The sub-network; one that was pruned keeps its own number of units of every group, and may lack some modules."""
    if "kept" not in content:
        return supernet.extract(arch)
    return supernet.without(content["kept"], content.get("gone", ()))
