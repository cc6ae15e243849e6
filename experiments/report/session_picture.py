"""A picture of how a device was measured: what the machine did meanwhile, and how well every network is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from experiments.report.pictures import COLOURS, figure_of_panels, inline_svg, maybe_log

__all__ = ["session_picture"]

_PURPOSES = {"planned": "measured", "again": "uniform", "final": "front", "export": "timm"}


def session_picture(device: Mapping[str, Any]) -> Markup:
    """The speed of the machine over the sessions, and the intervals of networks, as inline SVG."""
    with figure_of_panels(2, width=7.6, height=3.2) as (figure, (left, right)):
        _draw_speed(left, device)
        _draw_intervals(right, device)
        handles, names = left.get_legend_handles_labels()
        known = dict(zip(names, handles, strict=True))
        figure.legend(list(known.values()), list(known), loc="outside lower center", ncols=len(known))
        label = (
            f"Sessions on {device['name']}: the speed of the machine in every turn, and how well networks are known."
        )
        return inline_svg(figure, f"sessions {device['name']}", label)


def _draw_speed(axes: Axes, device: Mapping[str, Any]) -> None:
    """Every turn of every session: how much slower than on the common level everything was."""
    ticks = []
    position = 0.0
    for number, session in enumerate(device["sessions"], start=1):
        slower = session["slower"] or 1.0
        times = [value if value is not None else float(i) for i, value in enumerate(session["started"])]
        length = max(times) - min(times) if times else 0.0
        x = [position + (time - min(times)) / (length or 1.0) for time in times]
        y = [100 * (slower * speed - 1) for speed in session["speed"]]
        colour = COLOURS[_PURPOSES.get(session["purpose"], "measured")]
        axes.plot(x, y, ".", ms=3.5, mec="none", color=colour, label=session["purpose"])
        ticks.append((position + 0.5, f"{number}"))
        position += 1.15
    axes.axhline(0, color=COLOURS["faint"], lw=0.8)
    axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
    axes.grid(axis="x", visible=False)
    axes.set(title="The machine", xlabel="session (its turns from left to right)", ylabel="slower than the level (%)")


def _draw_intervals(axes: Axes, device: Mapping[str, Any]) -> None:
    latencies = []
    for session in device["sessions"]:
        x = [value * 1e3 for value in session["latencies"]]
        y = [100 * value for value in session["half_widths"]]
        latencies += x
        axes.plot(x, y, ".", ms=4, mec="none", color=COLOURS[_PURPOSES.get(session["purpose"], "measured")])
    axes.set(title="The networks", xlabel="latency (ms)", ylabel="95 % interval, relative (± %)", ylim=(0, None))
    maybe_log(axes, latencies, axes.xaxis)
