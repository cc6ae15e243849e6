"""Several networks that share one file of weights: what is a slice of a larger weight is not stored again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from hardware.onnx.graph import Factors
from supernet.files import replacing

__all__ = ["SharedWeights"]

_ALIGNED = 64  # bytes: a cache line, and what vector instructions like best
_SECTIONS = (2, 3)  # queries, keys and values lie one after the other in one weight

Array = NDArray[np.float32]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class _Stored:
    """A weight in the file."""

    array: Array
    offset: int  # bytes
    firsts: frozenset[float]  # what a slice of it can begin with


@dataclass(frozen=True)
class _Slice:
    """Where in a stored weight another one is: places along every axis."""

    of: _Stored
    places: tuple[Places, ...]


@dataclass
class SharedWeights:
    """A file of weights for the networks that are added to it, the largest first.

    Every weight of a network is looked for among those that are stored, by its numbers: as the whole, as the first
    channels, the first of each of two or three sections, or the centre of the kernels. What is found so is a slice
    in the network's own small file, anything else is stored as well; so sharing can cost memory, but never a digit. A
    BatchNorm that is folded into a weight becomes a multiplication again: the factor is the network's own, the
    weight is not. Vectors (biases, statistics, factors) and whatever is not float32 stay in the small file.

    ONNX Runtime computes slices and products once, when it loads a file, and then has the very numbers, and hence the
    outputs, of the file that was given. Without its constant folding and prepacking it computes them in every call and
    keeps no copy of any weight: sessions of all networks then share the pages of the one file.

    Args:
        name: of the file, which lies beside those of the networks.
    """

    name: str
    _stored: list[_Stored] = field(default_factory=list)
    _size: int = 0

    @property
    def n_bytes(self) -> int:
        """Of the file."""
        return self._size

    def add(self, model: bytes, factors: Mapping[str, Any] | None = None) -> bytes:
        """The small file of a network, from its whole file and the factors of its weights (`export_with_factors`)."""
        known: Factors = dict(factors or {})
        proto = ModelProto.FromString(model)
        graph = proto.graph
        own: list[TensorProto] = []
        made: list[NodeProto] = []
        names: dict[int, str] = {}  # of stored weights that are read whole
        for tensor in graph.initializer:
            weight, factor = known.get(tensor.name, (None, None))
            array = numpy_helper.to_array(tensor) if weight is None else weight
            if array.ndim < 2 or array.dtype != np.float32:
                own.append(tensor)
                continue
            value = tensor.name if factor is None else f"{tensor.name}_shared"
            tensors, nodes = self._read(np.ascontiguousarray(array), value, names)
            own += tensors
            made += nodes
            if factor is not None:
                own.append(numpy_helper.from_array(np.asarray(factor), f"{tensor.name}_factor"))
                made.append(helper.make_node("Mul", [value, f"{tensor.name}_factor"], [tensor.name], name=tensor.name))
        del graph.initializer[:]
        graph.initializer.extend(own)
        nodes = [*made, *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        return proto.SerializeToString()

    def write(self, folder: Path) -> None:
        """Write the file into a folder.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(folder / self.name) as temporary, temporary.open("wb") as file:
            for one in self._stored:
                file.write(bytes(one.offset - file.tell()))
                file.write(one.array.tobytes())

    def _read(self, array: Array, value: str, names: dict[int, str]) -> tuple[list[TensorProto], list[NodeProto]]:
        """What makes a value out of the file: tensors there, and nodes that slice them."""
        found = self._find(array) or self._store(array)
        shape = found.of.array.shape
        cut = [axis for axis, places in enumerate(found.places) if len(places) != shape[axis]]
        if not cut or (cut == [0] and _is_range(found.places[0]) and not found.places[0][0]):
            return [self._tensor(value, found.of, array.shape)], []  # lies in the file as it is, from its beginning on
        tensors, whole = [], names.get(found.of.offset)
        if whole is None:
            whole = names[found.of.offset] = f"{value}_whole"
            tensors.append(self._tensor(whole, found.of, shape))
        nodes = []
        ranges = [axis for axis in cut if _is_range(found.places[axis])]
        last = len(cut) - len(ranges)
        if ranges:
            starts = [int(found.places[axis][0]) for axis in ranges]
            stops = [int(found.places[axis][-1]) + 1 for axis in ranges]
            bounds = {"starts": starts, "stops": stops, "axes": ranges}
            tensors += [numpy_helper.from_array(np.array(b), f"{value}_{name}") for name, b in bounds.items()]
            output = f"{value}_ranges" if last else value
            nodes.append(helper.make_node("Slice", [whole, *(f"{value}_{name}" for name in bounds)], [output]))
            whole = output
        for axis in (axis for axis in cut if axis not in ranges):
            last -= 1
            tensors.append(numpy_helper.from_array(found.places[axis], f"{value}_places_{axis}"))
            output = f"{value}_along_{axis}" if last else value
            nodes.append(helper.make_node("Gather", [whole, f"{value}_places_{axis}"], [output], axis=axis))
            whole = output
        return tensors, nodes

    def _find(self, array: Array) -> _Slice | None:
        first, ends = float(array.flat[0]), (0, -1)
        for stored in self._stored:
            if stored.array.ndim != array.ndim or first not in stored.firsts:
                continue
            choices = [list(_places(n, of)) for n, of in zip(array.shape, stored.array.shape, strict=True)]
            for places in product(*choices):
                corners = stored.array[np.ix_(*(one[list(ends)] for one in places))]
                if np.array_equal(corners, array[np.ix_(*[ends] * array.ndim)]) and np.array_equal(
                    stored.array[np.ix_(*places)], array
                ):
                    return _Slice(stored, places)
        return None

    def _store(self, array: Array) -> _Slice:
        offset = -(-self._size // _ALIGNED) * _ALIGNED
        centres = range((min(array.shape[2:], default=1) + 1) // 2)
        firsts = frozenset(float(array[(0, 0, *[i] * (array.ndim - 2))]) for i in centres)
        stored = _Stored(array, offset, firsts)
        self._stored.append(stored)
        self._size = offset + array.nbytes
        return _Slice(stored, tuple(np.arange(n) for n in array.shape))

    def _tensor(self, name: str, stored: _Stored, shape: Sequence[int]) -> TensorProto:
        """A tensor whose numbers are those at the beginning of a stored weight."""
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        n_bytes = int(np.prod(shape)) * stored.array.itemsize
        for key, said in {"location": self.name, "offset": stored.offset, "length": n_bytes}.items():
            tensor.external_data.add(key=key, value=str(said))
        return tensor


def _places(n: int, of: int) -> Iterator[Places]:
    """Where `n` of `of` neighbours may lie."""
    if n > of:
        return
    yield np.arange(n)
    if n == of:
        return
    if (of - n) % 2 == 0:
        yield np.arange(n) + (of - n) // 2
    for sections in _SECTIONS:
        if n % sections == of % sections == 0:
            starts = np.arange(sections)[:, None] * (of // sections)
            yield (starts + np.arange(n // sections)).reshape(-1)


def _is_range(places: Places) -> bool:
    return len(places) == int(places[-1] - places[0]) + 1
