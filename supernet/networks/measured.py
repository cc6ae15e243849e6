"""A supernet of one's own for a run: what its sub-networks cost, found by measuring what it extracts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from supernet.architecture import Architecture
from supernet.networks.counting import Costs, CostTable, Numbers, Part
from supernet.protocol import Supernet
from supernet.space import Genes, SearchSpace

__all__ = ["MeasuredSupernet", "measured_costs"]

_BASES, _CHECKS = 6, 16  # architectures around which genes are changed one by one, and on which the tables are checked
_MOST_CELLS = 4096  # of one part's table
_MEMBERS = "a supernet has `space` (a SearchSpace), a call with images and an architecture, and `extract`"

Module = tuple[int, int, int]
"""Multiply-accumulates, parameters and activations."""


class MeasuredSupernet(nn.Module):
    """A supernet with three members, with costs and a definition as a run asks for them (`supernet.KnowsCosts`).

    It computes what `network` computes and has its weights under its names; whatever else `network` has, such as
    `sort_channels`, `compile_blocks`, `roles`, or costs of its own, is used.

    Args:
        network: an `nn.Module` that is a `Supernet`.
        channels: of its images.
        definition: plain data from which it can be made again.

    Raises:
        ValueError: a member is missing.
    """

    def __init__(self, network: nn.Module, channels: int, definition: Mapping[str, Any] | None) -> None:
        super().__init__()
        name = type(network).__name__
        if not isinstance(network, nn.Module):
            raise ValueError(f"a {name} is no supernet: it is not an nn.Module")
        if not isinstance(getattr(network, "space", None), SearchSpace) or not hasattr(network, "extract"):
            raise ValueError(f"a {name} is no supernet: {_MEMBERS}")
        self.network = network
        self.channels = channels
        self.definition = definition

    @property
    def space(self) -> SearchSpace:
        """All architectures that can be run and extracted."""
        return self._supernet.space

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """Logits (batch, n_classes), or outputs (batch, ...) of another task, of the sub-network `arch` on images
        (batch, channels, height, width)."""
        return self._supernet(images, arch)

    def extract(self, arch: Architecture) -> nn.Module:
        """The sub-network alone, with weights of its own."""
        return self._supernet.extract(arch)

    def costs(self, genes: Genes) -> Costs:
        """What every part of the sub-networks costs for one image; see `Costs`. Genes are (n_archs, n_genes)."""
        own = getattr(self.network, "costs", None)
        return self._measured(genes) if own is None else own(genes)

    @property
    def cost_table(self) -> CostTable | None:
        """What `costs` looks up, if there is a table."""
        if getattr(self.network, "costs", None) is None:
            return self._measured if isinstance(self._measured, CostTable) else None
        own = getattr(self.network, "cost_table", None)
        return own if isinstance(own, CostTable) else None

    def macs(self, genes: Genes) -> Genes:
        """Multiply-accumulates (n_archs,) of convolutions and matrix products, for one image."""
        return self.costs(genes).macs.sum(axis=1)

    def n_parameters(self, genes: Genes) -> Genes:
        """Numbers of parameters (n_archs,) of the extracted networks."""
        return self.costs(genes).parameters.sum(axis=1)

    # -- the names and members of the network -------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """That of the network, under its names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Into the network."""
        return self.network.load_state_dict(state_dict, strict, assign)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network" or name.startswith("_"):
                raise
            return getattr(super().__getattr__("network"), name)

    @property
    def _supernet(self) -> Supernet:
        return cast(Supernet, self.network)

    @cached_property
    def _measured(self) -> Callable[[Genes], Costs]:
        return measured_costs(self.network, self.channels)


def measured_costs(supernet: Any, channels: int) -> Callable[[Genes], Costs]:
    """A function from genes (n_archs, n_genes) to what sub-networks cost, by running what `supernet` extracts.

    Every module of an extracted network is counted, and which genes its costs depend on is found by changing them one
    by one around some architectures. Then a table of measured costs per group of modules serves any number of
    architectures (`CostTable`). Where the tables do not give what other architectures were found to cost, or would be
    too large, every architecture is measured when it is asked for.
    """
    probe = _Probe(supernet, channels)
    space = supernet.space
    rng = np.random.default_rng(0)
    checks = space.encode([space.largest, space.smallest, *space.sample(_CHECKS, rng)])
    parts = _parts(probe, _depending(probe, checks[:_BASES]))
    if parts is None:
        return probe.costs
    table = CostTable(space, parts)
    tabled, measured = table(checks), probe.costs(checks)
    agree = all(
        (getattr(tabled, what).sum(axis=1) == getattr(measured, what).sum(axis=1)).all()
        for what in ("macs", "parameters", "activations")
    )
    return table if agree else probe.costs


class _Probe:
    """Measures architectures, each once."""

    def __init__(self, supernet: Any, channels: int) -> None:
        self.space: SearchSpace = supernet.space
        self.channels = channels
        self.supernet = supernet
        self.found: dict[tuple[int, ...], dict[str, Module]] = {}
        shapes = copy.deepcopy(supernet).to("meta")  # shapes alone, several times as fast; not every network can
        try:
            _measure(shapes, self.space.smallest, channels, "meta")
            self.supernet, self.device = shapes, "meta"
        except Exception:
            self.device = str(next((p.device for p in supernet.parameters()), "cpu"))

    def __call__(self, row: Genes) -> dict[str, Module]:
        """What the modules of the architecture of genes (n_genes,) cost, by name."""
        row = self.space.canonical(row[None])[0]
        key = tuple(row.tolist())
        if key not in self.found:
            self.found[key] = _measure(self.supernet, self.space.decode(row[None])[0], self.channels, self.device)
        return self.found[key]

    def costs(self, genes: Genes) -> Costs:
        """Costs of genes (n_archs, n_genes) as one part each."""
        rows = [np.array(list(self(row).values())).reshape(-1, 3).sum(axis=0) for row in genes]
        numbers = np.array(rows, dtype=np.int64).reshape(-1, 1, 3)
        return Costs(("network",), numbers[..., 0], numbers[..., 1], numbers[..., 2])


def _measure(supernet: Any, arch: Architecture, channels: int, device: str) -> dict[str, Module]:
    """What every module costs without those inside it, by name."""
    network = supernet.extract(arch).eval()
    counter, inside, seen = _Counter(), [""], set[int]()
    hooks = []
    for name, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _m, _i, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(lambda _m, _i, _o: inside.pop() and None))
        own = [p for p in module._parameters.values() if p is not None and id(p) not in seen]
        seen |= {id(parameter) for parameter in own}
        counter.add(name, 0, sum(parameter.numel() for parameter in own), 0)
    counter.inside = inside
    with torch.no_grad(), counter:
        network(torch.zeros(1, channels, arch.resolution, arch.resolution, device=device))
    return {name: (costs[0], costs[1], costs[2]) for name, costs in counter.found.items() if any(costs)}


class _Counter(TorchDispatchMode):
    """Counts convolutions and matrix products, for the module that runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[int]] = {}
        self.inside: list[str] = [""]

    def add(self, name: str, macs: int, parameters: int, written: int) -> None:
        costs = self.found.setdefault(name, [0, 0, 0])
        for i, value in enumerate((macs, parameters, written)):
            costs[i] += value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            written = out if isinstance(out, Tensor) else out[0]
            self.add(self.inside[-1], count(*args, **(kwargs or {}), out_val=out) // 2, 0, written.numel())
        return out


def _depending(probe: _Probe, bases: Genes) -> dict[str, tuple[int, ...]]:
    """The genes, the resolution aside, that what a module costs depends on, by the name of the module."""
    space = probe.space
    depending: dict[str, set[int]] = {}
    for base in bases:
        for name in probe(base):
            depending.setdefault(name, set())
        for gene, choice in _changes(space, base):
            existing = space.with_gene(base, gene)
            before = probe(existing)
            changed = existing.copy()
            changed[gene] = choice
            if not space.holds(space.canonical(changed[None]))[0]:
                continue
            after = probe(changed)
            for name in before.keys() | after.keys():
                if before.get(name) != after.get(name):
                    depending.setdefault(name, set()).add(gene)
    return {name: tuple(sorted(genes)) for name, genes in depending.items()}


def _changes(space: SearchSpace, base: Genes) -> Iterator[tuple[int, int]]:
    """Every other choice of every gene but the resolution."""
    for gene, n in enumerate(space.n_choices.tolist()):
        if gene:
            yield from ((gene, choice) for choice in range(n) if choice != base[gene])


def _parts(probe: _Probe, depending: Mapping[str, Sequence[int]]) -> list[Part] | None:
    """One part for the modules that depend on the same genes; None where a table would be too large."""
    space = probe.space
    if space.relations:  # not every combination of genes can be extracted
        return None
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, genes in depending.items():
        groups.setdefault(tuple(genes), []).append(name)
    cells = [int(np.prod([space.n_choices[gene] for gene in genes])) for genes in groups]
    if max(cells) * len(space.resolutions) > _MOST_CELLS:
        return None
    largest = space.encode([space.largest])[0]

    def part(genes: tuple[int, ...], names: list[str]) -> Part:
        def cost(*indices: int) -> Numbers:
            row = largest.copy()
            row[list(genes)] = indices
            found = np.zeros((len(space.resolutions), 3), dtype=np.int64)
            for resolution in range(len(found)):
                row[0] = resolution
                modules = probe(row)
                found[resolution] = np.array([modules.get(name, (0, 0, 0)) for name in names]).sum(axis=0)
            return found

        return Part(names[0] or "network", cost, genes)

    return list(itertools.starmap(part, groups.items()))
