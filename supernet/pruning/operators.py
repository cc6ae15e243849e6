"""Whole operators that can be driven to zero and erased while the rest of the network stays connected."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from supernet.families.traced import TracedSupernet
from supernet.graph.flow import Flow
from supernet.graph.groups import moved
from supernet.graph.proof import difference
from supernet.pruning.removable import Removable, Writer
from supernet.pruning.units import Units

__all__ = ["Joint", "Operators"]

_EQUAL = 1e-4  # of the largest output
_NOISE = 0.1  # of a weight's mean size


class Operators(Removable):
    """Operators of a network that can be erased (the removable segments of H2SPG; OTO version 3, Chen et al. 2023).

    An operator is a member of a container, such as a residual block or one of several branches that are added up. It is
    one if the network without it runs and computes what it computes with all of the operator's weights at zero, which
    is tried out once. Operators are erased one by one, the least important first, and only while a path leads from the
    input to every output past the layers of all that are erased, and something is left in every container.

    Args:
        supernet: a traced one, whose largest network is trained.

    Raises:
        ValueError: there is no such operator.
    """

    def __init__(self, supernet: TracedSupernet) -> None:
        self.supernet = supernet
        graph = supernet.graph
        self._flow = Flow([step.sources for step in graph.steps], graph.last_steps)
        self.paths = self._found(supernet)
        """The operators' names in the network, in its order."""
        if not self.paths:
            raise ValueError(
                f"nothing of a {type(supernet._template[0]).__name__} can be erased: no residual block or branch of a "
                "container can be left out"
            )
        self.n = len(self.paths)
        places = [path.rpartition(".")[0] for path in self.paths]
        self.n_sets = len(set(places))
        members = {place: len(supernet._template[0].get_submodule(place)._modules) for place in places}
        self._containers = [(place, members[place]) for place in places]
        self._steps = [_layers(supernet, path) for path in self.paths]
        writers: list[Writer] = []
        for number, path in enumerate(self.paths):
            for name, tensor in _weights(supernet, path).items():
                size = tensor.shape[0]
                writers.append((name, 0, torch.arange(size), torch.full((size,), number)))
        super().__init__(supernet, writers)

    def _found(self, supernet: TracedSupernet) -> list[str]:
        model = _tried(supernet)
        inputs = _inputs(supernet)
        kept = supernet.graph.full
        found: list[str] = []
        with torch.no_grad():
            for path, container in model._template[0].named_modules():
                if not isinstance(container, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                    continue
                for name in container._modules:
                    inner = f"{path}.{name}" if path else name
                    weights = _weights(model, inner)
                    if not weights or not self._flow.connected(_layers(supernet, inner)):
                        continue
                    try:
                        without = model.cut(kept, (inner,))(*inputs)
                    except Exception:  # whatever the code of a network may raise without a part of it
                        continue
                    before = {name: tensor.clone() for name, tensor in weights.items()}
                    for tensor in weights.values():
                        tensor.zero_()
                    zeroed = model.cut(kept)(*inputs)
                    for name_, tensor in weights.items():
                        tensor.copy_(before[name_])
                    if difference(without, zeroed) < _EQUAL:
                        found.append(inner)
        return [path for path in found if not any(other.startswith(f"{path}.") for other in found)]

    def _matrices(self, tensors: Mapping[str, Tensor], norms: bool) -> list[Tensor]:
        found = []
        for path in self.paths:
            of_it = {name: tensors[name].detach() for name in _weights(self.supernet, path)}
            scales = [t for name, t in of_it.items() if t.ndim == 1 and name.endswith("weight")] if norms else []
            found.append(torch.cat([t.flatten().cpu() for t in scales or of_it.values()])[None])
        return found

    def erasable(self, gone: Tensor, number: int) -> bool:
        """Whether this operator may be erased, too, when these (n,) are gone."""
        erased = [i for i in range(self.n) if gone[i]] + [number]
        container, n_members = self._containers[number]
        if sum(self._containers[i][0] == container for i in erased) >= n_members:
            return False
        return self._flow.connected(set().union(*(self._steps[i] for i in erased)))

    def least(self, scores: Tensor, gone: Tensor, missing: Callable[[Tensor], float]) -> Tensor:
        """See `Removable`: greedily, and never so that the network would fall apart."""
        found = gone.clone()
        for number in torch.argsort(scores).tolist():
            if missing(found) <= 0:
                break
            if not found[number] and self.erasable(found, number):
                found[number] = True
        return found

    def left(self, gone: Tensor) -> tuple[list[int], dict[str, float]]:
        """See `Removable`."""
        kept = self.supernet.graph.full
        return kept, dict.fromkeys(self.erased(gone), 0.0)

    def erased(self, gone: Tensor) -> list[str]:
        """The names of those that are gone."""
        return [path for path, is_gone in zip(self.paths, gone.tolist(), strict=True) if is_gone]

    def without(self, gone: Tensor) -> Any:
        """See `Removable`."""
        return self.supernet.without(*self.left(gone))


class Joint(Removable):
    """Units and operators side by side: the operators' numbers follow those of the units.

    Units of an operator that is gone go with it.
    """

    def __init__(self, units: Units, operators: Operators) -> None:
        self.supernet, self.units, self.operators = units.supernet, units, operators
        self.n, self.n_sets = units.n + operators.n, units.n_sets + operators.n_sets
        own = [(name, axis, where, numbers + units.n) for name, axis, where, numbers in operators._writers]
        super().__init__(units.supernet, [*units._writers, *own])

    def _matrices(self, tensors: Mapping[str, Tensor], norms: bool) -> list[Tensor]:
        return [*self.units._matrices(tensors, norms), *self.operators._matrices(tensors, norms)]

    def least(self, scores: Tensor, gone: Tensor, missing: Callable[[Tensor], float]) -> Tensor:
        """See `Removable`: units alone."""
        n, fixed = self.units.n, gone[self.units.n :]
        found = self.units.least(scores[:n], gone[:n], lambda so_far: missing(torch.cat([so_far, fixed])))
        return torch.cat([found, fixed])

    def parted(self, gone: Tensor) -> tuple[Tensor, Tensor]:
        """The units (n_units,) that go by themselves, and the operators (n_operators,) that go."""
        units, operators = gone[: self.units.n].clone(), gone[self.units.n :]
        inside = tuple(f"{path}." for path in self.operators.erased(operators))
        for one in self.units.sets:
            if inside and any(name.startswith(inside) for group in one.groups for name in group.parameters):
                units[one.first : one.first + one.n] = False
        return units, operators

    def left(self, gone: Tensor) -> tuple[list[int], dict[str, float]]:
        """See `Removable`."""
        units, operators = self.parted(gone)
        return self.units.kept(units), self.operators.left(operators)[1]

    def without(self, gone: Tensor) -> Any:
        """See `Removable`."""
        return self.units.sorted(self.parted(gone)[0]).without(*self.left(gone))


def _weights(model: nn.Module, path: str) -> dict[str, nn.Parameter]:
    """The parameters of a module that are vectors at least, by their names in the network."""
    module = model.get_submodule(path)
    return {f"{path}.{name}": p for name, p in module.named_parameters() if p.ndim}


def _layers(supernet: TracedSupernet, path: str) -> set[int]:
    """The steps in a module that have weights, which its erasing takes away; a shortcut past them stays."""
    steps = supernet.graph.steps
    return {i for i, step in enumerate(steps) if step.weights and f"{step.module}.".startswith(f"{path}.")}


def _tried(supernet: TracedSupernet) -> Any:
    """A copy in eval mode whose weights hide nothing, such as a scale that begins at zero."""
    model = copy.deepcopy(supernet).cpu().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not name.endswith("running_var"):
                size = 0.02 + _NOISE * tensor.abs().mean()
                tensor.add_(size * torch.randn(tensor.shape, generator=generator))
    return model


def _inputs(supernet: TracedSupernet) -> Sequence[Any]:
    """Inputs like those that the network was watched with; images are noise."""
    generator = torch.Generator().manual_seed(0)
    given = moved(supernet.graph.inputs, "cpu")
    return tuple(
        torch.randn(value.shape, generator=generator)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for value in given
    )
