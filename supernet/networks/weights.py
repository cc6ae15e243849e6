"""Weights from a file: which file it is, and whether every tensor of the network is in it."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["load_tensors", "read_tensors"]


def read_tensors(path: Path) -> Mapping[str, Any]:
    """What a safetensors file or a checkpoint of torch holds, by name; nothing in the file is executed.

    The tensors of a checkpoint may be nested under ``state_dict`` or ``model``.

    Raises:
        ValueError: there is no such file, or it is neither; the message is one line.
    """
    if _is_safetensors(path):
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message recommends to run it all the same
        raise ValueError(
            f"{path} is not a checkpoint of tensors: it holds something else, and nothing in it is executed"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of tensors: {(str(error) or 'empty').splitlines()[0]}") from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}; a checkpoint is a dictionary of tensors by name")
    return content


def load_tensors(
    network: nn.Module,
    tensors: Mapping[str, Any],
    names: Mapping[str, str],
    canonical: Callable[[str], str],
    path: Path,
) -> None:
    """Load the tensors of a file into `network`.

    Args:
        tensors: as `read_tensors` gives them.
        names: the name in the file of every tensor of the network.
        canonical: one name for what files call differently; names are compared after it.
        path: of the file, for the message.

    Raises:
        ValueError: tensors are unknown, missing or of another shape; they are named, and nothing has been loaded.
    """
    own = {canonical(name): ours for ours, name in names.items()}
    state = network.state_dict()
    found: dict[str, Tensor] = {}
    unknown, misshapen = [], []
    for name, tensor in tensors.items():
        ours = own.get(canonical(name)) if isinstance(name, str) else None
        if ours is None or ours in found or not isinstance(tensor, Tensor):
            unknown.append(str(name))
            continue
        found[ours] = tensor
        if tensor.shape != state[ours].shape or tensor.is_floating_point() != state[ours].is_floating_point():
            misshapen.append(f"{name} {_form(tensor)} instead of {_form(state[ours])}")
    missing = [name for ours, name in names.items() if ours not in found]
    problems = (("unknown", unknown), ("missing", missing), ("of another shape", misshapen))
    wrong = [f"{kind}: {_listing(names)}" for kind, names in problems if names]
    if wrong:
        raise ValueError(f"{path} does not fit this network; {'; '.join(wrong)}")
    network.load_state_dict(found)


def _is_safetensors(path: Path) -> bool:
    """Whether a header in JSON follows its length, as in no file of torch; whatever the file is called."""
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise ValueError(f"{path} is not a checkpoint of tensors: {error.strerror}") from error


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _listing(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
