"""Residual blocks: modules that can be left out since what they put out fits where their input was."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from supernet.graph.labels import Labelled, compact, vary

if TYPE_CHECKING:
    from supernet.graph.tracing import Tracer

__all__ = ["Run", "runs_of"]


@dataclass(frozen=True)
class Run:
    """Blocks one after the other in one container; all but the first `n_fixed` add something to their input."""

    container: str
    names: tuple[str, ...]
    n_fixed: int

    @property
    def paths(self) -> tuple[str, ...]:
        """The blocks' names in the network."""
        return tuple(f"{self.container}.{name}" if self.container else name for name in self.names)


def runs_of(network: nn.Module, tracer: Tracer) -> tuple[Run, ...]:
    """The rows of blocks of a network that was watched, in its order.

    A block adds something to its input and puts out what has the same shape, with labels that have become the same:
    without it the network is connected, and every width fits. Where such blocks contain such blocks the inner ones are
    meant. A block before them that is of the same class belongs to the row, and stays.
    """
    results: dict[str, list[bool]] = defaultdict(list)
    for call in tracer.calls:
        fits = (
            call.keeps_input
            and call.result is not None
            and call.result.shape == call.given.shape
            and _labels(tracer, call.result) == _labels(tracer, call.given)
        )
        results[call.module].append(fits)
    removable = {name for name, fits in results.items() if name and all(fits)}
    runs: list[Run] = []
    for path, container in network.named_modules():
        children = [(name, child) for name, child in container.named_children()]
        listed = isinstance(container, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if not listed and len({type(child) for _, child in children}) > 1:
            continue
        prefix = f"{path}." if path else ""
        row: list[str] = []
        fixed = 0
        for i, (name, child) in enumerate(children):
            if f"{prefix}{name}" in removable:
                before = children[i - 1] if i else None
                if not row and before is not None and type(before[1]) is type(child):
                    row, fixed = [before[0]], 1
                row.append(name)
            elif row:
                runs.append(Run(path, tuple(row), fixed))
                row, fixed = [], 0
        if row:
            runs.append(Run(path, tuple(row), fixed))
    # A row that leaves no choice inside a block of one that does, such as the only mixer of a block, is none.
    elastic = [f"{path}." for run in runs if len(run.names) > max(1, run.n_fixed) for path in run.paths]
    runs = [run for run in runs if len(run.names) > max(1, run.n_fixed) or not _inside(run, elastic)]
    places = [path for run in runs for path in run.paths]
    inner = [run for run in runs if not any(p.startswith(f"{path}.") for path in run.paths for p in places)]
    return tuple(inner)


def _inside(run: Run, blocks: list[str]) -> bool:
    return any(run.paths[0].startswith(block) for block in blocks)


def _labels(tracer: Tracer, labelled: Labelled) -> list[tuple[tuple[int, ...], bytes]]:
    layers = (compact(tracer.forest, layer) for layer in labelled.layers)
    return sorted((layer.shape, layer.tobytes()) for layer in layers if vary(layer))
