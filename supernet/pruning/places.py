"""Where a running network writes units: the outputs of modules, which hooks can change while it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supernet.pruning.units import Units

__all__ = ["Place", "places_of"]


@dataclass(frozen=True, eq=False)
class Place:
    """The last module that writes the units of a group, and where they are in its output.

    Attributes:
        path: of the module.
        axis: of its output (n_images, ...).
        positions: (n_units, n_positions) along that axis.
    """

    path: str
    axis: int
    positions: Tensor

    def put(self, output: Tensor, values: Tensor) -> Tensor:
        """An output (n_images, ...) with the units at this place replaced by values (n_units, n_positions, ...)."""
        axis = self.axis % output.ndim
        flat = values.flatten(0, 1)
        return output.movedim(axis, 0).index_copy(0, self.positions.flatten().to(output.device), flat).movedim(0, axis)

    def take(self, output: Tensor) -> Tensor:
        """(n_units, n_positions, ...) the units at this place of an output; the axes after that in their old order."""
        index = self.positions.flatten().to(output.device)
        rows = output.movedim(self.axis % output.ndim, 0).index_select(0, index)
        return rows.unflatten(0, tuple(self.positions.shape))


def places_of(units: Units) -> dict[int, tuple[Place, ...]]:
    """The place of every group, by the number of its set; sets of which some group has no place are left out."""
    modules = dict(units.supernet.named_modules())
    found: dict[int, tuple[Place, ...]] = {}
    for number, one in enumerate(units.sets):
        places = [_place(units, group.spots, modules) for group in one.groups]
        if all(places):
            found[number] = tuple(place for place in places if place is not None)
    return found


def _place(units: Units, spots: Mapping[tuple[str, int], object], modules: Mapping[str, nn.Module]) -> Place | None:
    """A linear layer or convolution, or the BatchNorm after it, which comes last."""
    found = None
    for (name, axis), where in spots.items():
        path, _, leaf = name.rpartition(".")
        if axis != 0 or leaf != "weight" or units.supernet.graph.readers.get(name) == axis:
            continue
        module = modules[path]
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if (isinstance(module, nn.Conv2d | nn.Linear) and found is None) or norm:
            axis_ = -1 if isinstance(module, nn.Linear) else 1
            found = Place(path, axis_, torch.from_numpy(where))  # type: ignore[arg-type]
    return found
