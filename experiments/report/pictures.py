"""How pictures are drawn, and that of the course of the training."""

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

from experiments.quantities import kinds_with, quality
from supernet.files import replacing

__all__ = [
    "COLOURS",
    "figure_of_panels",
    "inline_svg",
    "maybe_log",
    "training_picture",
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
    "filtered": "#8a6d1c",
    "local": "#178590",
    "ends": "#7446c4",
    "timm": "#bd1f59",
}
_KINDS = {
    "largest": "front",
    "middle": "uniform",
    "random": "random",
    "smallest": "ends",
}  # of sub-networks in training
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


def training_picture(training: Sequence[Data], metric: Data | None = None) -> Markup:
    """Loss and validation per kind of sub-network over the epochs of all phases, as inline SVG.

    Args:
        training: per epoch its "phase", its mean "loss" by kind of sub-network (largest, smallest, random) and, where
            it was validated, the accuracies in "validation" (largest, middle, smallest), recalibrated.
        metric: of a task of one's own, in the place of accuracy; see `quantities.kinds_with`.
    """
    with figure_of_panels(1 + _is_validated(training), width=7.6, height=3.2) as (figure, panels):
        kinds = _draw_training(panels, training, metric)
        label = f"Course of the training of {', '.join(kinds)} sub-networks over {len(training)} epochs."
        return inline_svg(figure, "training", label)


def write_training_picture(training: Sequence[Data], path: str | os.PathLike[str], metric: Data | None = None) -> None:
    """The same as a file; the suffix of `path` says whether it is PNG or SVG."""
    n_panels = 1 + _is_validated(training)
    with figure_of_panels(n_panels, width=5.2 * n_panels, height=3.8) as (figure, panels):
        _draw_training(panels, training, metric)
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=160, facecolor="white")


def _is_validated(training: Sequence[Data]) -> bool:
    return any(entry.get("validation") for entry in training)


def _draw_training(panels: Sequence[Axes], training: Sequence[Data], metric: Data | None) -> list[str]:
    """Losses on the first panel and scores on the second, with every phase marked; returns the kinds drawn."""
    kinds: list[str] = []
    rise, unit = (1e2, "%") if metric is None else (1.0, metric["unit"])
    label = f"{quality(kinds_with(metric)).kind.words} on validation" + (f" ({unit})" if unit else "")
    for axes, key, scale in zip(panels, ("loss", "validation"), (1.0, rise), strict=False):
        names = list(dict.fromkeys(kind for entry in training for kind in entry.get(key, {}) if kind in _KINDS))
        kinds += [name for name in names if name not in kinds]
        for kind in names:
            known = [
                (i + 1, e[key][kind] * scale) for i, e in enumerate(training) if e.get(key, {}).get(kind) is not None
            ]
            dot = "o" if len(known) == 1 else ""  # a line of one point is none
            axes.plot(*zip(*known, strict=True), color=COLOURS[_KINDS[kind]], label=kind, lw=1.6, marker=dot)
        starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(training)) if a["phase"] != b["phase"])]
        for number, start in enumerate(starts):
            if start:
                axes.axvline(start + 0.5, color=COLOURS["faint"], lw=0.8, ls=":")
            axes.annotate(  # names of short phases would overlap, so that they take turns in height
                str(training[start]["phase"]), (start + 0.6, 1.0 + 0.07 * (number % 3)),
                xycoords=("data", "axes fraction"), va="bottom", color=COLOURS["faint"], fontsize=8,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(0.5, len(training) + 0.5)  # names of phases begin at 0.6, in the panel also after one epoch
        axes.set(xlabel="epoch", ylabel="training loss" if key == "loss" else label)
        if names:
            axes.legend()
    return kinds


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
