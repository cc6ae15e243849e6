"""python experiments/benchmarks/accuracy_over_cost.py runs/shrinking-2k runs/shrinking-5k --out accuracy_over_cost.png

How much training each way of `shrinking.py` needs for an accuracy: its results for several budgets, one folder each, as
a picture and a table. Cost is in epochs of single stage at the images that it had in the first folder. Between two
budgets the mean accuracy is taken to be linear in the logarithm of the cost.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.table import Table

from experiments.report.pictures import COLOURS, figure_of_panels
from supernet.files import read_json, replacing

_COLOURS = ("front", "random", "uniform", "ends", "timm", "local")
_FIRST = "single stage"

Points = dict[float, list[tuple[float, float]]]  # by cost: mean and smallest, in points, of every seed


def main() -> None:
    """Print the table, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="of results of shrinking.py, one for each budget")
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG or SVG")
    parser.add_argument("--trainings", nargs="+", default=[_FIRST, "one schedule"], help="which to draw")
    parser.add_argument("--split", default="test", choices=("validation", "test"))
    options = parser.parse_args()
    found = {name: points(options.folders, name, options.split) for name in options.trainings}
    if absent := [name for name, of_cost in found.items() if not of_cost]:
        parser.error(f"no results of {', '.join(absent)} in {', '.join(map(str, options.folders))}")
    Console(width=130).print(table(found))
    draw(found, options.split, options.out)


def points(folders: list[Path], training: str, split: str) -> Points:
    """Cost and accuracies of a training, over all folders and seeds."""
    of_cost: Points = defaultdict(list)
    unit: float | None = None
    for folder in folders:
        results = [read_json(path) for path in sorted(folder.glob("*-[0-9]*.json"))]
        budget = next((r["images"] for r in results if r["training"].split(" at ")[0] == _FIRST), None)
        if budget is None:
            raise SystemExit(f"{folder} has no result of {_FIRST!r}, by which costs are told")
        unit = unit or budget
        for result in results:
            if result["training"] == training:
                accuracies = [100 * row[split] for row in result["rows"]]
                cost = round(budget / unit * result["epochs"], 2)
                of_cost[cost].append((float(np.mean(accuracies)), accuracies[0]))
    return dict(sorted(of_cost.items()))


def table(found: dict[str, Points]) -> Table:
    """Accuracy at every cost, and the cost at which the first training's accuracies are reached."""
    table = Table("training", "cost, epochs", "seeds", "mean", "smallest", "cost of the first for that mean", box=None)
    first = found[next(iter(found))]
    known = np.array([(np.log(cost), np.mean([m for m, _ in seeds])) for cost, seeds in first.items()])
    for name, of_cost in found.items():
        for cost, seeds in of_cost.items():
            means, smallest = np.array(seeds).T
            spread = f" ± {means.std(ddof=1):.1f}" if len(means) > 1 else ""
            row: list[Any] = [
                name,
                f"{cost:g}",
                str(len(seeds)),
                f"{means.mean():.1f}{spread}",
                f"{smallest.mean():.1f}",
            ]
            inside = known[0, 1] <= means.mean() <= known[-1, 1]
            same = float(np.exp(np.interp(means.mean(), known[:, 1], known[:, 0])))
            table.add_row(*row, f"{same:.1f}" if inside and of_cost is not first else "")
    return table


def draw(found: dict[str, Points], split: str, path: Path) -> None:
    """The mean over sub-networks and the smallest one; a line through the seeds' means, a dot for each seed."""
    with figure_of_panels(2, width=9.6, height=4.0) as (figure, panels):
        for place, (axes, title) in enumerate(zip(panels, ("mean of the sub-networks", "smallest"), strict=True)):
            for colour, (name, of_cost) in zip(_COLOURS, found.items(), strict=False):
                costs = list(of_cost)
                values = [[seed[place] for seed in seeds] for seeds in of_cost.values()]
                axes.plot(costs, [np.mean(v) for v in values], color=COLOURS[colour], label=name, linewidth=1.6)
                for cost, of_seeds in zip(costs, values, strict=True):
                    axes.scatter([cost] * len(of_seeds), of_seeds, color=COLOURS[colour], s=14)
            axes.set_xscale("log")
            ticks = sorted({cost for of_cost in found.values() for cost in of_cost})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_title(title, fontsize=11)
            axes.set_xlabel("cost, epochs of single stage at the smallest budget")
            axes.set_ylabel(f"accuracy on {split}, %" if place == 0 else "")
        panels[0].legend(loc="lower right")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=140, facecolor="white")


if __name__ == "__main__":
    main()
