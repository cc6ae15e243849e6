"""The dependency graph of a network as a picture: a row for every layer, a line for all that shrinks together."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from supernet.families.traced import TracedSupernet
from supernet.graph.groups import Group

__all__ = ["drawn"]

_ROW, _COLUMN, _LETTER, _TOP = 16, 14, 6.8, 44
_COLOURS = {
    "middle_width": "#1f77b4", "outer_width": "#2ca02c", "embedding": "#9467bd", "heads": "#d62728", "fixed": "#aaaaaa",
}  # fmt: skip


def drawn(supernet: TracedSupernet, title: str) -> str:
    """An SVG: a filled dot where a layer's outputs are of the group, a ring where it reads them; what a dot is says its
    tooltip. Blocks that can be left out are shaded."""
    graph, model = supernet.graph, supernet._template[0]
    dials = {group.index: dial for dial in supernet.dials for group in dial.groups}
    used = {name.rpartition(".")[0] for group in graph.groups for name in group.parameters}
    rows = {path: i for i, path in enumerate(path for path, _ in model.named_modules() if path in used)}
    labels = {path: f"{path or '(itself)'}  {type(model.get_submodule(path)).__name__}" for path in rows}
    left = 16 + _LETTER * max(map(len, labels.values()))
    width, height = left + _COLUMN * (len(graph.groups) + 2), _TOP + _ROW * (len(rows) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(width, 880):.0f}" height="{height}" '
        'font-family="monospace" font-size="11"><rect width="100%" height="100%" fill="white"/>',
        f'<text x="8" y="16" font-size="13">{escape(title)}</text>',
        *_legend(),
        *_blocks(supernet, rows, width),
        *(f'<text x="8" y="{_y(row) + 4}">{escape(labels[path])}</text>' for path, row in rows.items()),
    ]
    for column, group in enumerate(graph.groups):
        dial = dials.get(group.index)
        colour = _COLOURS["fixed" if dial is None else dial.role]
        why = supernet.problems.get(group.index, "fixed") if dial is None else dial.label
        kind = "heads" if group.heads else "channels"
        parts += _group(supernet, group, rows, left + _COLUMN * (column + 1), colour, f"{why}: {group.n_units} {kind}")
    return "\n".join([*parts, "</svg>\n"])


def _legend() -> list[str]:
    found, x = [], 8.0
    for name, colour in _COLOURS.items():
        text = name.replace("_", " ")
        found.append(f'<circle cx="{x + 4:.0f}" cy="28" r="4" fill="{colour}"/>')
        found.append(f'<text x="{x + 12:.0f}" y="32">{text}</text>')
        x += 24 + _LETTER * len(text)
    found.append(f'<text x="{x:.0f}" y="32">filled: written, ring: read; shaded: can be left out</text>')
    return found


def _blocks(supernet: TracedSupernet, rows: Mapping[str, int], width: float) -> list[str]:
    found = []
    for run, low in zip(supernet.runs, supernet.lowest, strict=True):
        for path in run.paths[low:]:
            inside = [row for name, row in rows.items() if f"{name}.".startswith(f"{path}.")]
            if inside:
                y, h = _y(min(inside)) - _ROW / 2, _ROW * (max(inside) - min(inside) + 1) - 2
                found.append(f'<rect x="4" y="{y}" width="{width - 8:.0f}" height="{h}" fill="#f0f0f0"/>')
    return found


def _group(
    supernet: TracedSupernet, group: Group, rows: Mapping[str, int], x: float, colour: str, what: str
) -> list[str]:
    places: dict[int, list[str]] = {}
    writes: dict[int, bool] = {}
    for name, axis in group.spots:
        row = rows[name.rpartition(".")[0]]
        places.setdefault(row, []).append(f"{name} axis {axis}")
        writes[row] = writes.get(row, False) or supernet.graph.readers.get(name) != axis
    first, last = _y(min(places)), _y(max(places))
    found = [f'<line x1="{x:.0f}" y1="{first}" x2="{x:.0f}" y2="{last}" stroke="{colour}" stroke-width="1.5"/>']
    for row, names in places.items():
        fill = colour if writes[row] else "white"
        tip = escape("\n".join([what, *names]))
        found.append(
            f'<circle cx="{x:.0f}" cy="{_y(row)}" r="4" fill="{fill}" stroke="{colour}"><title>{tip}</title></circle>'
        )
    return found


def _y(row: int) -> int:
    return _TOP + _ROW * row + _ROW // 2
