"""Weights of their own for every architecture: layers hold several experts, mixed by what the architecture is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from supernet.networks.slicing import bare_copy
from supernet.space import SearchSpace

__all__ = ["Mixture", "layers_of", "with_tensors"]

_M = TypeVar("_M", bound=nn.Module)
_HIDDEN = 128
_SPREAD = 0.1


class Mixture(nn.Module):
    """Experts and routers of a supernet (Mixture-of-Supernets, Jawahar et al. 2024).

    Every chosen layer has `n` weights and biases: the supernet's own, which keeps its name, and `n` - 1 more. A router
    sees the architecture, never the image: its genes as shares of their largest choices, one hidden layer, a softmax.
    The layer's weight is the sum of the experts', each times its share. So a sub-network has weights of its own, and
    once it is taken out it is an ordinary network: the mixture has been multiplied out.

    Args:
        supernet: holds the layers; experts begin as its weights plus noise of a tenth of their spread, from torch's
            random numbers, since experts that are alike would stay so.
        space: its space.
        layers: names of the layers, of linear layers and 1×1 convolutions; layers of one block share a router.
        n: experts of every layer; 1 is the supernet as it was.
        neuron_wise: a share for every output of a layer, and a router for every layer.

    Raises:
        ValueError: no layer, or fewer than one expert.
    """

    def __init__(
        self, supernet: nn.Module, space: SearchSpace, layers: Sequence[str], n: int = 2, neuron_wise: bool = False
    ) -> None:
        super().__init__()
        if n < 1:
            raise ValueError(f"a mixture of {n} experts; the least is 1")
        if not layers:
            raise ValueError("a mixture of no layers; name linear layers or 1x1 convolutions")
        self.space, self.n, self.neuron_wise, self.layers = space, n, neuron_wise, tuple(layers)
        self.experts = nn.ParameterDict()
        self.routers = nn.ModuleDict()
        n_genes = len(space.genes)
        for name in layers:
            layer = supernet.get_submodule(name)
            for key, tensor in _tensors(layer):
                own = tensor.detach()
                for number in range(2, n + 1):
                    noise = torch.randn_like(own) * own.std(correction=0)
                    self.experts[_plain(f"{name}.{key}.{number}")] = nn.Parameter(own + _SPREAD * noise)
            router = self._router_of(name)
            if router not in self.routers:
                n_shares = n * len(_weight(layer)) if neuron_wise else n
                hidden = nn.Linear(n_genes, _HIDDEN)
                self.routers[router] = nn.Sequential(hidden, nn.ReLU(), nn.Linear(_HIDDEN, n_shares))

    def shares(self, arch: Architecture) -> dict[str, Tensor]:
        """Of every layer: the shares of its experts, (n,) or for every output (n, n_outputs); they add up to 1."""
        values = np.nan_to_num(self.space.values(self.space.encode([arch]))[0])
        most = np.array([float(gene.choices[-1]) or 1.0 for gene in self.space.genes])
        first: Any = next(iter(self.routers.values()))
        features = torch.from_numpy(values / most).to(first[0].weight)
        found = {name: router(features).view(self.n, -1).softmax(dim=0) for name, router in self.routers.items()}
        shares = {name: found[self._router_of(name)] for name in self.layers}
        return shares if self.neuron_wise else {name: share.squeeze(1) for name, share in shares.items()}

    def tensors(self, supernet: nn.Module, arch: Architecture) -> dict[str, Tensor]:
        """The weights and biases of the layers for `arch`, by their names in the supernet, whose own are expert 1."""
        mixed = {}
        for name, share in self.shares(arch).items():
            for key, tensor in _tensors(supernet.get_submodule(name)):
                path = f"{name}.{key}"
                total = tensor * _like(share[0], tensor)
                for number in range(2, self.n + 1):
                    total = total + self.experts[_plain(f"{path}.{number}")] * _like(share[number - 1], tensor)
                mixed[path] = total
        return mixed

    def _router_of(self, layer: str) -> str:
        return _plain(layer if self.neuron_wise else layer.rpartition(".")[0] or layer)


def layers_of(supernet: nn.Module, blocks: tuple[type[nn.Module], ...], patterns: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers and 1×1 convolutions of a supernet that match one of the patterns, such as
    ``*.mlp.fc?``; without any pattern all of them inside its `blocks`.

    Raises:
        ValueError: a pattern that no layer matches.
    """
    inside = [name for name, module in supernet.named_modules() if isinstance(module, blocks)]
    layers = [
        name
        for name, module in supernet.named_modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1)
    ]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in layers):
            some = ", ".join(layers[:3]) or "none"
            raise ValueError(f"no linear layer or 1x1 convolution is called {pattern!r}; there are {some} and the like")
    if patterns:
        return [name for name in layers if any(fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in layers if any(name.startswith(f"{block}.") for block in inside)]


def with_tensors(module: _M, tensors: Mapping[str, Tensor]) -> _M:
    """The module for one call, with these in the place of tensors of the same (dotted) names; the rest is shared."""
    bare = bare_copy(module, copy=False)
    own = {name: tensor for name, tensor in tensors.items() if "." not in name}
    bare.__dict__["_parameters"] = {**module._parameters, **own}
    below: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            below.setdefault(first, {})[rest] = tensor
    for name, inner in below.items():
        bare._modules[name] = with_tensors(module.get_submodule(name), inner)
    return bare


def _tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((name, tensor) for name, tensor in layer._parameters.items() if tensor is not None)


def _weight(layer: nn.Module) -> Tensor:
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _like(share: Tensor, tensor: Tensor) -> Tensor:
    """A share, () or (n_outputs,), in the shape that multiplies a weight or a bias."""
    return share if share.ndim == 0 else share.view(-1, *[1] * (tensor.ndim - 1))


def _plain(name: str) -> str:
    return name.replace(".", "_")
