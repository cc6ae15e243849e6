"""Pruning by a fixed plan: the least important units shrink to zero in portions while everything trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.removable import Removable

__all__ = ["Hesso"]


class Hesso(Pruner):
    """Hybrid efficient structured sparse optimiser (HESSO; Chen et al. 2024).

    At the first step of every period the least important units are marked by a blend of five criteria, of the weights
    and the direction in which the optimiser moves them. In the steps of the period they shrink in a straight line to
    exactly zero, by factors (left - 1) / left on what each step makes of them, and stay zero for ever.

    Args:
        units: of the network that is trained.
        plan: the published advice is to start after a tenth of the training and to end by a quarter of it.
        importance: of the registry; "blended" is the published one.
    """

    def __init__(self, units: Removable, plan: Plan, importance: str = "blended") -> None:
        super().__init__(units, plan)
        self.importance = importance
        self._weights: dict[str, Tensor] = {}

    def before(self) -> None:
        if self._place()[1] == 0:
            self._weights = {name: tensor.detach().clone() for name, tensor in self.units.parameters.items()}

    def after(self, optimizer: Optimizer) -> None:
        period, step = self._place()
        if step is None:
            return
        if step == 0:
            now = self.units.parameters
            direction = {name: before - now[name].detach() for name, before in self._weights.items()}
            self._weights = {}
            scores = self.units.scores(self.importance, direction)
            chosen = self.plan.choose(self.units, scores, self.gone, (period + 1) / self.plan.periods)
            self.marked = chosen & ~self.gone
        left = self.plan.duration - step
        if left > 1:
            factors = torch.where(self.marked, torch.tensor((left - 1) / left), torch.tensor(1.0))
            self.units.scale(self.units.parameters, factors)
        else:
            self.gone |= self.marked
            self.marked = torch.zeros_like(self.marked)

    def _place(self) -> tuple[int, int | None]:
        """The period and the step of it; None outside of all."""
        since = self.step - self.plan.start
        if not 0 <= since < self.plan.duration * self.plan.periods:
            return 0, None
        return divmod(since, self.plan.duration)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._weights = {}
