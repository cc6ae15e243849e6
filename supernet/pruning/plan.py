"""What every way of pruning while training shares: how much goes and when, and hooks around any optimiser of torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from supernet.pruning.costs import Cost
from supernet.pruning.removable import Removable

__all__ = ["Plan", "Pruner"]


@dataclass(frozen=True)
class Plan:
    """How much goes, and in which steps.

    Attributes:
        target: what is left in the end: the share of the units (or operators), or with a `cost` its value, at most.
        start: the first step in which something happens.
        steps: in how many steps all of it goes.
        periods: in how many portions.
        cost: what is to be saved, such as `share_of_macs` or a latency (`Prices.of`).

    Raises:
        ValueError: a target that leaves nothing or takes nothing, or portions that have no step.
    """

    target: float
    start: int
    steps: int
    periods: int = 10
    cost: Cost | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.target > 0 or (self.cost is None and self.target >= 1):
            raise ValueError(f"target {self.target:g}: what is left must be above 0, and a share of units below 1")
        if self.start < 1:
            raise ValueError(f"start {self.start}: units are judged by gradients, so the first step is 1 at least")
        if self.periods < 1 or self.steps < self.periods:
            raise ValueError(
                f"{self.steps} steps cannot be {self.periods} periods of at least one step; take fewer periods"
            )

    @property
    def duration(self) -> int:
        """Steps of a period; what does not divide evenly is left out at the end."""
        return self.steps // self.periods

    @property
    def end(self) -> int:
        """The first step in which nothing is left to do."""
        return self.start + self.duration * self.periods

    def choose(self, units: Removable, scores: Tensor, gone: Tensor, share: float) -> Tensor:
        """(n,) of the units that are gone once this share of all that has to go is, the least important ones first.

        Raises:
            ValueError: nothing that can go is enough for the target.
        """
        if self.cost is None:
            wanted = share * (1 - self.target) * units.n
            found = units.least(scores, gone, lambda so_far: (wanted - 1e-9 - int(so_far.sum())) / units.n)
            left, what = 1 - float(found.sum()) / units.n, f"{self.target:.0%} of the units"
            enough = int(found.sum()) >= wanted - 1e-9
        else:
            cost = self.cost
            whole = units.priced(cost, torch.zeros(units.n, dtype=torch.bool))
            limit = whole - share * (whole - self.target)
            found = units.least(scores, gone, lambda so_far: (units.priced(cost, so_far) - limit) / whole)
            left, what = units.priced(cost, found), f"{self.target:g}"
            enough = left <= limit
        if not enough:
            raise ValueError(
                f"the target {what} cannot be reached: with everything gone that can go {left:.3g} is left; raise it, "
                "lower multiple_of, or let outer widths go, too"
            )
        return found


class Pruner(ABC):
    """Something that happens around the steps of an optimiser, to units or operators.

    ``pruner.attach(optimizer)`` and any training loop does it: `before` is called before and `after` after each step.
    A loop adds `penalty` to its loss, and sets `loss` to what the loss was, before it takes a step; rules that need
    neither do without.

    Attributes:
        units: of the network that is trained.
        plan: how much goes and when.
        step: steps done.
        loss: of the step that is being done.
        marked: (n,) bool, units that are on their way.
        gone: (n,) bool, units that are zero for ever.
    """

    marked: Tensor
    gone: Tensor

    def __init__(self, units: Removable, plan: Plan) -> None:
        self.units, self.plan = units, plan
        self.step = 0
        self.loss: float | None = None
        self.marked = torch.zeros(units.n, dtype=torch.bool)
        self.gone = torch.zeros(units.n, dtype=torch.bool)
        plan.choose(units, torch.zeros(units.n), self.gone, 1.0)  # refuses now what cannot be reached

    def attach(self, optimizer: Optimizer) -> None:
        """From now on every step of this optimiser is one of the pruner's."""

        def before(*_: Any) -> None:
            self.before()

        def after(*_: Any) -> None:
            self.after(optimizer)
            self.keep_zero(optimizer)
            self.step += 1
            self.loss = None

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def penalty(self) -> Tensor | None:
        """What is added to the loss of the present step, after the network has run; None: nothing."""
        return None

    @property
    def settled(self) -> bool:
        """Whether the network can be judged as it is now, or something is being tried out in it."""
        return True

    def remove(self) -> None:
        """The network runs as it is from now on: what watches or changes its values is taken away."""
        return

    @abstractmethod
    def before(self) -> None:
        """Before a step: gradients are there, and may be changed."""

    @abstractmethod
    def after(self, optimizer: Optimizer) -> None:
        """After a step: weights may be changed, and units declared `gone`."""

    def keep_zero(self, optimizer: Optimizer) -> None:
        """Weight decay and momentum would revive what is gone."""
        if not bool(self.gone.any()):
            return
        factors = (~self.gone).float()
        parameters = self.units.parameters
        self.units.scale(parameters, factors)
        kinds: dict[str, dict[str, Tensor]] = {}
        for name, parameter in parameters.items():
            for kind, buffer in optimizer.state.get(parameter, {}).items():
                if isinstance(buffer, Tensor) and buffer.shape == parameter.shape:
                    kinds.setdefault(kind, {})[name] = buffer
        for buffers in kinds.values():
            if len(buffers) == len(parameters):
                self.units.scale(buffers, factors)

    @property
    def done(self) -> bool:
        """Whether all that should go is gone."""
        return self.step >= self.end

    @property
    def end(self) -> int:
        """The first step in which nothing is left to do."""
        return self.plan.end

    def network(self) -> Any:
        """The small network as an ordinary module; see `Units.without`.

        Raises:
            ValueError: it is too early.
        """
        if not self.done:
            raise ValueError(f"{self.step} of {self.end} steps are done: nothing can be cut out before the last")
        self.remove()
        return self.units.without(self.gone)

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the weights, as tensors and numbers."""
        return {"step": self.step, "marked": self.marked, "gone": self.gone}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step, self.marked, self.gone = state["step"], state["marked"].clone(), state["gone"].clone()
