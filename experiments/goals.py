"""Goals: what a search optimises and within which limits. By default quality against latency, for every device."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.quantities import Kind, Limit, Quantity, latency, limit, quality, quantity

if TYPE_CHECKING:
    from experiments.run_folder import RunFolder

__all__ = ["Goal", "check_goals", "goal_name", "goals"]


@dataclass(frozen=True)
class Goal:
    """Objectives that a front trades, and limits that its members keep.

    `name` is what people call it: that of its device, or of its objectives.
    """

    name: str
    objectives: tuple[Quantity, ...]
    limits: tuple[Limit, ...] = ()

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """All that must be known of a candidate, each once."""
        return tuple(dict.fromkeys((*self.objectives, *(one.quantity for one in self.limits))))

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that something is measured on for it."""
        return tuple(dict.fromkeys(one.device for one in self.quantities if one.device is not None))

    @property
    def roles(self) -> tuple[Quantity | None, list[Quantity]]:
        """What networks are good at, which is shown on test, and what it costs."""
        good = next((one for one in self.objectives if one.kind.source == "score"), None)
        return good, [one for one in self.objectives if one is not good]


def goal_name(objectives: tuple[Quantity, ...]) -> str:
    """What a goal of these objectives is called."""
    return ", ".join(one.name for one in objectives)


def check_goals(
    objectives: Sequence[str], constraints: Sequence[str], devices: Sequence[str], kinds: Mapping[str, Kind]
) -> None:
    """Whether objectives and limits can be read; devices that the recipe does not name may be added to a run later.

    Raises:
        ValueError: one cannot be, or there is a single objective.
    """
    for text in objectives:
        quantity(text, [*devices, text.partition("@")[2].strip()], kinds)
    for text in constraints:
        limit(text, [*devices, *re.findall(r"@([^<>=≤≥\s]+)", text)], kinds)
    if len(objectives) == 1:
        raise ValueError(f"search.objectives names {objectives[0]} alone; a front needs two or more, or give none")


def goals(run: RunFolder, device: str | None = None) -> list[Goal]:
    """What the run searches for: the objectives of its recipe, else for every device quality against latency.

    Quality is accuracy, or the metric of a task of one's own. A device that computes in int8 runs another network than
    was scored: there it is that of its file.

    Args:
        device: only the goal of this one, which may be an added device.

    Raises:
        ValueError: an objective or limit that cannot be, or a device that no objective is about.
    """
    settings, kinds = run.recipe.search, run.recipe.kinds
    own = {one.name: one for one in run.recipe.devices}
    known = [*own, *run.added_devices()]
    limits = tuple(limit(text, known, kinds) for text in settings.constraints)
    if settings.objectives:
        objectives = tuple(quantity(text, known, kinds) for text in settings.objectives)
        if len(set(objectives)) < len(objectives):
            raise ValueError(f"search.objectives names {goal_name(objectives)}: each counts once")
        goal = Goal(goal_name(objectives), objectives, limits)
        if device is not None and device not in goal.devices:
            raise ValueError(f"no objective is about {device!r}; they are {goal.name}")
        return [goal]
    names = list(own) if device is None else [device]
    found = []
    for name in names:
        in_int8 = name in own and own[name].precision == "int8"
        objectives = (quality(kinds, name if in_int8 else None), latency(name))
        held = tuple(one for one in limits if one.quantity.device in (None, name))
        found.append(Goal(name, objectives, held))
    return found
