"""The picture of block profiles: where the time of a network goes, and which blocks take long for what they compute."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.report.pictures import COLOURS, figure_of_panels
from supernet.files import replacing

__all__ = ["write_block_picture"]

_GROUP_COLOURS = ("#98a2ae", "#0b66c3", "#248a5d", "#cf6a0a", "#bd1f59", "#7446c4", "#1d2530", "#5f8a8b")
_ROW_HEIGHT = 0.22  # inches

Data = Mapping[str, Any]


def write_block_picture(content: Data, path: str | os.PathLike[str]) -> None:
    """Left a bar per block of one network, its share of the time beside its share of the multiply-accumulates; right
    the time of every reachable block against its multiply-accumulates.

    Args:
        content: ``device``, ``arch``, and of its ``positions`` and of all ``blocks``: name, group, seconds and macs.
        path: its suffix says whether it is PNG or SVG.
    """
    groups = list(dict.fromkeys(entry["group"] for entry in [*content["positions"], *content["blocks"]]))
    colours = {group: _GROUP_COLOURS[i % len(_GROUP_COLOURS)] for i, group in enumerate(groups)}
    height = max(4.4, 1.4 + _ROW_HEIGHT * len(content["positions"]))
    with figure_of_panels(2, width=11.0, height=height) as (figure, (left, right)):
        _draw_shares(left, content["positions"], colours)
        _draw_blocks(right, content["blocks"], content["positions"], colours)
        figure.suptitle(f"Sub-network {content['arch']} on {content['device']}", fontsize=10, color=COLOURS["ink"])
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=140, facecolor="white")


def _draw_shares(axes: Axes, positions: Sequence[Data], colours: Mapping[str, str]) -> None:
    rows = np.arange(len(positions))
    seconds, macs = (np.array([position[what] for position in positions], float) for what in ("seconds", "macs"))
    axes.barh(rows, seconds / seconds.sum() * 100, color=[colours[p["group"]] for p in positions], height=0.7)
    share = macs / macs.sum() * 100
    axes.plot(share, rows, "D", ms=4, mfc="white", mec=COLOURS["ink"], mew=0.9)
    axes.set_yticks(rows, [position["name"] for position in positions], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of all blocks (%)", title="Where the time goes (bars), and the MACs (diamonds)")


def _draw_blocks(axes: Axes, blocks: Sequence[Data], positions: Sequence[Data], colours: Mapping[str, str]) -> None:
    """Both axes logarithmic; along a dashed line blocks compute equally many MACs in a second."""
    known = [block for block in blocks if np.isfinite(block["seconds"]) and block["macs"] > 0]
    for group, colour in colours.items():
        points = [(b["macs"] / 1e6, b["seconds"] * 1e3) for b in known if b["group"] == group]
        if points:
            axes.plot(*zip(*points, strict=True), "o", ms=4.5, color=colour, alpha=0.55, mec="none", label=group)
    own = [(p["macs"] / 1e6, p["seconds"] * 1e3) for p in positions if p["macs"] > 0]
    axes.plot(*zip(*own, strict=True), "o", ms=6.5, mfc="none", mec=COLOURS["ink"], mew=0.9, label="in this network")
    axes.set(xscale="log", yscale="log", xlabel="million multiply-accumulates", ylabel="time alone (ms)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.set_title("What each reachable block takes")
    ends = np.array(axes.get_xlim())
    heights = axes.get_ylim()
    rates = np.array([b["macs"] / b["seconds"] for b in known])
    for rate in np.unique(10.0 ** np.round(np.log10(np.quantile(rates, [0.05, 0.5, 0.95])))):
        axes.plot(ends, ends * 1e6 / rate * 1e3, "--", color=COLOURS["faint"], lw=0.7, zorder=1)
        # In the middle of what can be seen of the line.
        seen = np.clip(ends, *(np.array(heights) / 1e3 * rate / 1e6))
        middle = float(np.sqrt(seen.prod()))
        if ends[0] < middle < ends[1]:
            place = (middle, middle * 1e6 / rate * 1e3)
            axes.annotate(f"{rate / 1e9:g} GMAC/s", place, fontsize=7, color=COLOURS["faint"])
    axes.set(xlim=ends, ylim=heights)
    axes.legend(loc="lower right", fontsize=8)
