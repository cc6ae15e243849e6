"""python experiments/benchmarks/accuracy_predictors.py --data ofa_mbv3_imagenet_accuracy.csv.gz

How well each predictor ranks once-for-all MobileNetV3 sub-networks by accuracy on ImageNet from a few scores: Kendall
τ, mean error in points and how many of the 90 % intervals hold, on all that was not learned from; means over draws.
The file is a table with columns r, d0.., ks0.., e0.. (0: the block is absent) and ``top1_mean`` in percent.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
from rich.console import Console

from experiments.benchmarks.latency_predictors import read_genes, table
from predictors import Subject, suitable_predictors
from predictors.card import kendall_tau
from supernet import create_supernet

_SHOWN = ("τ", "error, points", "90 % hold", "width, points", "fit s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table of scored sub-networks, gzipped CSV")
    parser.add_argument("--network", default="ofa_mobilenetv3_w1.0", help="the supernet they are of")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200], help="numbers of scored ones")
    parser.add_argument("--seeds", type=int, default=3, help="random draws")
    parser.add_argument("--predictors", nargs="+", default=["gaussian_process"], help="registered names")
    arguments = parser.parse_args()

    supernet = create_supernet(arguments.network)
    genes, rows = read_genes(arguments.data, supernet.space)
    y = np.array([float(row["top1_mean"]) / 100 for row in rows])
    makers = suitable_predictors(Subject(supernet.space, supernet.cost_table), "value", names=arguments.predictors)
    results = {name: {n: [] for n in arguments.sizes} for name in makers}
    for seed in range(arguments.seeds):
        order = np.random.default_rng(seed).permutation(len(y))
        for n in arguments.sizes:
            train, test = order[:n], order[n:]
            for name, make in makers.items():
                started = perf_counter()
                predictor = make().fit(genes[train], y[train])
                seconds = perf_counter() - started
                predicted = predictor.predict(genes[test])
                lower, upper = predictor.predict_interval(genes[test], 0.9).T
                results[name][n].append(
                    {
                        "τ": kendall_tau(y[test], predicted),
                        "error, points": 100 * float(np.abs(predicted - y[test]).mean()),
                        "90 % hold": 100 * float(np.mean((lower <= y[test]) & (y[test] <= upper))),
                        "width, points": 100 * float(np.mean(upper - lower)),
                        "fit s": seconds,
                    }
                )
    Console(width=200).print(table(f"means over {arguments.seeds} draws", results, _SHOWN))


if __name__ == "__main__":
    main()
