"""A network taken apart into the pieces that run one after the other: its blocks, and what lies before and behind."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

__all__ = ["Piece", "pieces_of"]

_NOTHING = (nn.Identity, nn.Dropout, DropPath)  # what does nothing in eval mode


@dataclass(frozen=True)
class Piece:
    """A part of a network that gets one tensor and hands on one."""

    name: str  # of its first module in the network
    kind: str  # the class of a block; "stem", "head" or "between" for what is none
    members: tuple[str, ...]  # the modules it is made of
    module: nn.Module
    input_shape: tuple[int, ...]  # without the batch

    @property
    def key(self) -> str:
        """Names the computation: equal keys, equal cost. Weights and the place in the network play no part."""
        text = f"{self.input_shape} {_signature(self.module)}"
        shape = "x".join(map(str, self.input_shape))
        return f"block:{self.kind}:{shape}:{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def pieces_of(network: nn.Module, block_classes: tuple[type[nn.Module], ...], image: Tensor) -> list[Piece]:
    """The pieces of a network in eval mode, in the order in which they run on an image (1, channels, height, width).

    Every module of one of the `block_classes` is a piece; so is any other module that holds none of them, together
    with its neighbours as long as each gets what the one before it handed on. What a forward computes between modules
    (flattening, adding a position embedding) belongs to no piece.

    Raises:
        ValueError: a piece gets several tensors, or runs more than once; or there is no block.
    """
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []  # tensors are kept so that identities stay unique

    def note(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) != 1 or not isinstance(output, Tensor) or any(name == called for called, *_ in calls):
            raise ValueError(
                f"{name} ({type(module).__name__}) does not run once on one tensor: it cannot be taken apart"
            )
        calls.append((name, module, inputs[0], output))

    handles = [
        module.register_forward_hook(lambda m, inputs, output, name=name: note(name, m, inputs, output))
        for name, module in _separable(network, block_classes)
    ]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    is_block = [isinstance(module, block_classes) for _, module, _, _ in calls]
    if not any(is_block):
        raise ValueError(
            f"no block of a {type(network).__name__} can be left out, so it cannot be taken apart into blocks"
        )
    first, last = is_block.index(True), len(is_block) - 1 - is_block[::-1].index(True)
    pieces: list[list[int]] = []
    for i, (_, _, given, _) in enumerate(calls):
        chained = i > 0 and given is calls[i - 1][3] and not is_block[i] and not is_block[i - 1]
        if chained:
            pieces[-1].append(i)
        else:
            pieces.append([i])
    found = []
    for members in pieces:
        name, module, given, _ = calls[members[0]]
        kind = type(module).__name__
        if not is_block[members[0]]:
            kind = "stem" if members[0] < first else "head" if members[0] > last else "between"
        names = tuple(calls[i][0] for i in members)
        if len(members) > 1:
            module = nn.Sequential(OrderedDict((calls[i][0].replace(".", "_"), calls[i][1]) for i in members))
        found.append(Piece(name, kind, names, module.eval(), tuple(given.shape[1:])))
    return found


def _separable(
    module: nn.Module, blocks: tuple[type[nn.Module], ...], prefix: str = ""
) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, _NOTHING):
            continue
        if isinstance(child, blocks) or not any(isinstance(inner, blocks) for inner in child.modules()):
            yield path, child
        else:
            yield from _separable(child, blocks, f"{path}.")


def _signature(module: nn.Module) -> str:
    """Everything about a module but its weights: classes, settings, and shapes of parameters."""
    lines = []
    for i, (_, part) in enumerate(module.named_modules()):
        if isinstance(part, _NOTHING):
            continue
        settings = {
            name: value
            for name, value in vars(part).items()
            if isinstance(value, int | float | str | tuple) and not name.startswith("_") and name != "training"
        }
        shapes = {name: tuple(p.shape) for name, p in part._parameters.items() if p is not None}
        lines.append(f"{'' if i == 0 else type(part).__name__} {part.extra_repr()} {sorted(settings.items())} {shapes}")
    return "\n".join(lines)
