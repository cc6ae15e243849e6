"""What a graph says of whole modules of its network: how wide what they put out is, and which groups cut them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from supernet.graph.groups import DependencyGraph, Quantity
from supernet.graph.tracing import Step

__all__ = ["groups_within", "width_after"]


def width_after(graph: DependencyGraph, path: str, n: int) -> Quantity | None:
    """How many channels, `n` in the whole network, the module at a path puts out; None if none was seen."""
    last = next(_steps(graph, (path,)), None)
    if last is None:
        return None
    sizes = graph.sizes(last.outputs[0])
    return next((size for size in (*sizes[1:2], *sizes[-1:]) if size(graph.full) == n), None)


def groups_within(graph: DependencyGraph, paths: Sequence[str]) -> frozenset[int]:
    """The groups and kernels on which shapes inside the modules at these paths depend."""
    starts = tuple(f"{path}." for path in paths)
    sizes = (size for step in _steps(graph, paths) for output in step.outputs for size in graph.sizes(output))
    seen = {group for size in sizes for group, _ in size.per_unit}
    owned = {group.index for group in graph.groups if any(name.startswith(starts) for name in group.parameters)}
    kernels = {kernel.index for name, kernel in graph.kernels.items() if name.startswith(starts)}
    return frozenset(seen | owned | kernels)


def _steps(graph: DependencyGraph, paths: Sequence[str]) -> Iterator[Step]:
    """What the modules at these paths did, the last first."""
    starts = tuple(f"{path}." for path in paths)
    return (step for step in reversed(graph.steps) if step.outputs and f"{step.module}.".startswith(starts))
