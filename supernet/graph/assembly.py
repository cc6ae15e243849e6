"""A smaller instance of the same classes, put together from views or copies of the weights of the largest network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from types import MethodType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from supernet.graph.blocks import Run
from supernet.graph.groups import DependencyGraph, Group, Quantity
from supernet.graph.kernels import fit_kernel
from supernet.graph.loosening import loosened
from supernet.networks.elastic_kernel import KernelTransform
from supernet.networks.slicing import bare_copy, clone

__all__ = ["Assembler", "Fit"]

_MOST_RUNS = 6  # pieces of an axis that are put together; more are picked by number


class Fit:
    """An attribute of a module that has to follow: ``num_heads``, or one number of ``split_sizes``.

    With `uses` it is a size that the code of the module reads (`supernet.graph.loosening`).
    """

    def __init__(
        self, attribute: str, place: int | None, options: Sequence[Quantity | None], uses: Sequence[int] = ()
    ) -> None:
        self.attribute = attribute
        self.place = place
        self.options = options
        self.uses = uses
        self.chosen = 0

    @property
    def follows(self) -> bool:
        """Whether it is set to anything."""
        return self.options[self.chosen] is not None

    def apply(self, module: nn.Module, kept: Sequence[int]) -> None:
        """Set the attribute of a module for the units that each group keeps."""
        quantity = self.options[self.chosen]
        if quantity is None:
            return
        if self.place is None:
            module.__dict__[self.attribute] = quantity(kept)
        else:
            numbers = list(module.__dict__[self.attribute])
            numbers[self.place] = quantity(kept)
            module.__dict__[self.attribute] = type(module.__dict__[self.attribute])(numbers)


class Assembler:
    """Puts sub-networks together: the first units of every group, the first blocks of every row.

    Args:
        graph: of the network.
        fits: by module, the attributes that follow.
        model: the network, with or without data.
    """

    def __init__(self, graph: DependencyGraph, fits: Mapping[str, Sequence[Fit]], model: nn.Module) -> None:
        self.graph = graph
        self.fits = fits
        self.own = {path: names for path, module in model.named_modules() if (names := _own(module))}
        self._cuts: dict[str, list[tuple[int, list[Group]]]] = defaultdict(list)
        on_axis: dict[tuple[str, int], list[Group]] = defaultdict(list)
        for group in graph.groups:
            for spot in group.spots:
                on_axis[spot].append(group)
        for (name, axis), groups in on_axis.items():
            self._cuts[name].append((axis, groups))
        self._pieces: dict[Any, Any] = {}
        self._runs = {
            run.container: [one for one in graph.runs if one.container == run.container] for run in graph.runs
        }
        touched = {
            *self._runs,
            *fits,
            *(path for run in graph.runs for path in run.paths),
            *(name.rpartition(".")[0] for name in (*self._cuts, *graph.kernels)),
        }
        self._touched = {""}
        self.touch(touched)

    def __deepcopy__(self, memo: Any) -> Assembler:
        return self  # a plan: it holds no weights, and is not changed

    def touch(self, paths: Collection[str]) -> None:
        """These modules are made anew for every sub-network, and what contains them."""
        self._touched |= {p[:i] for path in paths for p in [f"{path}."] for i in _dots(p)}

    def assemble(
        self,
        model: nn.Module,
        kept: Sequence[int],
        depths: Mapping[Run, int],
        copy: bool,
        root: nn.Module | None = None,
        gone: Collection[str] = (),
        transforms: Mapping[str, KernelTransform] | None = None,
    ) -> Any:
        """The network with the first `kept` units of each group and that many blocks of each row.

        Args:
            model: the largest network.
            copy: with weights of its own; otherwise its tensors are views, and what is whole is shared.
            root: whose own tensors are used in place of those of `model` itself.
            gone: names of modules that are left out of what contains them.
            transforms: what makes smaller kernels, by the name of the weight; others are the centre of the whole.
        """
        return _Assembly(self, kept, depths, copy, gone, transforms or {}).build(model, "", root)

    def cut(self, tensor: Tensor, name: str, kept: Sequence[int], transform: KernelTransform | None = None) -> Tensor:
        """What is left of a parameter; a view where the units that stay lie side by side."""
        for axis, groups in self._cuts.get(name, ()):
            numbers = tuple(kept[group.index] for group in groups)
            if all(n == group.n_units for n, group in zip(numbers, groups, strict=True)):
                continue
            key = (name, axis, numbers)
            pieces = self._pieces.get(key)
            if pieces is None:
                pieces = self._pieces[key] = _pieces(tensor.shape[axis], name, axis, groups, numbers)
            if isinstance(pieces, list):
                parts = [tensor.narrow(axis, start, n) for start, n in pieces]
                tensor = parts[0] if len(parts) == 1 else torch.cat(parts, axis)
            else:
                tensor = tensor.index_select(axis, torch.from_numpy(pieces).to(tensor.device))
        kernel = self.graph.kernels.get(name)
        return tensor if kernel is None else kernel.cut(tensor, kept[kernel.index], transform)


class _Assembly:
    def __init__(
        self,
        plan: Assembler,
        kept: Sequence[int],
        depths: Mapping[Run, int],
        copy: bool,
        gone: Collection[str],
        transforms: Mapping[str, KernelTransform],
    ) -> None:
        self.plan, self.kept, self.depths, self.copy = plan, kept, depths, copy
        self.transforms = transforms
        self.gone = frozenset(gone)
        self.touched = {name[:i] for name in gone for i in _dots(name)} | ({""} if gone else set())
        self.modules: dict[int, nn.Module] = {}
        self.tensors: dict[int, Tensor] = {}

    def build(self, module: nn.Module, path: str, root: nn.Module | None = None) -> nn.Module:
        known = self.modules.get(id(module))
        if known is not None:
            return known
        if not self.copy and path not in self.plan._touched and path not in self.touched:
            return module
        bare = self.modules[id(module)] = bare_copy(module, self.copy)
        prefix = f"{path}." if path else ""
        source = root or module
        attributes = bare.__dict__
        for attribute in self.plan.own.get(path, ()):
            value = attributes[attribute]
            attributes[attribute] = MethodType(value.__func__, bare) if isinstance(value, MethodType) else {}
        before = {name: t.shape for name, t in source._parameters.items() if t is not None}
        attributes["_parameters"] = {n: self._tensor(t, prefix + n, True) for n, t in source._parameters.items()}
        attributes["_buffers"] = {n: self._tensor(t, prefix + n, False) for n, t in source._buffers.items()}
        _fit_layer(bare, before)
        fits = self.plan.fits.get(path, ())
        for fit in fits:
            fit.apply(bare, self.kept)
        if read := {use: fit.attribute for fit in fits if fit.follows for use in fit.uses}:
            bare.__class__ = loosened(type(bare), frozenset(read.items()))
        children = {
            name: None if child is None else self.build(child, prefix + name)
            for name, child in module._modules.items()
            if not self._is_gone(path, name)
        }
        numbered = isinstance(module, nn.Sequential | nn.ModuleList) and len(children) < len(module._modules)
        if numbered and all(name.isdigit() for name in children):
            children = {str(i): child for i, child in enumerate(children.values())}
        attributes["_modules"] = children
        _unfuse(bare)
        return bare

    def _is_gone(self, path: str, name: str) -> bool:
        return (f"{path}.{name}" if path else name) in self.gone or any(
            name in run.names and run.names.index(name) >= self.depths.get(run, len(run.names))
            for run in self.plan._runs.get(path, ())
        )

    def _tensor(self, tensor: Tensor | None, name: str, parameter: bool) -> Tensor | None:
        if tensor is None:
            return None
        found = self.tensors.get(id(tensor))
        if found is None:
            found = self.plan.cut(tensor, name, self.kept, self.transforms.get(name))
            if self.copy:
                found = nn.Parameter(clone(found), tensor.requires_grad) if parameter else clone(found)
            self.tensors[id(tensor)] = found
        return found


def _pieces(
    size: int, name: str, axis: int, groups: Sequence[Group], kept: Sequence[int]
) -> list[tuple[int, int]] | NDArray[np.int64]:
    """The positions that stay, as (start, length) where these are few."""
    stays = np.ones(size, dtype=bool)
    for group, n in zip(groups, kept, strict=True):
        stays[group.spots[name, axis][n:].ravel()] = False
    edges = np.flatnonzero(np.diff(np.concatenate([[0], stays.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    if len(starts) <= _MOST_RUNS:
        return [(int(a), int(b - a)) for a, b in zip(starts, stops, strict=True)]
    return np.flatnonzero(stays)


def _fit_layer(module: nn.Module, before: Mapping[str, torch.Size]) -> None:
    """What torch's own layers know of their sizes, after their tensors have been cut."""
    own: Any = module.__dict__
    if isinstance(module, nn.MultiheadAttention):
        packed, queries = module.in_proj_weight, module.q_proj_weight
        own["embed_dim"] = queries.shape[0] if packed is None else packed.shape[0] // 3
        own["num_heads"] = own["embed_dim"] // module.head_dim
        return
    weight = module._parameters.get("weight")
    if weight is None or "weight" not in before or weight.shape == before["weight"]:
        return
    shape, full = weight.shape, before["weight"]
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups > 1:
            own["groups"] = module.groups * shape[0] // full[0]
        outs, ins = (1, 0) if module.transposed else (0, 1)
        own["out_channels"] = shape[outs] * (module.groups if module.transposed else 1)
        own["in_channels"] = shape[ins] * (1 if module.transposed else module.groups)
        if shape[2:] != full[2:]:
            fit_kernel(module, shape[2])
    elif isinstance(module, nn.Linear):
        own["out_features"], own["in_features"] = shape
    elif isinstance(module, nn.Embedding):
        own["num_embeddings"], own["embedding_dim"] = shape
    elif isinstance(module, nn.GroupNorm):
        own["num_channels"] = shape[0]
        if module.num_groups > 1:
            own["num_groups"] = module.num_groups * shape[0] // full[0]
    elif "normalized_shape" in own:
        own["normalized_shape"] = tuple(shape)
    elif "num_features" in own:
        own["num_features"] = shape[0]


def _unfuse(module: nn.Module) -> None:
    """torch's encoders have fused ways that take all heads to be as wide as the embedding; keep loosened ones off."""
    if isinstance(module, nn.TransformerEncoderLayer):
        if hasattr(module.self_attn, "_loosened"):
            module.__dict__["activation_relu_or_gelu"] = 0
    elif isinstance(module, nn.TransformerEncoder) and any(hasattr(part, "_loosened") for part in module.modules()):
        module.__dict__["use_nested_tensor"] = False


def _own(module: nn.Module) -> list[str]:
    """Attributes that a copy must not share: methods of the module itself, and caches of tensors."""
    return [
        name
        for name, value in module.__dict__.items()
        if (isinstance(value, MethodType) and value.__self__ is module)
        or (type(value) is dict and name[0] != "_" and all(isinstance(one, Tensor) for one in value.values()))
    ]


def _dots(path: str) -> list[int]:
    return [i for i, letter in enumerate(path) if letter == "."]


def module_at(model: nn.Module, path: str) -> nn.Module:
    """A module by its name; the model itself for none."""
    return cast(nn.Module, model.get_submodule(path))
