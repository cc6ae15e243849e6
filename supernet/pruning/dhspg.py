"""Pruning by the optimiser: a pull to zero on the least important units, and a projection that makes it exact."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.removable import Removable

__all__ = ["Dhspg"]


class Dhspg(Pruner):
    """Dual half-space projected gradient (DHSPG; OTO version 2, Chen et al. 2023).

    In the first step all units that have to go are chosen. In every step after that the gradient of each gets a part
    along its own weights, as large as the direction needs to lead down for the loss and for the unit's norm. What then
    has turned too far from where it was is set to exactly zero: it has left the half-space, less a share `epsilon`.
    What is not there in the last step of the plan is set to zero, so that the number is met exactly.

    Args:
        units: of the network that is trained.
        plan: its periods have no meaning here.
        importance: of the registry.
        pull: the least weight of the pull; published 1e-3 for SGD and 1e-2 for Adam.
        epsilon: how much of a unit must be left along its old direction for it to stay.
        amplify: the pull over the least one that shortens the unit; published 2 for SGD and 20 for Adam.
    """

    def __init__(
        self,
        units: Removable,
        plan: Plan,
        importance: str = "blended",
        pull: float = 1e-3,
        epsilon: float = 0.0,
        amplify: float = 2.0,
    ) -> None:
        if not 0 <= epsilon < 1:
            raise ValueError(f"epsilon {epsilon} is not in [0, 1)")
        super().__init__(units, plan)
        self.importance, self.pull, self.epsilon, self.amplify = importance, pull, epsilon, amplify
        self._before: dict[str, Tensor] = {}

    @property
    def _acts(self) -> bool:
        return self.plan.start <= self.step < self.plan.end

    def before(self) -> None:
        if not self._acts:
            return
        parameters = self.units.parameters
        gradients = {name: _gradient(tensor) for name, tensor in parameters.items()}
        if self.step == self.plan.start:
            scores = self.units.scores(self.importance, gradients)
            self.marked = self.plan.choose(self.units, scores, self.gone, 1.0)
        norms = self.units.sums(parameters).sqrt().clamp_min(1e-12)
        along = self.units.sums(parameters, gradients) / norms
        least = (-along).clamp_min(0)  # a weaker pull would let the unit grow
        most = self.units.sums(gradients) / least.clamp_min(1e-12)  # a stronger one would lead uphill
        pull = torch.minimum(self.amplify * least, (least + most) / 2).clamp_min(self.pull)
        factors = torch.where(self.marked & self.gone.logical_not(), pull / norms, torch.tensor(0.0))
        self.units.add(gradients, {name: tensor.detach() for name, tensor in parameters.items()}, factors)
        for name, tensor in parameters.items():
            tensor.grad = gradients[name]
        self._before = {name: tensor.detach().clone() for name, tensor in parameters.items()}

    def after(self, optimizer: Optimizer) -> None:
        if not self._acts:
            return
        kept = self.units.sums(self.units.parameters, self._before)
        left = kept < self.epsilon * self.units.sums(self._before)
        if self.step == self.plan.end - 1:
            left = torch.ones_like(left)
        self.gone = self.gone | (self.marked & left)
        self._before = {}


def _gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
