"""The supernet of a program: one set of weights, from which layers of the sizes that were chosen are cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from supernet.architecture import Architecture
from supernet.programs.parts import Choice, Layer, OneOf, OptionalPart, Part, Residual, Sequential
from supernet.programs.reading import Gene, Reading, read, stages_of
from supernet.space import SearchSpace
from supernet.space.roles import Role

__all__ = ["ProgramSupernet"]


class ProgramSupernet(nn.Module):
    """A network that is written from scratch as a program (`supernet.programs`), with its space.

    A call and `extract` cut the same tensors, so they compute the same; what is extracted is a plain `nn.Sequential` of
    the layers that were chosen.

    Args:
        program: the parts of the network, from images (batch, channels, height, width) to logits.
        resolutions: sides of the images that can be chosen.

    Attributes:
        space: every repeat is a stage; so is what holds a choice or an optional part outside of one.
        roles: of the choices whose argument has the name of a role (`supernet.space.roles`), for shrinking.

    Raises:
        ValueError: nothing can be chosen, a repeat is inside of a block, or a layer has a larger tensor with other than
            its largest arguments.
    """

    def __init__(self, program: Part, resolutions: Sequence[int]) -> None:
        super().__init__()
        reading = read(program, resolutions)
        self.space: SearchSpace = reading.space
        self.roles: Mapping[str, Role] = reading.roles
        self.parts = nn.ModuleList()
        n_stages = 0
        for part, blocks, _ in stages_of(program):
            if blocks is None:
                self.parts.append(_elastic(part, reading, None, None))
            else:
                made = [_elastic(block, reading, n_stages, b) for b, block in enumerate(blocks)]
                self.parts.append(_Stage(made, n_stages))
                n_stages += 1
        with torch.no_grad():
            for arch in (self.space.smallest, self.space.largest):
                self.extract(arch)  # what does not fit is told here

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (batch, n_classes) of the sub-network `arch` on images (batch, channels, height, width)."""
        for part in self.parts:
            images = part(images, arch)
        return images

    def extract(self, arch: Architecture) -> nn.Sequential:
        """The sub-network alone, with weights of its own."""
        # Each part keeps its place, whatever the depths: so what a layer costs hangs on few choices (`measured_costs`).
        return nn.Sequential(*(part.extracted(arch) for part in self.parts)).train(self.training)  # type: ignore[operator]


class _Elastic(nn.Module):
    """A part with weights: called with an architecture, and what is left of it for one."""

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        raise NotImplementedError

    def extracted(self, arch: Architecture) -> nn.Module:
        raise NotImplementedError


def _elastic(part: Part, reading: Reading, stage: int | None, block: int | None) -> _Elastic:
    if isinstance(part, Layer):
        return _Layer(part, reading, stage, block)
    inner = {name: _elastic(one, reading, stage, block) for name, one in _named(part).items()}
    if isinstance(part, Sequential):
        return _Sequence(inner)
    if isinstance(part, Residual):
        return _Residual(inner)
    assert isinstance(part, Choice | OptionalPart)
    return _Choice(inner, reading.gene(part, stage, block))


def _named(part: Part) -> dict[str, Part]:
    return dict(part.options) if isinstance(part, Choice) else {str(i): one for i, one in enumerate(part.parts())}


class _Layer(_Elastic):
    def __init__(self, part: Layer, reading: Reading, stage: int | None, block: int | None) -> None:
        super().__init__()
        chosen = {name: value for name, value in part.arguments.items() if isinstance(value, OneOf)}
        self._make = part.make
        self._fixed = {
            name: value.choices[-1] if isinstance(value, OneOf) else value for name, value in part.arguments.items()
        }
        self._genes: dict[str, Gene] = {
            name: reading.gene(value, stage, block) for name, value in chosen.items() if len(value.choices) > 1
        }
        self._shapes: dict[tuple[Any, ...], nn.Module] = {}  # without data, by what was chosen
        self.largest = part.make(**self._fixed)

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        module, tensors = self._cut(arch)
        return functional_call(module.train(self.training), tensors, (x,))

    def extracted(self, arch: Architecture) -> nn.Module:
        module, tensors = self._cut(arch)
        module = copy.deepcopy(module)
        for name, tensor in tensors.items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            copied = tensor.detach().clone(memory_format=torch.contiguous_format)
            if last in owner._parameters:
                owner._parameters[last] = nn.Parameter(copied)
            else:
                owner._buffers[last] = copied
        return module

    def _cut(self, arch: Architecture) -> tuple[nn.Module, dict[str, Tensor]]:
        """The module without data, and views of its tensors by their names."""
        values = {name: gene.of(arch) for name, gene in self._genes.items()}
        key = tuple(values.values())
        if key not in self._shapes:
            with torch.device("meta"):
                self._shapes[key] = self._make(**(self._fixed | values))
        module = self._shapes[key]
        whole = dict(self.largest.named_parameters()) | dict(self.largest.named_buffers())
        kernels = {f"{name}.weight" if name else "weight" for name, one in module.named_modules() if _is_conv(one)}
        there = [*module.named_parameters(), *module.named_buffers()]
        return module, {name: _view(whole, name, one, name in kernels, self._make) for name, one in there}


