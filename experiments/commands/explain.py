"""What becomes elastic of a network, before any money is spent: `supernet explain MODEL`."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from experiments.budgets import format_count
from experiments.commands.drawing import drawn
from supernet.families.traced import TracedSupernet
from supernet.files import replacing
from supernet.networks.from_timm import elastic
from supernet.plugins import called, imported

__all__ = ["explain"]

_MOST_ROWS = 40


def explain(
    model: str,
    family: str | None,
    size: str | None,
    choices: dict[str, Any],
    all_rows: bool,
    picture: Path | None = None,
) -> None:
    """Print the choices of a network, the size of its space, what the smallest and the largest cost, and what is fixed.

    Args:
        model: the name of one of timm's, or ``package.module:function`` that returns a network.
        family: as `elastic` takes it.
        size: of the input with its batch, such as ``1x3x224x224``; default what the network says.
        choices: further ones for `elastic`, such as ``widths`` and ``kernels``.
        all_rows: print every group, not the first ones alone.
        picture: where the graph is drawn, an SVG file.

    Raises:
        ValueError: the network cannot become a supernet.
    """
    import torch

    if picture is not None and picture.suffix != ".svg":
        raise ValueError(f"--draw {picture}: the picture is an SVG; give a name that ends in .svg")
    network: Any = model
    if ":" in model:
        network = called(imported(model), model, {}, {})
        if not isinstance(network, torch.nn.Module):
            raise ValueError(f"{model} returns a {type(network).__name__}, not an nn.Module")
    if size is not None:
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", size):
            raise ValueError(f"--size {size!r} is not of the form 1x3x224x224")
        choices = {**choices, "example_input": torch.zeros([int(edge) for edge in size.split("x")])}
    # Numbers are not needed: nothing is sorted, and what timm draws at random is not drawn.
    with torch.device("meta" if isinstance(network, str) else "cpu"):
        supernet = elastic(network, family=family, importance=None, **choices)  # pyright: ignore[reportArgumentType]
    console = Console(highlight=False)
    space = supernet.space
    console.print(str(space), soft_wrap=True, markup=False)
    genes = space.encode([space.smallest, space.largest])
    names = ("smallest", "largest")
    for name, macs, parameters in zip(names, supernet.macs(genes), supernet.n_parameters(genes), strict=True):
        console.print(f"{name}: {format_count(int(macs))} MACs, {format_count(int(parameters))} parameters")
    if isinstance(supernet, TracedSupernet):
        _print_groups(console, supernet, all_rows)
    if picture is not None:
        if not isinstance(supernet, TracedSupernet):
            raise ValueError(f"{model} has a family made by hand, and no graph to draw; add --family traced")
        with replacing(picture) as temporary:
            temporary.write_text(drawn(supernet, model), encoding="utf-8")
        console.print(f"drawn: {picture}")


def _print_groups(console: Console, supernet: TracedSupernet, all_rows: bool) -> None:
    """What shrinks together, in a table; and why the rest cannot."""
    table = Table("choice", "shrinks", "units", "first weight", "axes", "seen whole by", box=None, pad_edge=False)
    rows = [(dial, group) for dial in supernet.dials for group in dial.groups]
    for dial, group in rows if all_rows else rows[:_MOST_ROWS]:
        kind = "heads" if group.heads else dial.role.replace("_", " ")
        table.add_row(dial.label, kind, str(group.n_units), group.name, str(len(group.spots)), ", ".join(group.mixed))
    # As wide as it is: what a narrow terminal wraps can still be read, what is cut off cannot.
    wide = Console(width=500, highlight=False)
    wide.print(table, width=Measurement.get(wide, wide.options, table).maximum)
    if not all_rows and len(rows) > _MOST_ROWS:
        console.print(f"and {len(rows) - _MOST_ROWS} more; --all shows them")
    for run, low in zip(supernet.runs, supernet.lowest, strict=True):
        where = run.container or "the network"
        console.print(f"{where}: {len(run.names)} residual blocks, at least {low} stay")
    why = Counter([*supernet.graph.reasons.values(), *supernet.problems.values()])
    for reason, n in why.most_common():
        console.print(f"fixed, {n}: {reason}", soft_wrap=True, markup=False)
