"""python experiments/benchmarks/stopping.py --data ofa_mbv3_gpu_latency.csv.gz

When `supernet profile --until "error <= 5%"` would stop, on published measurements: the covering design of campaigns is
drawn from a table, a predictor is fitted to growing parts of it, as a campaign does, and the first part is looked for
at which the goal says that it is met. How many of the stops are right on a thousand held out, and how many more
measurements are they than the first moment at which the error on these was below the limit?
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.latency_predictors import read
from predictors import RidgePredictor, Subject
from predictors.protocol import mean_error
from predictors.stopping import Goal
from supernet import create_supernet
from supernet.space.design import covering_subset

_FIRST, _GROWTH = 10, 1.2  # as in `experiments.measuring.campaign`
_HELD_OUT = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table of measured sub-networks, gzipped CSV")
    parser.add_argument("--network", default="ofa_mobilenetv3_w1.2", help="the supernet they are of")
    parser.add_argument("--until", default="error <= 5%", help="the goal, about the error")
    parser.add_argument("--most", type=int, default=60, help="measured at most")
    parser.add_argument("--seeds", type=int, default=8, help="draws")
    arguments = parser.parse_args()

    supernet, goal = create_supernet(arguments.network), Goal.parse(arguments.until)
    genes, devices = read(arguments.data, supernet.space)
    terms = Subject(supernet.space, supernet.cost_table).terms
    table = Table("device", "stops", "right", "measured", "first possible", "error at the stops, %")
    everything: list[tuple[int, int | None, float]] = []
    for device, y in devices.items():
        stops: list[tuple[int, int | None, float]] = []
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            test, pool = order[:_HELD_OUT], order[_HELD_OUT:]
            design = pool[covering_subset(supernet.space, genes[pool], arguments.most, supernet.macs, seed)]
            first, n = None, _FIRST
            while n <= arguments.most:
                predictor = RidgePredictor(terms, "relative").fit(genes[design[:n]], y[design[:n]])
                error = mean_error(y[test], predictor.predict(genes[test]), "relative")
                first = n if first is None and error <= goal.limit else first
                if goal.met(goal.progress(y[design[:n]], predictor.out_of_fold_)):
                    stops.append((n, first, error))
                    break
                n = math.ceil(_GROWTH * n)
        everything += stops
        table.add_row(device, *_cells(stops, goal.limit))
    table.add_row("all", *_cells(everything, goal.limit))
    Console(width=140).print(table)


def _cells(stops: list[tuple[int, int | None, float]], limit: float) -> list[str]:
    if not stops:
        return ["0", "", "", "", ""]
    right = sum(error <= limit for _, _, error in stops)
    known = [(n, first) for n, first, _ in stops if first is not None]
    ratio = np.mean([n for n, _ in known]) / np.mean([first for _, first in known]) if known else float("nan")
    errors = [100 * error for *_, error in stops]
    measured = f"{np.mean([n for n, *_ in stops]):.1f}"
    possible = f"{np.mean([first for _, first in known]):.1f} ({ratio:.2f} times as many)" if known else "never"
    return [str(len(stops)), str(right), measured, possible, f"{np.mean(errors):.1f}, at most {max(errors):.2f}"]


if __name__ == "__main__":
    main()
