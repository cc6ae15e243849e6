"""Pruning by gates that have to agree: which units an image needs, until all images need the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supernet.pruning.costs import Cost
from supernet.pruning.places import Place, places_of
from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.units import Units

__all__ = ["Consensus", "ConsensusGates"]

_OPEN = 2.0  # of the logits at first
_DECIDED = 0.05
_RATE = 0.03  # of the gates' own optimiser


class ConsensusGates(nn.Module):
    """A gate for every unit that opens by what the network sees (Consensus Sub-Network; Jin et al. 2021).

    A linear layer on the pooled output of what writes the units says per image which of them are open: hard 0 or 1
    forward, the logistic function's slope backward. The penalty pushes the mean of each gate over the images to 0 or 1
    and the network's cost to the target, so that in the end one static network is left, without gates.

    The gates are parameters of their own: give ``gates.parameters()`` to an optimiser of their own, since their
    gradients are small (Adam with a rate of 0.03), and add ``gates.penalty(step / n_steps)`` to the loss of every step.

    Args:
        units: of the network that is trained; its sets are gated whose units a layer writes.
        target: share of the cost that is to be left.
        cost: of a network that keeps so many units of every group; default the share of units that are open.
        polarising: weight of the push to 0 or 1, reached in a straight line over the first half.
        costing: weight of the distance from the target.
        moving: whether the penalty reaches the network through what the gates look at. Then nearly all gates come to
            agree; in a deep network and a short training it wrecks what is learned, many times as large as the loss.

    Raises:
        ValueError: no set of units can be gated, or the target is not a share.
    """

    def __init__(
        self,
        units: Units,
        target: float,
        cost: Cost | None = None,
        polarising: float = 20.0,
        costing: float = 20.0,
        moving: bool = True,
    ) -> None:
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"target {target:g} of the cost is not between 0 and 1")
        self.units, self.target, self.cost = units, target, cost
        self.polarising, self.costing, self.moving = polarising, costing, moving
        modules = dict(units.supernet.named_modules())
        self._hooks: list[Any] = []
        self._open: dict[int, Tensor] = {}
        layers: dict[str, nn.Linear] = {}
        for number, places in places_of(units).items():
            n = units.sets[number].n
            gate = layers[str(number)] = nn.Linear(n, n)
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, _OPEN)
            for i, place in enumerate(places):
                self._hooks.append(modules[place.path].register_forward_hook(self._gating(number, place, first=not i)))
        if not layers:
            raise ValueError("no units of this network can be gated: no linear layer or convolution writes them")
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

    @property
    def means_of_units(self) -> Tensor:
        """(n,) how many of the last images each unit was open for; 1 without a gate."""
        return self._means.cpu()

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

    def _gating(self, number: int, place: Place, first: bool) -> Any:
        """A hook; the first place of a set decides, the others follow."""
        one = self.units.sets[number]

        def gate(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            values = place.take(output)  # (n_units, n_positions, n_images, ...)
            if first:
                pooled = values.flatten(3).mean(dim=3).mean(dim=1) if values.ndim > 3 else values.mean(dim=1)
                seen = pooled.transpose(0, 1)
                logits = self.gates[str(number)](seen if self.moving else seen.detach())
                soft = logits.sigmoid()
                self._open[number] = (soft > 0.5).to(soft.dtype) + soft - soft.detach()
                if self.training and module.training:
                    with torch.no_grad():
                        self._means[one.first : one.first + one.n].lerp_((soft > 0.5).float().mean(dim=0), 0.1)
            hard = self._open[number].transpose(0, 1)
            return place.put(output, values * hard.view(one.n, 1, -1, *[1] * (values.ndim - 3)))

        return gate

    def _mean_gates(self) -> Tensor:
        """(n,) means over the images of the last step, of those that are gated; the others are open."""
        parts = []
        for number, one in enumerate(self.units.sets):
            gates = self._open.get(number)
            parts.append(self._means.new_ones(one.n) if gates is None else gates.mean(dim=0))
        return torch.cat(parts)

    def _cost(self, means: Tensor) -> Tensor:
        """The cost of a network that keeps the expected number of units, over that of the whole one."""
        if self.cost is None:
            return means.mean()
        expected: list[Any] = self.units.supernet.graph.full
        whole = float(self.cost(expected))
        for one in self.units.sets:
            for group in one.groups:
                expected[group.index] = means[one.first : one.first + one.n].sum()
        found: Any = self.cost(expected)
        return found / whole


class Consensus(Pruner):
    """Gates over the steps of a plan, like any other rule: at its end what is mostly closed is zero.

    The gates are gone then, and need not have agreed before: the network is not moved to please them. Where it then
    costs more than the target, what is least open goes, too.

    Args:
        units: of the network that is trained.
        plan: from its first step on the gates are pushed, at its last they are decided; periods have no meaning here.
    """

    units: Units

    def __init__(self, units: Units, plan: Plan) -> None:
        super().__init__(units, plan)
        nothing = torch.zeros(units.n, dtype=torch.bool)
        whole = 1.0 if plan.cost is None else units.priced(plan.cost, nothing)
        device = next(units.supernet.parameters()).device
        self.gates = ConsensusGates(units, plan.target / whole, plan.cost, moving=False).to(device)
        self._opening = torch.optim.Adam(self.gates.parameters(), lr=_RATE)

    @property
    def _acts(self) -> bool:
        return self.step < self.plan.end

    def penalty(self) -> Tensor | None:
        """See `Pruner`."""
        since = (self.step - self.plan.start) / (self.plan.end - self.plan.start)
        return self.gates.penalty(since) if 0 <= since < 1 else None

    def before(self) -> None:
        if self._acts and self.step < self.plan.start:
            self._opening.zero_grad()

    def after(self, optimizer: Optimizer) -> None:
        if not self._acts:
            return
        self._opening.step()
        self._opening.zero_grad()
        if self.step == self.plan.end - 1:
            means = self.gates.means_of_units
            self.gone = self.plan.choose(self.units, means, self.gates.gone.cpu(), 1.0)
            self.remove()

    def remove(self) -> None:
        """See `Pruner`."""
        self.gates.remove()

    def state_dict(self) -> dict[str, Any]:
        """See `Pruner`."""
        own = {"gates": self.gates.state_dict(), "opening": self._opening.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pruner`."""
        super().load_state_dict(state)
        self.gates.load_state_dict(state["gates"])
        self._opening.load_state_dict(state["opening"])
        if not self._acts:
            self.remove()
