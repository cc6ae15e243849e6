"""Pictures of a comparison: fronts, predicted against measured, and the course of the training."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from experiments.files import replacing

__all__ = [
    "COLOURS",
    "figure_of_panels",
    "front_picture",
    "inline_svg",
    "maybe_log",
    "prediction_picture",
    "training_picture",
    "write_front_picture",
    "write_training_picture",
]

Data = Mapping[str, Any]

# Every colour has its name in the page's style sheet, where the dark theme has another value for it.
COLOURS = {
    "ink": "#1d2530",
    "faint": "#5d6875",
    "line": "#d5dbe2",
    "front": "#0b66c3",
    "measured": "#98a2ae",
    "random": "#cf6a0a",
    "uniform": "#248a5d",
    "ends": "#7446c4",
    "timm": "#bd1f59",
}
_STYLES = {  # series: colour, marker, size in points
    "searched front": ("front", "o", 6.0),
    "measured sub-networks": ("measured", ".", 5.0),
    "random search": ("random", "D", 4.5),
    "uniform scaling": ("uniform", "s", 5.0),
    "smallest": ("ends", "v", 7.5),
    "largest": ("ends", "^", 7.5),
}
_KINDS = {
    "largest": "front",
    "middle": "uniform",
    "random": "random",
    "smallest": "ends",
}  # of sub-networks in training
_OTHER_MARKERS = "*PXhp"
_LONGEST_NAME = 34  # characters of a name in a legend
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and takes the font and the theme of the page
    "text.parse_math": False,  # a name with dollar signs is a name
    "font.size": 10,
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["faint"],
    "axes.titlecolor": COLOURS["ink"],
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": COLOURS["line"],
    "grid.linewidth": 0.6,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["faint"],
    "ytick.color": COLOURS["faint"],
    "xtick.minor.visible": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def front_picture(device: Data) -> Markup:
    """Accuracy against measured latency of every series of a device, as inline SVG."""
    with figure_of_panels(1, width=7.6, height=4.4) as (figure, (axes,)):
        _draw_front(axes, device["series"])
        _legend(figure, [axes], n_columns=3)
        names = ", ".join(series["name"] for series in device["series"] if series["points"])
        label = f"Accuracy on test against latency on {device['name']}. Series: {names}. The tables hold the numbers."
        return inline_svg(figure, f"front {device['name']}", label)


def prediction_picture(device: Data) -> Markup:
    """Predicted against measured, latency on the left and accuracy on the right, as inline SVG."""
    milliseconds, percent = 1e3, 1e2
    with figure_of_panels(2, width=7.6, height=3.5) as (figure, (left, right)):
        _draw_predicted(left, device["series"], "predicted_latency", "latency", milliseconds, band=0.1)
        left.set(title="Latency, with ±10 %", xlabel="predicted (ms)", ylabel="measured (ms)")
        _draw_predicted(right, device["series"], "predicted_accuracy", "accuracy_validation", percent)
        right.set(title="Accuracy on validation", xlabel="predicted (%)", ylabel="scored (%)")
        label = f"Predicted against measured latency and accuracy on {device['name']}; the line is equality."
        return inline_svg(figure, f"predicted {device['name']}", label)


def training_picture(training: Sequence[Data]) -> Markup:
    """Loss and validation accuracy per kind of sub-network over the epochs of all phases, as inline SVG.

    Args:
        training: per epoch its "phase", its mean "loss" by kind of sub-network (largest, smallest, random) and, where
            it was validated, the accuracies in "validation" (largest, middle, smallest), recalibrated.
    """
    with figure_of_panels(1 + _is_validated(training), width=7.6, height=3.2) as (figure, panels):
        kinds = _draw_training(panels, training)
        label = f"Course of the training of {', '.join(kinds)} sub-networks over {len(training)} epochs."
        return inline_svg(figure, "training", label)


def write_training_picture(training: Sequence[Data], path: str | os.PathLike[str]) -> None:
    """The same as a file; the suffix of `path` says whether it is PNG or SVG."""
    n_panels = 1 + _is_validated(training)
    with figure_of_panels(n_panels, width=5.2 * n_panels, height=3.8) as (figure, panels):
        _draw_training(panels, training)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=160, facecolor="white")


def write_front_picture(comparison: Data, path: str | os.PathLike[str]) -> None:
    """The fronts of all devices side by side; the suffix of `path` says whether it is PNG or SVG."""
    devices = comparison["devices"]
    with figure_of_panels(len(devices), width=5.2 * len(devices), height=4.4, sharey=True) as (figure, all_axes):
        for axes, device in zip(all_axes, devices, strict=True):
            _draw_front(axes, device["series"])
            axes.set_title(device["name"], fontsize=11)
        for axes in all_axes[1:]:
            axes.set_ylabel("")
        _legend(figure, all_axes, n_columns=2 * len(devices))
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=160, facecolor="white")


def _is_validated(training: Sequence[Data]) -> bool:
    return any(entry.get("validation") for entry in training)


def _draw_training(panels: Sequence[Axes], training: Sequence[Data]) -> list[str]:
    """Losses on the first panel and accuracies on the second, with every phase marked; returns the kinds drawn."""
    kinds: list[str] = []
    for axes, key, scale in zip(panels, ("loss", "validation"), (1.0, 1e2), strict=False):
        names = list(dict.fromkeys(kind for entry in training for kind in entry.get(key, {}) if kind in _KINDS))
        kinds += [name for name in names if name not in kinds]
        for kind in names:
            known = [
                (i + 1, e[key][kind] * scale) for i, e in enumerate(training) if e.get(key, {}).get(kind) is not None
            ]
            axes.plot(*zip(*known, strict=True), color=COLOURS[_KINDS[kind]], label=kind, lw=1.6)
        starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(training)) if a["phase"] != b["phase"])]
        for number, start in enumerate(starts):
            if start:
                axes.axvline(start + 0.5, color=COLOURS["faint"], lw=0.8, ls=":")
            axes.annotate(  # names of short phases would overlap, so that they take turns in height
                str(training[start]["phase"]), (start + 0.6, 1.0 + 0.07 * (number % 3)),
                xycoords=("data", "axes fraction"), va="bottom", color=COLOURS["faint"], fontsize=8,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="epoch", ylabel="training loss" if key == "loss" else "accuracy on validation (%)")
        if names:
            axes.legend()
    return kinds


def _draw_front(axes: Axes, series: Sequence[Data]) -> None:
    others = iter(_OTHER_MARKERS * len(series))
    order = sorted(series, key=lambda one: (one["name"] == "searched front", one["name"] != "measured sub-networks"))
    for one in order:
        name = one["name"]
        colour, marker, size = _STYLES[name] if name in _STYLES else ("timm", next(others), 8.0)
        key, accuracy_of = "accuracy_test", name
        if all(point["accuracy_test"] is None for point in one["points"]):
            key, accuracy_of = "accuracy_validation", f"{name} (validation)"
        points = sorted((p for p in one["points"] if p[key] is not None), key=lambda p: p["latency"])
        if not points:
            continue
        x, y = [p["latency"] * 1e3 for p in points], [p[key] * 1e2 for p in points]
        bars = [[max(0.0, p["latency"] - p["latency_interval"][0]) * 1e3 for p in points],
                [max(0.0, p["latency_interval"][1] - p["latency"]) * 1e3 for p in points]]  # fmt: skip
        is_front, is_cloud = name == "searched front", name == "measured sub-networks"
        if is_front:
            axes.plot(x, y, drawstyle="steps-post", color=COLOURS[colour], lw=1.4, alpha=0.6, zorder=3)
        axes.errorbar(
            x, y, xerr=bars, fmt=marker, ms=size, color=COLOURS[colour], elinewidth=1, label=accuracy_of,
            alpha=0.6 if is_cloud else 1, zorder=4 if is_front else 2, mec="none" if is_cloud else None,
        )  # fmt: skip
    axes.set(xlabel="latency (ms), measured, 95 % interval", ylabel="accuracy on test (%)")
    maybe_log(axes, [point["latency"] * 1e3 for one in series for point in one["points"]], axes.xaxis)


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


def _draw_predicted(
    axes: Axes, series: Sequence[Data], predicted: str, measured: str, scale: float, band: float = 0.0
) -> None:
    """Points of all series, those of the front on top, with the diagonal and a relative band around it."""
    groups: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for one in series:
        groups[one["name"] == "searched front"] += [
            (p[predicted] * scale, p[measured] * scale)
            for p in one["points"]
            if p[predicted] is not None and p[measured] is not None
        ]
    values = [value for group in groups.values() for pair in group for value in pair]
    if not values:
        axes.annotate("no predictions", (0.5, 0.5), xycoords="axes fraction", ha="center", color=COLOURS["faint"])
        return
    margin = 0.04 * (max(values) - min(values)) or 0.04 * max(values)
    ends = [max(min(values) - margin, min(values) / 1.1), max(values) + margin]
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


def maybe_log(axes: Axes, values: Sequence[float], axis: Any) -> None:
    """Logarithmic from a ratio of 4 on, with numbers that can be read."""
    if not values or min(values) <= 0 or max(values) < 4 * min(values):
        return
    set_scale: Callable[[str], None] = axes.set_xscale if axis is axes.xaxis else axes.set_yscale
    set_scale("log")
    steps = (1.0, 2.0, 5.0) if max(values) > 10 * min(values) else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


@contextmanager
def figure_of_panels(
    n: int, width: float, height: float, sharey: bool = False
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of `n` panels side by side, in inches, drawn without touching anybody's matplotlib settings."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(1, n, sharey=sharey, squeeze=False)[0].tolist()


def inline_svg(figure: Figure, name: str, label: str) -> Markup:
    """The figure as an SVG element that asks for nothing from outside and takes its colours from the page."""
    text = io.StringIO()
    salt: Any = {"svg.hashsalt": name}
    with mpl.rc_context(salt):  # identifiers differ between the pictures of a page, not between runs
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # nothing refers to groups, and all pictures name them alike
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
