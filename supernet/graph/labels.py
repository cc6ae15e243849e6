"""What the positions along the axes of tensors belong to: labels, joined as the operations of a network demand it.

Every position along every axis of a parameter starts with a label of its own. Operations move labels about and join
them: what is added must stay together, what is multiplied as a matrix must agree along the axis that is summed over.
In the end all that has one label is a *unit*: it can only be left out together. Label 0 is what must stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "FIXED",
    "Forest",
    "Labelled",
    "Labels",
    "aligned",
    "compact",
    "constant_along",
    "merge",
    "only_along",
    "placed",
    "spread",
    "vary",
    "vector",
]

FIXED = 0

Labels = NDArray[np.int64]
"""Labels of a tensor, of its number of dimensions; an axis of length 1 stands for one along which nothing changes."""


class Forest:
    """Labels that are joined (union-find on arrays). Those that are joined with 0 are fixed, and a reason is kept."""

    def __init__(self) -> None:
        self._parents = np.zeros(1, dtype=np.int64)
        self._history = np.zeros(1, dtype=np.int64)  # parents as they were first set: the way to the reason
        self._n = 1
        self._reasons: dict[int, str] = {}
        self.joins = 0

    def __len__(self) -> int:
        return self._n

    def fresh(self, n: int) -> Labels:
        """`n` new labels."""
        if self._n + n > len(self._parents):
            size = max(2 * len(self._parents), self._n + n)
            self._parents = np.concatenate([self._parents, np.arange(len(self._parents), size)])
            self._history = np.concatenate([self._history, np.arange(len(self._history), size)])
        first, self._n = self._n, self._n + n
        return np.arange(first, self._n)

    def find(self, labels: Labels) -> Labels:
        """The label that stands for each, in the same shape."""
        found = self._parents[labels]
        while True:
            further = self._parents[found]
            if (further == found).all():
                break
            found = further
        self._parents[labels] = found
        return found

    def join(self, first: Labels, second: Labels, reason: str = "") -> None:
        """What stands at the same position (after broadcasting) becomes one."""
        a, b = (side.ravel() for side in np.broadcast_arrays(first, second))
        while True:
            a, b = self.find(a), self.find(b)
            differ = a != b
            if not differ.any():
                return
            a, b = a[differ], b[differ]
            low, high = np.minimum(a, b), np.maximum(a, b)
            if reason:
                for label in np.unique(high[low == FIXED]).tolist():
                    self._reasons.setdefault(label, reason)
            self._parents[high] = low
            self._history[high] = self._parents[high]
            self.joins += 1

    def fix(self, labels: Labels, reason: str) -> None:
        """These must stay."""
        self.join(labels, np.zeros(1, dtype=np.int64), reason)

    def reason(self, label: int) -> str:
        """Why a label is fixed; empty where it is not."""
        while label != FIXED:
            parent = int(self._history[label])
            if parent == label:
                return ""
            if parent == FIXED:
                return self._reasons.get(label, "it holds together with something that is fixed")
            label = parent
        return "it has no units"


@dataclass
class Labelled:
    """What is known of one tensor.

    A position of the tensor is left out if the label that any of its layers has there is left out: a weight of a
    linear layer has a layer for its rows and one for its columns.
    """

    shape: tuple[int, ...]
    layers: list[Labels] = field(default_factory=list)
    free: bool = False  # one value everywhere, made by the code of the network: it has whatever size it needs
    computed: bool = True  # from the inputs, not from parameters alone
    origin: object = None  # the same for tensors that hold the same values


def vary(layer: Labels) -> set[int]:
    """The axes along which labels change."""
    return {axis for axis, size in enumerate(layer.shape) if size > 1}


def along(layer: Labels, axis: int, size: int) -> Labels:
    """A layer that changes along one axis alone as a vector (size,)."""
    return np.broadcast_to(layer.reshape(-1) if layer.size > 1 else layer.reshape(1), (size,)).copy()


def compact(forest: Forest, layer: Tensor | Labels) -> Labels:
    """Labels as they stand, an axis along which nothing changes cut to length 1."""
    if isinstance(layer, Tensor):
        for axis, (size, stride) in enumerate(zip(layer.shape, layer.stride(), strict=True)):
            if size > 1 and stride == 0:
                layer = layer.narrow(axis, 0, 1)
        layer = layer.numpy()
    layer = forest.find(layer)
    for axis, size in enumerate(layer.shape):
        if size > 1:
            first = layer.take([0], axis)
            if (layer == first).all():
                layer = first
    return layer


def spread(layer: Labels, shape: Sequence[int]) -> Tensor:
    """Labels at every position, as a tensor that takes no more memory."""
    return torch.from_numpy(layer).expand(*shape)


def aligned(layer: Labels, n_dims: int) -> Labels:
    """With as many dimensions as a tensor that it is broadcast to."""
    return layer.reshape((1,) * (n_dims - layer.ndim) + layer.shape)


def constant_along(forest: Forest, layer: Labels, axes: Iterable[int]) -> Labels:
    """Join what differs along the axes."""
    for axis in axes:
        first = layer.take([0], axis)
        forest.join(layer, first)
        layer = first
    return compact(forest, layer)


def vector(forest: Forest, tensor: Labelled, axis: int) -> Labels:
    """The labels along one axis, joined along all others; fixed where there are none."""
    size = tensor.shape[axis]
    found: Labels | None = None
    for layer in tensor.layers:
        layer = compact(forest, layer)
        if axis not in vary(layer):
            continue
        flat = along(constant_along(forest, layer, vary(layer) - {axis}), axis, size)
        if found is not None:
            forest.join(found, flat)
        found = flat
    return np.zeros(size, dtype=np.int64) if found is None else forest.find(found)


def only_along(layer: Labels, allowed: set[int]) -> bool:
    """Whether labels change along some of these axes and no other."""
    return bool(vary(layer)) and vary(layer) <= allowed


def placed(vector: Labels, axis: int, n_dims: int) -> Labels:
    """A vector of labels as a layer."""
    shape = [1] * n_dims
    shape[axis] = len(vector)
    return vector.reshape(shape)


def merge(forest: Forest, shape: tuple[int, ...], first: Labelled, second: Labelled, reason: str) -> Labelled:
    """What an operation on elements makes of two tensors that are broadcast to `shape`."""
    n = len(shape)
    sizes = [(1,) * (n - len(t.shape)) + t.shape for t in (first, second)]
    layers = [[compact(forest, aligned(layer, n)) for layer in t.layers] for t in (first, second)]
    if first.free and second.free:
        return Labelled(shape, free=True, computed=first.computed or second.computed)
    kept: list[Labels] = []
    rest = layers[1]
    for layer in layers[0]:
        joined = False
        for other in [other for other in rest if vary(other) & vary(layer)]:
            both = vary(other) & vary(layer)
            rest = [one for one in rest if one is not other]
            if vary(other) != vary(layer):
                # Heads and their channels meet something that knows channels alone: the heads remain.
                layer, other = (
                    constant_along(forest, one, both) if vary(one) - both else one for one in (layer, other)
                )
                if vary(other):
                    rest.append(other)
                if not vary(layer):
                    break
                continue
            forest.join(layer, other)
            layer, joined = compact(forest, layer), True
        kept.append(_against(forest, layer, sizes[1], second.free or joined, reason))
    kept += [_against(forest, layer, sizes[0], first.free, reason) for layer in rest]
    computed = first.computed or second.computed
    return Labelled(shape, [layer for layer in kept if vary(layer)], computed=computed)


def _against(forest: Forest, layer: Labels, size: Sequence[int], fits: bool, reason: str) -> Labels:
    """A layer that the other tensor, of this size, has no labels for."""
    layer = compact(forest, layer)
    fixed = {axis for axis in vary(layer) if size[axis] > 1}
    if fits or not fixed:
        return layer
    if vary(layer) - fixed:
        return constant_along(forest, layer, fixed)
    forest.fix(layer, reason)
    return compact(forest, layer)
