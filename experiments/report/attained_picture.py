"""A picture of what searches with different seeds attain, beside what is compared with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from experiments.report.front_picture import axis_label, scale_of, style_of
from experiments.report.pictures import COLOURS, figure_of_panels, inline_svg, maybe_log

__all__ = ["attained_picture"]


def attained_picture(goal: Mapping[str, Any], repeats: Mapping[str, Any]) -> Markup:
    """The surface that half of the searches attain as a line, from what all attain to what the best does as a band.

    Args:
        goal: of a comparison.
        repeats: the same goal's of its repeats.
    """
    told = {one["name"]: one for one in goal["objectives"]}
    up, across = (told[name] for name in repeats["traded"])
    (rise, _), (scale, _) = scale_of(up), scale_of(across)
    surfaces = {(one["series"], one["share"]): one["points"] for one in repeats["attained"]}
    right = max((point[1] for points in surfaces.values() for point in points), default=1.0) * scale
    with figure_of_panels(1, width=7.6, height=4.0) as (figure, (axes,)):
        seen: list[float] = []
        for name in dict.fromkeys(series for series, _ in surfaces):
            colour = COLOURS[style_of(name)]
            for share, width, alpha in ((0.0, 0.8, 0.45), (1.0, 0.8, 0.45), (0.5, 1.8, 1.0)):
                points = surfaces[name, share]
                if not points:
                    continue
                x, y = [point[1] * scale for point in points], [point[0] * rise for point in points]
                seen += x
                axes.plot([*x, right], [*y, y[-1]], drawstyle="steps-post", color=colour, lw=width, alpha=alpha,
                          ls="-" if share == 0.5 else ":", label=name if share == 0.5 else None)  # fmt: skip
        axes.set(xlabel=axis_label(across), ylabel=axis_label(up))
        maybe_log(axes, seen, axes.xaxis)
        axes.legend(loc="lower right")
        label = f"What searches with other seeds attain for {goal['name']}: of half of them, of the best, and of all."
        return inline_svg(figure, f"attained {goal['name']}", label)