class _Sequence(_Elastic):
    def __init__(self, inner: Mapping[str, _Elastic]) -> None:
        super().__init__()
        self.inner = nn.ModuleList(inner.values())

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        for part in self.inner:
            x = part(x, arch)
        return x

    def extracted(self, arch: Architecture) -> nn.Module:
        return nn.Sequential(*(part.extracted(arch) for part in self.inner))  # type: ignore[operator]


class _Stage(_Sequence):
    def __init__(self, blocks: Sequence[_Elastic], stage: int) -> None:
        super().__init__({str(i): block for i, block in enumerate(blocks)})
        self._place = stage

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        for block in self.inner[: arch.depths[self._place]]:
            x = block(x, arch)
        return x

    def extracted(self, arch: Architecture) -> nn.Module:
        there = self.inner[: arch.depths[self._place]]
        return nn.Sequential(*(block.extracted(arch) for block in there))  # type: ignore[operator]


class _Residual(_Elastic):
    def __init__(self, inner: Mapping[str, _Elastic]) -> None:
        super().__init__()
        (self.inner,) = inner.values()

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        return _added(x, self.inner(x, arch))

    def extracted(self, arch: Architecture) -> nn.Module:
        return WithInput(self.inner.extracted(arch))


class WithInput(nn.Module):
    """A body whose input is added to its output."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return _added(x, self.body(x))


class _Choice(_Elastic):
    """One of its parts; a single one may be left out."""

    def __init__(self, inner: Mapping[str, _Elastic], gene: Gene) -> None:
        super().__init__()
        self.inner = nn.ModuleDict(inner)
        self._gene = gene

    def forward(self, x: Tensor, arch: Architecture) -> Tensor:
        taken = self._taken(arch)
        return x if taken is None else taken(x, arch)

    def extracted(self, arch: Architecture) -> nn.Module:
        taken = self._taken(arch)
        return nn.Identity() if taken is None else taken.extracted(arch)

    def _taken(self, arch: Architecture) -> _Elastic | None:
        value = int(self._gene.of(arch))
        parts: list[Any] = list(self.inner.values())
        return parts[value] if len(parts) > 1 else parts[0] if value else None


def _added(x: Tensor, change: Tensor) -> Tensor:
    if x.shape != change.shape:
        raise ValueError(f"a residual part makes {tuple(change.shape)} of {tuple(x.shape)}; both must be the same")
    return x + change


def _is_conv(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.conv._ConvNd)


def _view(
    whole: Mapping[str, Tensor], name: str, like: Tensor, is_kernel: bool, make: Callable[..., nn.Module]
) -> Tensor:
    """The part of a tensor that a smaller one of the shape of `like` has: its first values; of kernels the middle."""
    full = whole.get(name)
    if full is None or full.dim() != like.dim() or any(a > b for a, b in zip(like.shape, full.shape, strict=True)):
        had = "none" if full is None else tuple(full.shape)
        raise ValueError(
            f"{getattr(make, '__name__', make)}: its {name} has {tuple(like.shape)}, which is not a part of what it is "
            f"with its largest arguments ({had}); a layer of which every argument makes it larger can be elastic"
        )
    starts = [
        (b - a) // 2 if is_kernel and dim > 1 else 0
        for dim, (a, b) in enumerate(zip(like.shape, full.shape, strict=True))
    ]
    return full[tuple(slice(start, start + size) for start, size in zip(starts, like.shape, strict=True))]
