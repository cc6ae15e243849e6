"""Pruning by gates that have to agree: which units an image needs, until all images need the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from supernet.pruning.units import Cost, Units

__all__ = ["ConsensusGates"]

_OPEN = 2.0  # of the logits at first
_DECIDED = 0.05


class ConsensusGates(nn.Module):
    """A gate for every unit that opens by what the network sees (Consensus Sub-Network; Jin et al. 2021).

    A linear layer on the pooled output of what writes the units says per image which of them are open: hard 0 or 1
    forward, the logistic function's slope backward. The penalty pushes the mean of each gate over the images to 0 or 1
    and the network's cost to the target, so that in the end one static network is left, without gates.

    The gates are parameters of their own: give ``gates.parameters()`` to an optimiser of their own, since their
    gradients are small (Adam with a rate of 0.03), and add ``gates.penalty(step / n_steps)`` to the loss of every step.

    Args:
        units: of the network that is trained; its sets are gated whose units are single channels of some layer.
        target: share of the cost that is to be left.
        cost: of a network that keeps so many units of every group; default the share of units that are open.
        polarising: weight of the push to 0 or 1, reached in a straight line over the first half.
        costing: weight of the distance from the target.

    Raises:
        ValueError: no set of units can be gated, or the target is not a share.
    """

    def __init__(
        self, units: Units, target: float, cost: Cost | None = None, polarising: float = 20.0, costing: float = 20.0
    ) -> None:
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"target {target:g} of the cost is not between 0 and 1")
        self.units, self.target, self.cost = units, target, cost
        self.polarising, self.costing = polarising, costing
        modules = dict(units.supernet.named_modules())
        self._hooks: list[Any] = []
        self._open: dict[int, Tensor] = {}
        layers: dict[str, nn.Linear] = {}
        for number, one in enumerate(units.sets):
            place = self._place(number, modules)
            if place is None:
                continue
            path, axis, order = place
            gate = layers[str(number)] = nn.Linear(one.n, one.n)
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, _OPEN)
            self._hooks.append(modules[path].register_forward_hook(self._gating(number, axis, order)))
        if not layers:
            raise ValueError("no units of this network can be gated: none is a single channel of one layer")
        self.gates = nn.ModuleDict(layers)
        self.register_buffer("means", torch.ones(units.n))
        self.register_buffer("gated", torch.zeros(units.n, dtype=torch.bool))
        for number in map(int, layers):
            one = units.sets[number]
            self._buffers["gated"][one.first : one.first + one.n] = True  # type: ignore[index]

    def penalty(self, progress: float) -> Tensor:
        """What is added to the loss of a step, after the network has run.

        Args:
            progress: share of the training that is done, in [0, 1].
        """
        means = self._mean_gates()
        polar = (means * (1 - means))[self._gated].mean()
        return min(1.0, 2 * progress) * self.polarising * polar + self.costing * (self._cost(means) - self.target).abs()

    @property
    def decided(self) -> float:
        """The share of the gates whose mean over the last images is below 0.05 or above 0.95."""
        means = self._means[self._gated]
        return float(((means < _DECIDED) | (means > 1 - _DECIDED)).float().mean())

    def network(self) -> nn.Module:
        """The static network of the units whose gates are open for most images, without gates.

        Of every set at least one step stays. Its BatchNorms should be recalibrated: they have seen gates that differ.
        """
        self.remove()
        return self.units.without(self.gone)

    @property
    def gone(self) -> Tensor:
        """(n,) bool, the units that `network` leaves out."""
        gone = self._gated & (self._means <= 0.5)
        for one in self.units.sets:
            place = slice(one.first, one.first + one.n)
            n_open = int((~gone[place]).sum())
            wanted = min(one.n, max(one.step, -(-n_open // one.step) * one.step))
            best = torch.argsort(self._means[place], descending=True)[:wanted]
            gone[place] = gone[place].index_fill(0, best, False)
        return gone

    def remove(self) -> None:
        """The network runs without gates from now on."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # -- inside -------------------------------------------------------------------------------------------------------

    @property
    def _means(self) -> Tensor:
        means = self._buffers["means"]
        assert means is not None
        return means

    @property
    def _gated(self) -> Tensor:
        gated = self._buffers["gated"]
        assert gated is not None
        return gated

    def _place(self, number: int, modules: Mapping[str, nn.Module]) -> tuple[str, int, Tensor] | None:
        """The last module that writes the units of a set, the axis of its output and the channel of each unit."""
        for group in self.units.sets[number].groups:
            found = None
            for (name, axis), where in group.spots.items():
                path, _, leaf = name.rpartition(".")
                single = where.shape[1] == 1 and axis == 0 and leaf == "weight"
                if not single or self.units.supernet.graph.readers.get(name) == axis:
                    continue
                module = modules[path]
                norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
                if (isinstance(module, nn.Conv2d | nn.Linear) and found is None) or norm:
                    found = path, -1 if isinstance(module, nn.Linear) else 1, torch.from_numpy(where[:, 0])
            if found is not None:
                return found
        return None

    def _gating(self, number: int, axis: int, channels: Tensor) -> Any:
        one = self.units.sets[number]

        def gate(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            axis_ = axis % output.ndim
            others = [a for a in range(1, output.ndim) if a != axis_]
            pooled = output.mean(dim=others) if others else output
            logits = self.gates[str(number)](pooled[:, channels])
            soft = logits.sigmoid()
            hard = (soft > 0.5).to(soft.dtype) + soft - soft.detach()
            self._open[number] = hard
            if self.training:
                with torch.no_grad():
                    self._means[one.first : one.first + one.n].lerp_((soft > 0.5).float().mean(dim=0), 0.1)
            factors = torch.ones(output.shape[0], output.shape[axis_], dtype=output.dtype, device=output.device)
            factors = factors.index_copy(1, channels, hard)
            return output * factors.view(
                [output.shape[0] if a == 0 else -1 if a == axis_ else 1 for a in range(output.ndim)]
            )

        return gate

    def _mean_gates(self) -> Tensor:
        """(n,) means over the images of the last step, of those that are gated; the others are open."""
        parts = []
        for number, one in enumerate(self.units.sets):
            gates = self._open.get(number)
            parts.append(torch.ones(one.n) if gates is None else gates.mean(dim=0))
        return torch.cat(parts)

    def _cost(self, means: Tensor) -> Tensor:
        """The cost of a network that keeps the expected number of units, over that of the whole one."""
        if self.cost is None:
            return means.mean()
        expected: list[Any] = [group.n_units for group in self.units.supernet.graph.groups]
        whole = float(self.cost(expected))
        for one in self.units.sets:
            for group in one.groups:
                expected[group.index] = means[one.first : one.first + one.n].sum()
        found: Any = self.cost(expected)
        return found / whole
