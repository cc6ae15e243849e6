"""Pruning by learning the shape: widths and depths as categories, whose expected cost has a gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from supernet.graph.blocks import Run
from supernet.pruning.operators import Joint, Operators
from supernet.pruning.places import Place, places_of
from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.units import Units

__all__ = ["Tas", "interpolation"]

_LOWEST, _N_WIDTHS = 0.3, 8  # of a layer: widths from three tenths of it to all
_DEPTHS = 3  # of a row of blocks: thirds
_HOT, _COLD = 5.0, 0.1  # temperatures of the Gumbel noise, at the first and at the last step
_TOLERANCE = 0.05


class Tas(Pruner):
    """Transformable architecture search (TAS; Dong & Yang 2019): the width of every layer and the depth of every row.

    Each width is one of up to eight, each depth one of three, with logits that are learned. In a step of the search
    two widths of every layer are drawn by their probabilities with Gumbel noise that cools down, and its output is the
    sum of both, weighted by these, where the narrower one is stretched over the channels of the wider by averaging;
    rows of blocks put out the sum over their depths. Weights and logits are trained in turns, on batches of their own.
    The logits also see the logarithm of the expected cost: as a penalty where the likeliest shape costs more than the
    target, as a reward where it costs less than 95 % of it. In the last step of the plan the likeliest shape, moved
    into these bounds where it is not, becomes the network's: all else is zero. The rest of the training goes on with
    the weights that there are; the published one begins anew, and has BatchNorms of its own for every width meanwhile.

    Args:
        units: of the network that is trained; widths are learned of the sets that a layer writes.
        plan: its steps are those of the search; periods have no meaning here. Without a cost, units are counted.
        rate: of the logits' own Adam; the published 1e-3 is for hundreds of epochs.
        weight: of the cost.

    Raises:
        ValueError: nothing can be learned, or the target cannot be reached.
    """

    units: Joint | Units

    def __init__(self, units: Units, plan: Plan, rate: float = 0.02, weight: float = 2.0) -> None:
        operators = operators_of(units)
        super().__init__(units if operators is None else Joint(units, operators), plan)
        self.weight = weight
        self._widths_of = units
        supernet = units.supernet
        self._device = next(supernet.parameters()).device
        places = places_of(units)
        if not places:
            raise ValueError("no width of this network can be learned: no linear layer or convolution writes its units")
        known = set() if operators is None else set(operators.paths)
        self._runs = [
            (run, depths)
            for run, low in zip(supernet.runs, supernet.lowest, strict=True)
            if len(depths := _depths(len(run.names), low)) > 1 and known.issuperset(run.paths[depths[0] :])
        ]
        self.widths = {number: _widths(units.sets[number].n, units.sets[number].step) for number in places}
        """What can be chosen, by the number of the set."""
        sizes = [*map(len, self.widths.values()), *(len(depths) for _, depths in self._runs)]
        self.logits = [nn.Parameter(torch.zeros(size, device=self._device)) for size in sizes]
        """Of the widths of every set, then of the depths of every row."""
        least = self.cost_of([0] * len(sizes))
        if least > plan.target:
            raise ValueError(
                f"target {plan.target:.3g} cannot be reached: with three tenths of all learned widths and a third of "
                f"the blocks it is {least:.3g}; raise it, lower multiple_of, or let outer widths go, too"
            )
        self._adam = torch.optim.Adam(self.logits, lr=rate, weight_decay=1e-3)
        self._drawn: dict[int, Tensor] = {}
        self._depth_shares: dict[int, Tensor] = {}
        self._drawn_at = -1
        self._hooks: list[Any] = []
        modules = dict(supernet.named_modules())
        for number, found in places.items():
            for place in found:
                self._hooks.append(modules[place.path].register_forward_hook(self._blending(number, place)))
        for number, (run, depths) in enumerate(self._runs):
            self._watch_row(number, run, depths, modules)

    # -- the course ---------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """See `Pruner`."""
        return not self._searches

    @property
    def _searches(self) -> bool:
        return self.plan.start <= self.step < self.plan.end

    @property
    def _shapes(self) -> bool:
        """Whether this step is for the logits: every other one."""
        return self._searches and (self.step - self.plan.start) % 2 == 1

    def penalty(self) -> Tensor | None:
        """See `Pruner`: what the likeliest shape costs too much or too little."""
        self._drawn_at = -1  # a step may have several passes, each with its own backward
        if not self._shapes:
            return None
        cost = self.cost_of(self.likeliest)
        if (1 - _TOLERANCE) * self.plan.target <= cost <= self.plan.target:
            return None
        wanted = torch.log(self.expected_cost() / self.plan.target)
        return self.weight * (wanted if cost > self.plan.target else -wanted)

    def before(self) -> None:
        if self._shapes:
            for parameter in self.units.supernet.parameters():
                parameter.grad = None  # the weights wait for their turn

    def after(self, optimizer: Optimizer) -> None:
        if self._shapes:
            self._adam.step()
        self._adam.zero_grad()
        if self.step == self.plan.end - 1:
            self.gone = self._gone(self._settled_shape())
            self.remove()

    def remove(self) -> None:
        """See `Pruner`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """See `Pruner`."""
        logits = [one.detach().clone() for one in self.logits]
        return {**super().state_dict(), "logits": logits, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Pruner`."""
        super().load_state_dict(state)
        for mine, kept in zip(self.logits, state["logits"], strict=True):
            mine.data.copy_(kept)
        self._adam.load_state_dict(state["adam"])
        if self.step >= self.plan.end:
            self.remove()

    # -- shapes and costs ---------------------------------------------------------------------------------------------

    @property
    def likeliest(self) -> list[int]:
        """The number of the likeliest choice, of every set and row as in `logits`."""
        return [int(one.argmax()) for one in self.logits]

    def cost_of(self, shape: Sequence[int]) -> float:
        """What a shape costs, in the unit of the target."""
        chosen = [F.one_hot(torch.tensor(i), len(one)).float() for i, one in zip(shape, self.logits, strict=True)]
        return float(self._cost(chosen))

    def expected_cost(self) -> Tensor:
        """The cost at the expected widths, with every block as often as it is there; it has a gradient.

        It is the mean over all shapes where no layer's cost depends twice on one choice (checked by enumeration in the
        tests).
        """
        return self._cost([one.softmax(0) for one in self.logits])

    def _cost(self, shares: Sequence[Tensor]) -> Any:
        units = self._widths_of
        expected: list[Any] = units.supernet.graph.full
        total: Any = units.n
        for (number, widths), share in zip(self.widths.items(), shares, strict=False):
            mean = (share * share.new_tensor(widths)).sum()
            total = total + mean - units.sets[number].n
            for group in units.sets[number].groups:
                expected[group.index] = mean
        if self.plan.cost is None:
            return total / units.n
        present: dict[str, Any] = {}
        for (run, depths), share in zip(self._runs, shares[len(self.widths) :], strict=True):
            for number, path in enumerate(run.paths):
                if number >= depths[0]:
                    present[path] = sum(share[i] for i, depth in enumerate(depths) if depth > number)
        return self.plan.cost(expected, present)

    def _settled_shape(self) -> list[int]:
        """The likeliest shape, moved into the bounds by the changes that are least unlikely for what they bring."""
        shape = self.likeliest
        logs = [one.detach().log_softmax(0).tolist() for one in self.logits]
        cost, target = self.cost_of(shape), self.plan.target
        while cost > target:
            moves = [(i, shape[i] - 1) for i in range(len(shape)) if shape[i]]
            found = [self._move(shape, logs, cost, move) for move in moves]
            _, shape, cost = min((one for one in found if one[2] < cost), key=lambda one: one[0])
        while cost < (1 - _TOLERANCE) * target:
            moves = [(i, shape[i] + 1) for i in range(len(shape)) if shape[i] + 1 < len(logs[i])]
            fitting = [one for move in moves if (one := self._move(shape, logs, cost, move))[2] <= target]
            if not fitting:
                break
            _, shape, cost = min(fitting, key=lambda one: one[0])
        return shape

    def _move(
        self, shape: Sequence[int], logs: Sequence[Sequence[float]], cost: float, move: tuple[int, int]
    ) -> tuple[float, list[int], float]:
        """How unlikely a change is for what it changes the cost by, the shape after it, and what that costs."""
        i, to = move
        changed = [*shape[:i], to, *shape[i + 1 :]]
        after = self.cost_of(changed)
        return (logs[i][shape[i]] - logs[i][to]) / max(abs(after - cost), 1e-12), changed, after

    def _gone(self, shape: Sequence[int]) -> Tensor:
        """(n,) of the units and blocks that are not in a shape."""
        gone = torch.zeros(self.units.n, dtype=torch.bool)
        for (number, widths), i in zip(self.widths.items(), shape, strict=False):
            one = self._widths_of.sets[number]
            gone[one.first + widths[i] : one.first + one.n] = True
        for (run, depths), i in zip(self._runs, shape[len(self.widths) :], strict=True):
            assert isinstance(self.units, Joint)
            for path in run.paths[depths[i] :]:
                gone[self.units.units.n + self.units.operators.paths.index(path)] = True
        return gone

    # -- while the network runs ---------------------------------------------------------------------------------------

    def _blending(self, number: int, place: Place) -> Any:
        def blend(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not self._searches:
                return None
            values = place.take(output)
            flat = values.flatten(1)
            return place.put(output, (self._mixing(number, module.training).to(flat.dtype) @ flat).view_as(values))

        return blend

    def _watch_row(self, number: int, run: Run, depths: Sequence[int], modules: Mapping[str, nn.Module]) -> None:
        seen: dict[int, Tensor] = {}

        def watch(depth: int) -> Any:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
                if not self._searches:
                    return None
                seen[depth] = output
                if depth < depths[-1]:
                    return None
                self._draw()
                shares = self._depth_shares[number] if module.training else self._certain(len(self.widths) + number)
                return sum((share * seen.pop(d) for share, d in zip(shares, depths, strict=True)), 0 * output)

            return hook

        for depth in depths:
            self._hooks.append(modules[run.paths[depth - 1]].register_forward_hook(watch(depth)))

    def _mixing(self, number: int, training: bool) -> Tensor:
        """(n_units, n_units) what becomes of the units of a set: two widths at once, or the likeliest alone."""
        if training:
            self._draw()
            return self._drawn[number]
        widths, i = self.widths[number], list(self.widths).index(number)
        mask = torch.arange(widths[-1], device=self._device) < widths[self.likeliest[i]]
        return torch.diag(mask.float())

    def _certain(self, i: int) -> Tensor:
        return F.one_hot(self.logits[i].argmax(), len(self.logits[i])).float()

    def _draw(self) -> None:
        """The widths and depths of this step, once."""
        if self._drawn_at == self.step:
            return
        self._drawn_at = self.step
        done = (self.step - self.plan.start) / max(1, self.plan.end - self.plan.start - 1)
        heat = _COLD + (_HOT - _COLD) * (1 + math.cos(math.pi * done)) / 2
        for i, (number, widths) in enumerate(self.widths.items()):
            noisy = self._noisy(i) / heat
            pair = torch.multinomial(noisy.detach().softmax(0).clamp_min(1e-12), 2)
            pair = pair.sort().values
            shares = noisy[pair].softmax(0)
            narrow, wide = (widths[int(k)] for k in pair)
            n = widths[-1]
            small, large = torch.zeros(2, n, n, device=self._device)
            small[:wide, :narrow] = interpolation(narrow, wide).to(self._device)
            large[:wide, :wide] = torch.eye(wide, device=self._device)
            self._drawn[number] = shares[0] * small + shares[1] * large
        for row in range(len(self._runs)):
            self._depth_shares[row] = (self._noisy(len(self.widths) + row) / heat).softmax(0)

    def _noisy(self, i: int) -> Tensor:
        logits = self.logits[i]
        uniform = torch.rand(len(logits), device=self._device).clamp(1e-6, 1 - 1e-6)
        return logits.log_softmax(0) - (-uniform.log()).log()


def operators_of(units: Units) -> Operators | None:
    """The blocks that can be left out beside the units; None where there are none."""
    try:
        return Operators(units.supernet)
    except ValueError:
        return None


def interpolation(narrow: int, wide: int) -> Tensor:
    """(wide, narrow) the means that stretch so many channels over more: adaptive average pooling along channels."""
    return F.adaptive_avg_pool1d(torch.eye(narrow)[:, None], wide)[:, 0].T


def _widths(n: int, step: int) -> list[int]:
    """Widths of a layer of n units, in whole steps."""
    shares = torch.linspace(_LOWEST, 1, _N_WIDTHS).tolist()
    return sorted({n, *(max(step, int(n * share + 1e-6) // step * step) for share in shares[:-1])})


def _depths(n: int, lowest: int) -> list[int]:
    """Depths of a row of n blocks."""
    return sorted({max(lowest, math.ceil(n * i / _DEPTHS)) for i in range(1, _DEPTHS + 1)})
