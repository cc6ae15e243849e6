"""Pictures of a goal: its front against other ways of choosing, and what was predicted against what was found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.pictures import COLOURS, figure_of_panels, inline_svg, maybe_log
from supernet.files import replacing

__all__ = ["axis_label", "front_picture", "prediction_picture", "reader", "scale_of", "style_of", "write_front_picture"]

Data = Mapping[str, Any]

_STYLES = {  # series: colour, marker, size in points
    "searched front": ("front", "o", 6.0),
    "measured sub-networks": ("measured", ".", 5.0),
    "random search": ("random", "D", 4.5),
    "uniform scaling": ("uniform", "s", 5.0),
    "random search, filtered": ("filtered", "d", 4.5),
    "local search": ("local", "P", 4.5),
    "smallest": ("ends", "v", 7.5),
    "largest": ("ends", "^", 7.5),
}
_OTHER_MARKERS = "*PXhp"
_LONGEST_NAME = 34  # characters of a name in a legend
_SCALES = {"s": (1e3, "ms"), "B": (1e-6, "MB"), "J": (1e3, "mJ")}  # by unit; counts are in millions


def front_picture(goal: Data) -> Markup:
    """What a goal trades, of every series, as inline SVG: one panel for each pair with the first quantity."""
    pairs = _pairs(goal)
    with figure_of_panels(len(pairs), width=7.6, height=4.4) as (figure, panels):
        for axes, (across, up) in zip(panels, pairs, strict=True):
            _draw_front(axes, goal, across, up)
            if len(pairs) > 1:  # the panels are narrow
                axes.set_xlabel(axes.get_xlabel().partition(",")[0])
        for axes in panels[1:]:
            axes.set_ylabel("")
        _legend(figure, panels, n_columns=3)
        names = ", ".join(series["name"] for series in goal["series"] if series["points"])
        label = f"{' against '.join(axis_label(one) for one in pairs[0])} for {goal['name']}. Series: {names}."
        return inline_svg(figure, f"front {goal['name']}", f"{label} The tables hold the numbers.")


def prediction_picture(goal: Data) -> Markup:
    """Predicted against found, for every quantity that has a predictor, as inline SVG."""
    told = [one for one in goal["objectives"] if one["name"] in goal["error_cards"]][:3] or goal["objectives"][:2]
    with figure_of_panels(len(told), width=7.6, height=3.5) as (figure, panels):
        for axes, one in zip(panels, told, strict=False):
            relative = not one["scored"]
            _draw_predicted(axes, goal["series"], one, band=0.1 if relative else 0.0)
            axes.set_title(f"{_named(one)}, ±10 %" if relative else f"{one['words']} on validation", fontsize=10)
        label = f"Predicted against found for {goal['name']}; the line is equality."
        return inline_svg(figure, f"predicted {goal['name']}", label)


def write_front_picture(comparison: Data, path: str | os.PathLike[str]) -> None:
    """The fronts of all goals side by side; the suffix of `path` says whether it is PNG or SVG."""
    drawn = [(goal, *pair) for goal in comparison["goals"] for pair in _pairs(goal)]
    with figure_of_panels(len(drawn), width=5.2 * len(drawn), height=4.4) as (figure, panels):
        for axes, (goal, across, up) in zip(panels, drawn, strict=True):
            _draw_front(axes, goal, across, up)
            axes.set_title(goal["name"], fontsize=11)
        _legend(figure, panels, n_columns=2 * len(drawn))
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=160, facecolor="white")


def _pairs(goal: Data) -> list[tuple[Data, Data]]:
    """(across, up) of every panel: each cost against what networks are good at, or against the first cost."""
    up = next((one for one in goal["objectives"] if one["name"] == goal["quality"]), goal["objectives"][0])
    return [(one, up) for one in goal["objectives"] if one is not up]


def _named(told: Data) -> str:
    return f"{told['words']} on {told['name'].partition('@')[2]}" if "@" in told["name"] else told["words"]


def style_of(series: str) -> str:
    """The colour of a series, by name."""
    return _STYLES[series][0] if series in _STYLES else "timm"


def scale_of(told: Data) -> tuple[float, str]:
    """By what its numbers are multiplied, and the unit that they then have."""
    if told["scored"]:
        return (1e2, "%") if told["kind"] == "accuracy" else (1.0, told["unit"])
    return _SCALES.get(told["unit"], (1e-6, "millions"))


def axis_label(told: Data) -> str:
    """A quantity at an axis, with its unit."""
    words = f"{told['words']} on test" if told["scored"] else _named(told)
    interval = ", measured, 95 % interval" if told["kind"] == "latency" else ""
    unit = scale_of(told)[1]
    return f"{words}{f' ({unit})' if unit else ''}{interval}"


def reader(told: Data, points: Sequence[Data]) -> tuple[Callable[[Data], float | None], str]:
    """How a quantity is read from a point, and what is to be added to the name of a series that has no test score."""
    if not told["scored"]:
        return lambda point: point["values"].get(told["name"]), ""
    if all(point["test"] is None for point in points):
        return lambda point: point["validation"], " (validation)"
    return lambda point: point["test"], ""


def _draw_front(axes: Axes, goal: Data, across: Data, up: Data) -> None:
    series = goal["series"]
    others = iter(_OTHER_MARKERS * len(series))
    order = sorted(series, key=lambda one: (one["name"] == "searched front", one["name"] != "measured sub-networks"))
    scale, _ = scale_of(across)
    rise, _ = scale_of(up)
    seen: list[float] = []
    for one in order:
        name = one["name"]
        colour, marker, size = _STYLES[name] if name in _STYLES else ("timm", next(others), 8.0)
        read_up, more = reader(up, one["points"])
        what = across["name"]
        found = [(p["values"].get(what), read_up(p), p["intervals"].get(what)) for p in one["points"]]
        rows = sorted(((a, u, i) for a, u, i in found if a is not None and u is not None), key=lambda row: row[0])
        if not rows:
            continue
        x, y = [row[0] * scale for row in rows], [row[1] * rise for row in rows]
        seen += x
        bars = [[max(0.0, a - i[0]) * scale if i else 0.0 for a, _, i in rows],
                [max(0.0, i[1] - a) * scale if i else 0.0 for a, _, i in rows]]  # fmt: skip
        is_front, is_cloud = name == "searched front", name == "measured sub-networks"
        if is_front and len(goal["objectives"]) == 2:
            axes.plot(x, y, drawstyle="steps-post", color=COLOURS[colour], lw=1.4, alpha=0.6, zorder=3)
        axes.errorbar(
            x, y, xerr=bars, fmt=marker, ms=size, color=COLOURS[colour], elinewidth=1, label=f"{name}{more}",
            alpha=0.6 if is_cloud else 1, zorder=4 if is_front else 2, mec="none" if is_cloud else None,
        )  # fmt: skip
    axes.set(xlabel=axis_label(across), ylabel=axis_label(up))
    maybe_log(axes, seen, axes.xaxis)


def _legend(figure: Figure, all_axes: Sequence[Axes], n_columns: int) -> None:
    """One legend for all panels below them, the front first, and no name so long that it is cut."""
    handles: dict[str, Any] = {}
    for axes in all_axes:
        drawn: list[Any]
        drawn, names = axes.get_legend_handles_labels()
        handles |= {name: bars.lines[0] for bars, name in zip(drawn, names, strict=True)}
    names = sorted(handles, key=lambda name: name != "searched front")
    shown = [name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…" for name in names]
    markers = [handles[name] for name in names]
    figure.legend(markers, shown, loc="outside lower center", ncols=n_columns, handletextpad=0.2, columnspacing=1.5)


def _draw_predicted(axes: Axes, series: Sequence[Data], told: Data, band: float = 0.0) -> None:
    """Points of all series, those of the front on top, with the diagonal and a relative band around it."""
    groups: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    scale, unit = scale_of(told)
    for one in series:
        for point in one["points"]:
            predicted, found = point["predicted"].get(told["name"]), point["values"].get(told["name"])
            if predicted is not None and found is not None:
                groups[one["name"] == "searched front"].append((predicted * scale, found * scale))
    shown = f" ({unit})" if unit else ""
    axes.set(xlabel=f"predicted{shown}", ylabel=f"found{shown}")
    values = [value for group in groups.values() for pair in group for value in pair]
    if not values:
        axes.annotate("no predictions", (0.5, 0.5), xycoords="axes fraction", ha="center", color=COLOURS["faint"])
        return
    margin = 0.04 * (max(values) - min(values)) or 0.04 * abs(max(values)) or 1.0
    lowest = min(values) - margin
    ends = [max(lowest, min(values) / 1.1) if min(values) > 0 else lowest, max(values) + margin]
    axes.plot(ends, ends, color=COLOURS["faint"], lw=1)
    if band:
        low, high = [end * (1 - band) for end in ends], [end * (1 + band) for end in ends]
        axes.fill_between(ends, low, high, color=COLOURS["front"], alpha=0.12, lw=0)
    for is_front, label in ((False, "other sub-networks"), (True, "searched front")):
        if groups[is_front]:
            colour, marker, size = _STYLES["searched front" if is_front else "measured sub-networks"]
            axes.plot(*zip(*groups[is_front], strict=True), marker, color=COLOURS[colour], ms=size - 1.5 * is_front,
                      mec="none", label=label)  # fmt: skip
    axes.set(xlim=ends, ylim=ends)
    for axis in (axes.xaxis, axes.yaxis) if band else ():
        maybe_log(axes, values, axis)
    axes.legend(loc="upper left", handletextpad=0.2)
