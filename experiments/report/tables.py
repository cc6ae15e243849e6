"""The numbers of a comparison as tables for other programs, for Markdown and for LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet.files import write_text

__all__ = ["Table", "tables", "write_tables"]

Data = Mapping[str, Any]
Cell = str | float | int | None

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Rows of numbers in seconds and counts, hypervolumes in the product of these units.

    Attributes:
        name: of its files.
        caption: what it shows.
        command: what makes its numbers again.
        header: names of the columns.
        rows: as many cells each; None for what is not known.
    """

    name: str
    caption: str
    command: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def csv(self) -> str:
        """For other programs: every digit; the command is the last column."""
        text = io.StringIO()
        out = csv.writer(text, lineterminator="\n")
        out.writerow([*self.header, "command"])
        for row in self.rows:
            out.writerow([*("" if cell is None else cell for cell in row), self.command])
        return text.getvalue()

    def markdown(self) -> str:
        """For documents; the command stands below."""
        lines = [self.caption, "", _piped(self.header), "|" + "---|" * len(self.header)]
        lines += [_piped([_short(cell) for cell in row]) for row in self.rows]
        return "\n".join([*lines, "", f"`{self.command}`", ""])

    def latex(self) -> str:
        """For papers, with rules of the package booktabs; the command is a comment."""
        columns = "".join(
            "l" if any(isinstance(row[i], str) for row in self.rows) else "r" for i in range(len(self.header))
        )
        lines = [f"% {self.command}", r"\begin{tabular}{" + columns + "}", r"\toprule"]
        lines += [_lined(self.header), r"\midrule", *(_lined([_short(cell) for cell in row]) for row in self.rows)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", f"% {self.caption}", ""])


def tables(comparison: Data, run: str) -> list[Table]:
    """Of a comparison, plain data in the form of ``comparison.json``.

    Args:
        run: how its folder is written in a command.
    """
    goals, command = comparison["goals"], f"supernet compare {run}"
    volumes = [
        (goal["name"], row["series"], row["value"], *row["interval"], row["relative"],
         *(row["relative_interval"] or (None, None)), row["front_is_larger"])
        for goal in goals for row in goal["hypervolume"]
    ]  # fmt: skip
    header = ("goal", "series", "hypervolume", "low", "high", "share", "share low", "share high", "front is larger")
    found = [
        Table("hypervolume", "Hypervolumes on test with intervals of 90 %, and the probability that the front's is "
              "larger.", command, header, tuple(volumes)),
        _points(goals, command),
        Table("optimism", "What networks lost on test of their score on validation, by which they were chosen, with an "
              "interval of 90 %.", command, ("goal", "series", "networks", "lost", "low", "high"),
              tuple((goal["name"], row["series"], row["n"], row["mean"], *(row["interval"] or (None, None)))
                    for goal in goals for row in goal["optimism"])),
    ]  # fmt: skip
    if repeats := comparison.get("repeats"):
        found += _repeated(repeats, f"{command} --seeds {len(repeats['seeds'])}")
    return [table for table in found if table.rows]


def write_tables(comparison: Data, folder: Path, run: str) -> None:
    """Each as ``NAME.csv``, ``NAME.md`` and ``NAME.tex``."""
    for table in tables(comparison, run):
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            write_text(folder / f"{table.name}.{ending}", text)


def _points(goals: Sequence[Data], command: str) -> Table:
    """Every network that was tested."""
    costs = list(dict.fromkeys(name for goal in goals for name in _costs(goal)))
    header = ["goal", "series", "id", "test", "validation"]
    for name in costs:
        header += [name, f"{name} low", f"{name} high"] if name.startswith("latency") else [name]
    rows = []
    for goal in goals:
        for one in goal["series"]:
            for point in one["points"]:
                if point["test"] is None:
                    continue
                row: list[Cell] = [goal["name"], one["name"], point["id"], point["test"], point["validation"]]
                for name in costs:
                    row.append(point["values"].get(name))
                    if name.startswith("latency"):
                        row += point["intervals"].get(name, (None, None))
                rows.append(tuple(row))
    return Table("networks", "Every network that was tested.", command, tuple(header), tuple(rows))


def _costs(goal: Data) -> Iterator[str]:
    for told in (*goal["costs"], *goal["shown"]):
        if not told["scored"]:
            yield told["name"]


def _repeated(repeats: Data, command: str) -> list[Table]:
    n = len(repeats["seeds"])
    volumes = tuple(
        (goal["name"], row["series"], row["mean"], *row["interval"], row["share"], *row["share_interval"],
         row["front_is_larger"], row["front_is_larger_on_average"])
        for goal in repeats["goals"] for row in goal["hypervolume"]
    )  # fmt: skip
    header = (
        "goal", "series", "mean", "low", "high", "share", "share low", "share high", "front is larger",
        "front is larger on average",
    )  # fmt: skip
    surfaces = tuple(
        (goal["name"], one["series"], one["share"], *point)
        for goal in repeats["goals"] for one in goal["attained"] for point in one["points"]
    )  # fmt: skip
    return [
        Table("repeats", f"Mean hypervolumes of {n} searches with other seeds, with intervals of 90 %, and the "
              "probability that a front, or fronts on average, have more.", command, header, volumes),
        Table("attained", f"What a share of {n} searches attain; 0 is the luckiest of them.", command,
              ("goal", "series", "share", "first", "second"), surfaces),
    ]  # fmt: skip


def _short(cell: Cell) -> str:
    return "–" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _lined(cells: Sequence[str]) -> str:
    return " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in cells) + r" \\"
