"""Pruning as a part of a training: plain settings, from which a pruner is made when its phase begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from supernet.pruning.plan import Pruner

__all__ = ["Pruning"]


@dataclass(frozen=True)
class Pruning:
    """How the largest network becomes small in a phase of training; see `Plan`, `Hesso` and `Dhspg`.

    Attributes:
        target: share of the multiply-accumulates (or of the units) that is left.
        by: the rule: "hesso" or "dhspg".
        of: what the target is a share of.
        begin: share of the phase's steps before the first unit shrinks.
        end: share of the phase's steps after which all is gone that has to go; the rest trains what is left.
        periods: portions.
        importance: of the registry.
        outer: whether channels between blocks go, too.

    Raises:
        ValueError: shares that leave no steps, or a target that is not a share.
    """

    target: float
    by: Literal["hesso", "dhspg"] = "hesso"
    of: Literal["macs", "units"] = "macs"
    begin: float = 0.1
    end: float = 0.5
    periods: int = 10
    importance: str = "blended"
    outer: bool = False

    def __post_init__(self) -> None:
        from supernet.networks.importance import importance_named

        if not 0 < self.target < 1:
            raise ValueError(f"target {self.target:g} of the {self.of} is not between 0 and 1")
        if not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"from {self.begin:g} to {self.end:g} of the steps: begin must be below end, both in [0, 1]"
            )
        if self.periods < 1:
            raise ValueError(f"{self.periods} periods: the least is 1")
        importance_named(self.importance)

    def start(self, supernet: Any, n_steps: int) -> Pruner:
        """The pruner of a phase of `n_steps`.

        Raises:
            ValueError: the supernet is not a traced one, nothing of it can go, or the target cannot be reached.
        """
        from supernet.families.traced import TracedSupernet
        from supernet.pruning.dhspg import Dhspg
        from supernet.pruning.hesso import Hesso
        from supernet.pruning.plan import Plan
        from supernet.pruning.units import Units, share_of_macs

        if not isinstance(supernet, TracedSupernet):
            raise ValueError(
                f"pruning follows the dependency graph, which a {type(supernet).__name__} has not: "
                "take elastic(model, family='traced'), in a recipe supernet.timm with family = 'traced'"
            )
        first = max(1, round(self.begin * n_steps))
        steps = round(self.end * n_steps) - first
        periods = min(self.periods, max(1, steps))
        cost = share_of_macs(supernet) if self.of == "macs" else None
        plan = Plan(self.target, first, max(1, steps), periods, cost)
        units = Units(supernet, self.outer)
        if self.by == "dhspg":
            return Dhspg(units, plan, self.importance)
        return Hesso(units, plan, self.importance)
