"""Convolutions whose kernels can shrink: the centre of a kernel, with less padding, puts out as many values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from supernet.graph.tracing import Step
from supernet.networks.elastic_kernel import KernelTransform

__all__ = ["Kernel", "fit_kernel", "kernels_of"]

_SMALLEST = 3


@dataclass(frozen=True)
class Kernel:
    """The kernel of a convolution, as long along every axis; `index` is its place behind the groups of a graph."""

    index: int
    path: str
    size: int

    @property
    def name(self) -> str:
        """Of its weight."""
        return f"{self.path}.weight"

    def cut(self, weight: Tensor, size: int, transform: KernelTransform | None) -> Tensor:
        """The centre of a weight (outputs, inputs, size, ...), or what is learned to be made of it."""
        if size == self.size:
            return weight
        if transform is not None:
            return transform(weight, size)
        for axis in range(2, weight.ndim):
            weight = weight.narrow(axis, (self.size - size) // 2, size)
        return weight


def kernels_of(network: nn.Module, steps: Sequence[Step], first: int) -> Iterator[Kernel]:
    """Odd kernels above 3, as long along every axis, of layers that are called once and pad by half of them, or by
    themselves to what they need. Whether the code of the network follows is not known from that."""
    calls = Counter(name for step in steps for name in step.weights)
    for path, module in network.named_modules():
        if not isinstance(module, nn.modules.conv._ConvNd) or module.transposed or calls[f"{path}.weight"] != 1:
            continue
        (size, *others), padding = module.kernel_size, module.padding
        if size % 2 == 0 or size <= _SMALLEST or any(other != size for other in others):
            continue
        half = tuple(size // 2 * d for d in module.dilation)
        if isinstance(padding, str) or not any(padding) or tuple(padding) == half:
            yield Kernel(first, path, size)
            first += 1


def fit_kernel(module: nn.modules.conv._ConvNd, size: int) -> None:
    """Set what a convolution, not the class's own instance, knows of its kernel."""
    own: Any = module.__dict__
    own["kernel_size"] = (size,) * len(module.kernel_size)
    if not isinstance(module.padding, str) and any(module.padding):
        own["padding"] = tuple(size // 2 * d for d in module.dilation)
        own["_reversed_padding_repeated_twice"] = [p for p in reversed(own["padding"]) for _ in range(2)]
    elif module.padding == "same":
        ends = [(d * (size - 1) // 2, d * (size - 1) - d * (size - 1) // 2) for d in reversed(module.dilation)]
        own["_reversed_padding_repeated_twice"] = [p for pair in ends for p in pair]
