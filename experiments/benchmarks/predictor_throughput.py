"""python experiments/benchmarks/predictor_throughput.py --archs 100000

Architectures a second from genes to predicted values, features included, by every registered predictor, on the
published once-for-all space and one thread. The predictors take turns, so that the machine's changing speed falls on
all; the goal is 100,000.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from predictors import Subject, suitable_predictors
from supernet import create_supernet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=100_000, help="architectures per prediction")
    parser.add_argument("--train", type=int, default=200, help="architectures that the predictors learn from")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each predictor")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    supernet = create_supernet("ofa_mobilenetv3_w1.0")
    space, rng = supernet.space, np.random.default_rng(0)
    subject = Subject(space, supernet.cost_table)
    predictors = {name: make() for name, make in suitable_predictors(subject, "relative").items()}
    train, genes = space.sample_genes(arguments.train, rng), space.sample_genes(arguments.archs, rng)
    # Any positive values will do: what is learned does not change the time it takes to predict.
    y = supernet.macs(train) * rng.uniform(0.9, 1.1, size=len(train))
    fits: dict[str, float] = {}
    work: dict[str, Callable[[], object]] = {}
    for name, predictor in predictors.items():
        started = perf_counter()
        predictor.fit(train, y)
        fits[name] = perf_counter() - started
        work[name] = lambda predictor=predictor: predictor.predict(genes)

    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(arguments.rounds):
        for name, predict in work.items():
            start = perf_counter()
            predict()
            seconds[name].append(perf_counter() - start)
    table = Table("predictor", "architectures a second (median)", "slowest round", "fit, s")
    for name, times in seconds.items():
        table.add_row(
            name, f"{arguments.archs / median(times):,.0f}", f"{arguments.archs / max(times):,.0f}", f"{fits[name]:.2f}"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
