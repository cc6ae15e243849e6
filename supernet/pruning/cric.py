"""Pruning by a fixed plan after trials that are rolled back: what would wreck the network is known before it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.units import Units

__all__ = ["Cric"]

_SHARES = (0.25, 0.5, 0.75)  # of a set that are tried to be without

State = dict[str, Any]


class Cric(Pruner):
    """HESSO with corrective redundant identification cycles (HESSO-CRIC; Chen et al. 2024).

    Nothing that is tried out stays: after every trial weights, statistics and the optimiser's moments are again what
    they were at the first. Of every set of units a quarter, a half and three quarters are left out for one step each,
    and what that makes of the loss counts for the set. Then the units that seem least important shrink for some steps
    while everything trains and their scores are watched; units that have come among the least important by that are
    next, until there are no new ones. What is least important on the average of all these steps goes, in a straight
    line over the steps of the plan.

    A loop must set `loss` before each step. A second copy of the weights is kept meanwhile.

    Args:
        units: of the network that is trained.
        plan: its first step is that of the trials; its steps are those of the shrinking; periods have no meaning here.
        importance: of the registry.
        sampling: steps of a cycle.
        cycles: at most.
    """

    units: Units

    def __init__(
        self, units: Units, plan: Plan, importance: str = "blended", sampling: int = 5, cycles: int = 10
    ) -> None:
        if sampling < 1 or cycles < 1:
            raise ValueError(f"{cycles} cycles of {sampling} steps: the least is one of one")
        super().__init__(units, plan)
        self.importance, self.sampling, self.cycles = importance, sampling, cycles
        self._ratios = torch.zeros(len(units.sets))  # what the loss is times the first one, without parts of a set
        self._first_scores = self._sum = torch.zeros(units.n)
        self._n = 0  # steps in the sum
        self._reference = 0.0
        self._visited = torch.zeros(units.n, dtype=torch.bool)
        self._shrinks_from: int | None = None
        self._snapshot: State = {}
        self._before: dict[str, Tensor] = {}

    @staticmethod
    def probing(units: Units, sampling: int, cycles: int) -> int:
        """The most steps that go into trials and cycles."""
        return 1 + len(_SHARES) * len(units.sets) + cycles * sampling

    @property
    def end(self) -> int:
        """The first step in which nothing is left to do, at the latest."""
        most = self.plan.start + self.probing(self.units, self.sampling, self.cycles)
        return (most if self._shrinks_from is None else self._shrinks_from) + self.plan.steps

    @property
    def settled(self) -> bool:
        """See `Pruner`."""
        return self.step < self.plan.start or self._shrinks_from is not None

    def before(self) -> None:
        since = self.step - self.plan.start
        if since >= 0 and self._shrinks_from is None and not 0 < since <= self._n_trials:
            self._before = {name: tensor.detach().clone() for name, tensor in self.units.parameters.items()}

    def after(self, optimizer: Optimizer) -> None:
        since = self.step - self.plan.start
        if since == -1:
            self._snapshot = self._taken(optimizer)
        elif self._shrinks_from is not None:
            self._shrink(self.plan.steps - (self.step - self._shrinks_from))
        elif 0 <= since <= self._n_trials:
            self._judge(since)
            self._roll_back(optimizer)
            if since < self._n_trials:
                self._try(*divmod(since, len(_SHARES)))
            else:
                self.marked = self._least(self._first_scores)
        elif since > 0:
            cycle, step = divmod(since - self._n_trials - 1, self.sampling)
            self._sum, self._n = self._sum + self._scores(), self._n + 1
            if step < self.sampling - 1:
                self._scale(self.sampling - step)
            else:
                self._roll_back(optimizer)
                self._next(cycle)

    @property
    def _n_trials(self) -> int:
        return len(_SHARES) * len(self.units.sets)

    def _judge(self, since: int) -> None:
        """What the loss of this step says of what was tried out in it; the first one is of the network as it is."""
        if self.loss is None:
            raise ValueError("HESSO-CRIC compares losses: set pruner.loss before every step of the optimiser")
        if since == 0:
            self._reference, self._first_scores = self.loss, self._scores()
        else:
            ratio = self.loss / max(self._reference, 1e-12)
            self._ratios[(since - 1) // len(_SHARES)] += ratio / len(_SHARES)

    def _try(self, number: int, share: int) -> None:
        one = self.units.sets[number]
        scores = self._first_scores[one.first : one.first + one.n]
        out = torch.argsort(scores)[: max(1, int(_SHARES[share] * one.n))]
        factors = torch.ones(self.units.n)
        factors[one.first + out] = 0
        self.units.scale(self.units.parameters, factors)

    def _next(self, cycle: int) -> None:
        """After a cycle: the next units to look at, or those that go."""
        self._visited |= self.marked
        least = self._least(self._sum / self._n)
        new = least & ~self._visited
        if cycle + 1 < self.cycles and bool(new.any()):
            self.marked = new
        else:
            self.marked, self._shrinks_from, self._snapshot = least, self.step + 1, {}

    def _shrink(self, left: int) -> None:
        if left > 1:
            self._scale(left)
        elif left == 1:
            self.gone |= self.marked
            self.marked = torch.zeros_like(self.marked)

    def _scale(self, left: int) -> None:
        factors = torch.where(self.marked, torch.tensor((left - 1) / left), torch.tensor(1.0))
        self.units.scale(self.units.parameters, factors)

    def _scores(self) -> Tensor:
        """(n,) of the weights now and the way that this step has moved them."""
        now = self.units.parameters
        direction = {name: before - now[name].detach() for name, before in self._before.items()}
        self._before = {}
        return self.units.scores(self.importance, direction)

    def _least(self, scores: Tensor) -> Tensor:
        """(n,) as many as must go, by scores (n,) and by what the trials have said of their sets."""
        per_unit = torch.cat([(r / one.n).expand(one.n) for r, one in zip(self._ratios, self.units.sets, strict=True)])
        return self.plan.choose(self.units, scores + per_unit, self.gone, 1.0)

    # -- there and back -----------------------------------------------------------------------------------------------

    def _taken(self, optimizer: Optimizer) -> State:
        supernet = self.units.supernet
        moments = {
            name: {kind: v.clone() if isinstance(v, Tensor) else v for kind, v in optimizer.state.get(p, {}).items()}
            for name, p in supernet.named_parameters()
        }
        return {"weights": {name: t.clone() for name, t in supernet.state_dict().items()}, "moments": moments}

    @torch.no_grad()
    def _roll_back(self, optimizer: Optimizer) -> None:
        supernet = self.units.supernet
        for name, tensor in supernet.state_dict().items():
            tensor.copy_(self._snapshot["weights"][name])
        for name, parameter in supernet.named_parameters():
            kept = self._snapshot["moments"][name]
            state = optimizer.state[parameter]
            for kind in list(state):
                if kind not in kept:
                    del state[kind]
                elif isinstance(kept[kind], Tensor):
                    state[kind].copy_(kept[kind])
                else:
                    state[kind] = kept[kind]

    def state_dict(self) -> State:
        """See `Pruner`."""
        own = {name: getattr(self, name) for name in _KEPT}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pruner`."""
        super().load_state_dict(state)
        for name in _KEPT:
            setattr(self, name, state[name].clone() if isinstance(state[name], Tensor) else state[name])
        self._before = {}


_KEPT = (
    "_ratios", "_first_scores", "_sum", "_n", "_reference", "_visited", "_shrinks_from", "_snapshot",
)  # fmt: skip
