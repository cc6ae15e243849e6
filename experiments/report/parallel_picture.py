"""A front of three objectives and more as parallel coordinates: one line per network, one axis per objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from experiments.quantities import kinds_with
from experiments.report.front_picture import axis_label, reader, scale_of
from experiments.report.pictures import COLOURS, figure_of_panels, inline_svg

__all__ = ["parallel_picture"]

_SERIES = (("random search", "random", 0.35, 0.8), ("searched front", "front", 0.85, 1.3))
"""Series, its colour, how opaque and how wide its lines are; the last one on top."""


def parallel_picture(goal: Mapping[str, Any], metric: Mapping[str, Any] | None = None) -> Markup:
    """The searched front and that of random search as inline SVG (Inselberg 1985); on every axis better is up.

    Args:
        goal: of a comparison, with three objectives or more.
        metric: of a task of one's own, as ``comparison.json`` has it.
    """
    objectives = goal["objectives"]
    series = {one["name"]: one["points"] for one in goal["series"]}
    read = [reader(one, series.get("searched front", ()))[0] for one in objectives]
    lines: dict[str, list[list[float]]] = {name: [] for name, *_ in _SERIES}
    for name, rows in lines.items():
        for point in series.get(name, ()):
            values = [value(point) for value in read]
            rows += [[one for one in values if one is not None]] if None not in values else []
    kinds = kinds_with(metric)
    with figure_of_panels(1, width=7.6, height=4.2) as (figure, (axes,)):
        _draw(axes, objectives, [kinds[one["kind"]].maximize for one in objectives], lines)
        label = f"Every network of the front of {goal['name']} as a line over {len(objectives)} axes; better is up."
        return inline_svg(figure, f"parallel {goal['name']}", f"{label} The table holds the numbers.")


def _draw(axes: Axes, objectives: Any, maximize: list[bool], lines: Mapping[str, list[list[float]]]) -> None:
    everything = [row for rows in lines.values() for row in rows]
    if not everything:
        axes.annotate("no networks", (0.5, 0.5), xycoords="axes fraction", ha="center", color=COLOURS["faint"])
        return
    columns = list(zip(*everything, strict=True))
    ends = [(max(column), min(column)) if not up else (min(column), max(column))
            for column, up in zip(columns, maximize, strict=True)]  # fmt: skip
    places = range(len(objectives))
    for name, colour, alpha, width in _SERIES:
        for i, row in enumerate(lines[name]):
            heights = [
                (v - low) / (high - low) if high != low else 0.5 for v, (low, high) in zip(row, ends, strict=True)
            ]
            axes.plot(places, heights, color=COLOURS[colour], alpha=alpha, lw=width, marker="o", ms=2.5,
                      label=name if i == 0 else None)  # fmt: skip
    for place, (told, (low, high)) in enumerate(zip(objectives, ends, strict=True)):
        axes.axvline(place, color=COLOURS["faint"], lw=0.8)
        scale, unit = scale_of(told)
        for height, value in ((0.0, low), (0.5, (low + high) / 2), (1.0, high)):
            text = f"{value * scale:.3g} {unit}".rstrip()
            axes.annotate(text, (place, height), xytext=(4, 2), textcoords="offset points", fontsize=8,
                          color=COLOURS["ink"])  # fmt: skip
    axes.set_xticks(list(places), [axis_label(told) for told in objectives])
    axes.set(yticks=[], xlim=(-0.1, len(objectives) - 0.55))
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2)
