"""Which attributes of modules may have to follow what a network keeps: those whose values agree with its sizes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from supernet.graph.assembly import Fit
from supernet.graph.groups import DependencyGraph, Quantity

__all__ = ["fits_of", "follows", "known_sizes"]

_NEVER = re.compile(
    r"size|window|patch|stride|kernel|depth|length|area|resol|dilat|padd|shift|block|layers|stage|dropout"
)
_MOST_OPTIONS = 4
_KNOWN = (nn.modules.conv._ConvNd, nn.Linear, nn.Embedding, nn.MultiheadAttention)
"""Layers of torch that `supernet.graph.assembly` makes fit their weights."""


def known_sizes(graph: DependencyGraph, modules: Mapping[str, nn.Module]) -> dict[str, list[Quantity]]:
    """The sizes that depend on groups of what every module puts out, and of its parameters and those below it."""
    found: dict[str, list[Quantity]] = defaultdict(list)
    for step in graph.steps:
        for labelled in step.outputs:
            found[step.module] += [q for q in graph.sizes(labelled) if q.per_unit]
    for name, axis in dict.fromkeys(spot for group in graph.groups for spot in group.spots):
        path, _, last = name.rpartition(".")
        module = modules[path]
        tensor = module._parameters.get(last)
        if tensor is None:
            tensor = module._buffers[last]
        if tensor is not None:
            quantity = graph.axis(name, axis, int(tensor.shape[axis]))
            for above in _above(path):
                found[above].append(quantity)
    return {path: list(dict.fromkeys(found[path])) for path in modules}


def follows(known: Sequence[Quantity], size: int, full: Sequence[int]) -> list[Quantity]:
    """Those of the known sizes that are of this size in the largest network."""
    return [q for q in known if q(full) == size][:_MOST_OPTIONS]


def fits_of(
    graph: DependencyGraph, modules: Mapping[str, nn.Module], known: Mapping[str, Sequence[Quantity]]
) -> dict[str, list[Fit]]:
    """By module the attributes that may follow, each with what it may be; that it stays as it is comes last."""
    splits: dict[str, list[list[Quantity]]] = defaultdict(list)
    for step in graph.steps:
        if "split" in step.name:
            sizes = [graph.sizes(labelled) for labelled in step.outputs]
            splits[step.module] += [[axes[axis] for axes in sizes] for axis in range(len(sizes[0]) if sizes else 0)]
    full = graph.full
    found: dict[str, list[Fit]] = {}
    for path, module in modules.items():
        if isinstance(module, _KNOWN):
            continue
        fits = []
        for attribute, place, value in _numbers(module):
            if place is not None:
                matched = _of_split(module.__dict__[attribute], splits[path], full)
                if matched is not None:
                    fits.append(Fit(attribute, place, [matched[place], None]))
                    continue
            options = [q for q in known[path] if q(full) == value]
            if re.search("head|group", attribute):
                counts = [q for q in options if q.fixed == 0 and all(n == 1 for _, n in q.per_unit)]
                options = counts or options
            if options:
                fits.append(Fit(attribute, place, [*options[:_MOST_OPTIONS], None]))
        if fits:
            found[path] = fits
    return found


def _above(path: str) -> Iterator[str]:
    """A module, all that contain it, and the network."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""


def _numbers(module: nn.Module) -> Iterator[tuple[str, int | None, int]]:
    """Attributes that may be a width or a number of heads: whole numbers, and those in tuples and lists."""
    for name, value in module.__dict__.items():
        if name.startswith("_") or name == "training" or _NEVER.search(name):
            continue
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield name, None, value
        elif isinstance(value, tuple | list) and value and all(type(v) is int for v in value):
            for i, one in enumerate(value):
                if one > 1:
                    yield name, i, one


def _of_split(numbers: Sequence[int], splits: Sequence[list[Quantity]], full: Sequence[int]) -> list[Quantity] | None:
    """What the numbers become if the tensor is split by them."""
    for sizes in splits:
        if [q(full) for q in sizes] == list(numbers) and any(q.per_unit for q in sizes):
            return sizes
    return None
