"""python experiments/benchmarks/accuracy_predictors.py --data ofa_mbv3_imagenet_accuracy.csv.gz

How well each predictor ranks once-for-all MobileNetV3 sub-networks by accuracy on ImageNet from a few scores: Kendall
τ, mean error in points and how many of the 90 % intervals hold, on all that was not learned from; means over draws.
The file is a table with columns r, d0.., ks0.., e0.. (0: the block is absent) and ``top1_mean`` in percent.

``--run RUN --scored 250`` has so many random sub-networks of a trained run scored instead (kept in the run, so that it
carries on), which is what the predictor has to do with a supernet of one's own and its small validation split.

``--searches`` learns from the first of every search (``first_run``, in the order of its evaluations) and is judged on
what that search found later, which is where a search needs its predictor; a row per search.
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
from experiments.progress import Reporter
from experiments.quantities import quality
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.subjects import subject as subject_of
from predictors import Subject, suitable_predictors
from predictors.card import kendall_tau
from predictors.protocol import Values
from supernet import create_supernet
from supernet.space import Genes

_SHOWN = ("τ", "error, points", "90 % hold", "width, points", "fit s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, help="a table of scored sub-networks, gzipped CSV")
    source.add_argument("--run", type=Path, help="a run whose sub-networks are scored")
    parser.add_argument("--scored", type=int, default=250, help="random sub-networks of the run")
    parser.add_argument("--network", default="ofa_mobilenetv3_w1.0", help="the supernet they are of")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200], help="numbers of scored ones")
    parser.add_argument("--seeds", type=int, default=3, help="random draws")
    parser.add_argument("--predictors", nargs="+", default=["gaussian_process"], help="registered names")
    parser.add_argument("--searches", action="store_true", help="learn from how a search began, not from random draws")
    arguments = parser.parse_args()

    if arguments.run is not None:
        subject, genes, y = _scored(arguments.run, arguments.scored)
        rows = []
    else:
        supernet = create_supernet(arguments.network)
        subject = Subject(supernet.space, supernet.cost_table)
        genes, rows = read_genes(arguments.data, supernet.space)
        y = np.array([float(row["top1_mean"]) / 100 for row in rows])
    makers = suitable_predictors(subject, "value", names=arguments.predictors)
    if arguments.searches:
        searches = np.array([row["first_run"] for row in rows])
        orders = [(f" {name}", np.flatnonzero(searches == name)) for name in dict.fromkeys(searches.tolist())]
    else:
        orders = [("", np.random.default_rng(seed).permutation(len(y))) for seed in range(arguments.seeds)]
    ends = dict.fromkeys(end for end, _ in orders)
    results = {name + end: {n: [] for n in arguments.sizes} for name in makers for end in ends}
    for end, order in orders:
        for n in arguments.sizes:
            train, test = order[:n], order[n:]
            for name, make in makers.items():
                started = perf_counter()
                predictor = make().fit(genes[train], y[train])
                seconds = perf_counter() - started
                predicted = predictor.predict(genes[test])
                lower, upper = predictor.predict_interval(genes[test], 0.9).T
                results[name + end][n].append(
                    {
                        "τ": kendall_tau(y[test], predicted),
                        "error, points": 100 * float(np.abs(predicted - y[test]).mean()),
                        "90 % hold": 100 * float(np.mean((lower <= y[test]) & (y[test] <= upper))),
                        "width, points": 100 * float(np.mean(upper - lower)),
                        "fit s": seconds,
                    }
                )
    Console(width=200).print(table(f"means over {len(orders) // len(ends)} draws", results, _SHOWN))


def _scored(path: Path, n: int) -> tuple[Subject, Genes, Values]:
    """What the predictors of a run are about, genes (n_archs, n_genes), and scores (n_archs,)."""
    run = RunFolder(path)
    space = run.supernet.space
    archs = list(dict.fromkeys(space.sample(n, np.random.default_rng(0))))
    scores = Scorer(run).score(archs, "validation", Reporter())
    metric = quality(run.recipe.kinds)
    y = np.array([scores[arch.id].metrics[metric.name] for arch in archs])
    spread, noise = 100 * float(y.std()), 100 * float(np.sqrt((y * (1 - y)).mean() / run.data.n_images("validation")))
    print(
        f"{len(y)} scored, {100 * y.min():.1f} to {100 * y.max():.1f} %, spread {spread:.2f}, noise {noise:.2f} points"
    )
    return subject_of(run, metric), space.encode(archs), y


if __name__ == "__main__":
    main()
