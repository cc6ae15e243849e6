"""Pruning as a part of a training: plain settings, from which a pruner is made when its phase begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from supernet.families.traced import TracedSupernet
    from supernet.pruning.costs import Cost, Prices
    from supernet.pruning.plan import Plan, Pruner
    from supernet.pruning.removable import Removable

__all__ = ["Measure", "Pruning", "Rule"]

Rule = Literal["hesso", "hesso_cric", "dhspg", "h2spg", "consensus", "tas"]
"""How units are driven to zero; "h2spg" erases whole operators."""

Measure = Literal["macs", "parameters", "latency", "units"]
"""What a target is about."""

_CYCLES = 10


@dataclass(frozen=True)
class Pruning:
    """How the largest network becomes small in a phase of training; see `Plan` and the pruners.

    Attributes:
        target: what is left at most: a share, or with `absolute` multiply-accumulates, parameters or seconds.
        by: the rule.
        of: what the target is about.
        begin: share of the phase's steps before anything happens.
        end: share of the phase's steps after which all is gone that has to go; the rest trains what is left.
        periods: portions.
        importance: of the registry.
        outer: whether channels between blocks go, too.
        absolute: whether the target is no share.
        prices: what the device of a latency has shown; needed for that.

    Raises:
        ValueError: shares that leave no steps, or a target that cannot be.
    """

    target: float
    by: Rule = "hesso"
    of: Measure = "macs"
    begin: float = 0.1
    end: float = 0.5
    periods: int = 10
    importance: str = "blended"
    outer: bool = False
    absolute: bool = False
    prices: Prices | None = None

    def __post_init__(self) -> None:
        from supernet.networks.importance import importance_named

        if self.by not in get_args(Rule):
            raise ValueError(f"no rule {self.by!r}; there are {', '.join(get_args(Rule))}")
        if not self.target > 0 or (not self.absolute and self.target >= 1):
            raise ValueError(f"target {self.target:g} of the {self.of} is not between 0 and 1")
        if self.absolute and self.of == "units":
            raise ValueError(
                "a number of units is no target: units are counted as a share; write such as 'units <= 60%'"
            )
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"from {self.begin:g} to {self.end:g} of the steps: begin must be below end, both in [0, 1]"
            )
        if self.periods < 1:
            raise ValueError(f"{self.periods} periods: the least is 1")
        if self.by == "h2spg" and self.outer:
            raise ValueError("h2spg erases whole operators, of which none is outer; remove `outer`")
        importance_named(self.importance)

    def removable(self, supernet: Any) -> Removable:
        """What this rule takes away, whole blocks among it or not.

        Raises:
            ValueError: the supernet is not a traced one, or nothing of it can go.
        """
        from supernet.pruning.operators import Joint, Operators
        from supernet.pruning.tas import operators_of
        from supernet.pruning.units import Units

        traced = self._checked(supernet)
        if self.by == "h2spg":
            return Operators(traced)
        units = Units(traced, self.outer)
        operators = operators_of(units) if self.by == "tas" else None
        return units if operators is None else Joint(units, operators)

    def cost(self, supernet: Any) -> Cost | None:
        """What the target is about, in its unit; None where units are counted.

        Raises:
            ValueError: a latency without prices, or with those of another network.
        """
        from supernet.pruning.costs import counted, share_of

        traced = self._checked(supernet)
        if self.of == "units":
            return None
        if self.of == "latency":
            if self.prices is None:
                raise ValueError("a latency is what a device has shown: measure it, and give the prices that it asks")
            cost = self.prices.of(traced)
        else:
            cost = counted(traced, self.of)
        return cost if self.absolute else share_of(traced, cost)

    def start(self, supernet: Any, n_steps: int) -> Pruner:
        """The pruner of a phase of `n_steps`.

        Raises:
            ValueError: the supernet is not a traced one, nothing of it can go, or the target cannot be reached.
        """
        from supernet.pruning.consensus import Consensus
        from supernet.pruning.dhspg import Dhspg
        from supernet.pruning.hesso import Hesso
        from supernet.pruning.operators import Operators
        from supernet.pruning.plan import Plan
        from supernet.pruning.tas import Tas
        from supernet.pruning.units import Units

        traced = self._checked(supernet)
        first = max(1, round(self.begin * n_steps))
        steps = max(1, round(self.end * n_steps) - first)
        plan = Plan(self.target, first, steps, min(self.periods, steps), self.cost(traced))
        if self.by == "h2spg":
            return Dhspg(Operators(traced), plan, self.importance)
        units = Units(traced, self.outer)
        if self.by == "hesso":
            return Hesso(units, plan, self.importance)
        if self.by == "hesso_cric":
            return self._cric(units, plan)
        whole = Plan(plan.target, first, steps, 1, plan.cost)  # periods mean nothing to the others
        if self.by == "dhspg":
            return Dhspg(units, whole, self.importance)
        return Consensus(units, whole) if self.by == "consensus" else Tas(units, whole)

    def _cric(self, units: Any, plan: Plan) -> Pruner:
        """Half of the steps for trials and cycles at most, the rest to shrink."""
        from supernet.pruning.cric import Cric
        from supernet.pruning.plan import Plan

        sampling = (plan.steps // 2 - Cric.probing(units, 0, _CYCLES)) // _CYCLES
        if sampling < 1:
            needed = 2 * Cric.probing(units, 1, _CYCLES)
            raise ValueError(
                f"hesso_cric tries out parts of {len(units.sets)} layers in {needed} steps; between `begin` and `end` "
                f"are {plan.steps}: train longer, raise `end`, or take by = 'hesso'"
            )
        shrinking = plan.steps - Cric.probing(units, sampling, _CYCLES)
        return Cric(units, Plan(plan.target, plan.start, shrinking, 1, plan.cost), self.importance, sampling, _CYCLES)

    @staticmethod
    def _checked(supernet: Any) -> TracedSupernet:
        from supernet.families.traced import TracedSupernet

        if not isinstance(supernet, TracedSupernet):
            raise ValueError(
                f"pruning follows the dependency graph, which a {type(supernet).__name__} has not: "
                "take elastic(model, family='traced'), in a recipe supernet.timm with family = 'traced'"
            )
        return supernet
