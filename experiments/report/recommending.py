"""What the page recommends of a front, with the reason, and what its script needs to know of every network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from markupsafe import Markup

__all__ = ["points_for_script", "recommended"]

Data = Mapping[str, Any]

_COLOURS = {"searched front": "front", "measured sub-networks": "measured", "random search": "random",
            "uniform scaling": "uniform", "smallest": "ends", "largest": "ends"}  # fmt: skip


def recommended(goal: Data, front: Sequence[Data], maximize: bool) -> dict[str, Any] | None:
    """The network of a front to begin with: within the asked budget the best on validation, else the knee.

    The knee is the network farthest from the line between the ends of the front, cost in logarithms, both scaled to
    their range (the idea of Das 1999): before it quality is bought cheaply, behind it dearly. None without a front of
    quality against a cost.
    """
    if goal["quality"] is None or len(goal["objectives"]) != 2 or not goal["costs"]:
        return None
    cost, sign = goal["costs"][0]["name"], 1 if maximize else -1
    known = [p for p in front if p["validation"] is not None and p["values"][cost] > 0]
    if not known:
        return None
    if goal["limits"]:
        best = max(known, key=lambda p: (sign * p["validation"], -p["values"][cost]))
        return {"point": best, "reason": f"the best on validation of those that keep {' and '.join(goal['limits'])}"}
    across = [math.log(p["values"][cost]) for p in known]
    up = [sign * p["validation"] for p in known]
    wide, high = max(across) - min(across), max(up) - min(up)
    if len(known) < 3 or not wide or not high:
        best = max(known, key=lambda p: (sign * p["validation"], -p["values"][cost]))
        return {"point": best, "reason": "the best on validation"}
    above = [(y - min(up)) / high - (x - min(across)) / wide for x, y in zip(across, up, strict=True)]
    return {
        "point": known[above.index(max(above))],
        "reason": "the knee of the front: networks that cost more gain less for it, and cheaper ones lose more",
    }


def points_for_script(goals: Sequence[Data], run: str, maximize: bool, is_share: bool) -> Markup:
    """Every network of the goals whose picture answers, as JSON that can stand in a page."""
    told = [
        {
            "number": number,
            "name": goal["name"],
            "run": quote(run),
            "device": quote(goal["devices"][0]) if len(goal["devices"]) == 1 else "",
            "cost": {key: goal["costs"][0][key] for key in ("name", "unit", "words")},
            "quality": goal["quality"],
            "maximize": maximize,
            "is_share": is_share,
            "series": [
                {
                    "name": one["name"],
                    "colour": _COLOURS.get(one["name"], "timm"),
                    "own": one["name"] in _COLOURS,  # sub-networks, which can be exported
                    "points": one["points"],
                }
                for one in goal["series"]
            ],
        }
        for number, goal in enumerate(goals, start=1)
        if goal["quality"] is not None and len(goal["objectives"]) == 2 and goal["costs"]
    ]
    # Whatever a name contains, it cannot end the element that it stands in.
    return Markup(json.dumps(told, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028"))
