"""python experiments/benchmarks/latency_predictors.py --data ofa_mbv3_gpu_latency.csv.gz

How well each predictor knows the latency of once-for-all MobileNetV3 sub-networks on real GPUs from a few measured
ones, and how well it knows that: error, median error, share within 10 % and Kendall τ on 1,000 architectures held out;
how many of the 90 % intervals hold, also nearest the front and among the smallest, and how wide they are; how far the
probability of a budget is from how often it is held, and its Brier score. Means over devices and seeds, and with
--devices for each device. With --design, those that are learned from are not a random sample but the covering design
of campaigns. The file is a table with columns r, d0.., ks0.., e0.. (0: the block is absent) and one column ``lat_ms_*``
per device.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import csv
import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from predictors import BoostingPredictor, OneHot, Predictor, Subject, suitable_predictors
from predictors.card import kendall_tau
from predictors.protocol import Values
from supernet import create_supernet
from supernet.space import Gene, Genes, SearchSpace
from supernet.space.design import covering_subset

_SHOWN = ("error %", "median %", "within 10 %", "τ", "fit s")
_SURE = ("90 % hold", "width %", "near front", "smallest fifth", "budgets off", "Brier")


def read(path: Path, space: SearchSpace) -> tuple[Genes, dict[str, Values]]:
    """Genes (n_archs, n_genes) and seconds (n_archs,) by device."""
    genes, rows = read_genes(path, space)
    devices = [name for name in rows[0] if name.startswith("lat_ms_")]
    return genes, {name.removeprefix("lat_ms_"): np.array([float(r[name]) / 1e3 for r in rows]) for name in devices}


def read_genes(path: Path, space: SearchSpace) -> tuple[Genes, list[dict[str, str]]]:
    """Genes (n_archs, n_genes) and the rows of a table of once-for-all sub-networks."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    genes = np.zeros((len(rows), len(space.genes)), dtype=np.int64)
    for i, gene in enumerate(space.genes):
        values = [int(row[_column(gene)]) or gene.choices[0] for row in rows]  # 0 is an absent block: any value will do
        genes[:, i] = np.searchsorted(gene.choices, values)
    return space.canonical(genes), rows


def _column(gene: Gene) -> str:
    if gene.stage is None:
        return "r"
    if gene.block is None:
        return f"d{gene.stage}"
    return {"kernel": "ks", "expand": "e"}[gene.name] + str(4 * gene.stage + gene.block)


def judge(predictor: Predictor, genes: Genes, y: Values, size: Values) -> dict[str, Any]:
    """What is shown of a fitted predictor, on y (n_archs,) of genes it has not seen, with their MACs (n_archs,)."""
    predicted = predictor.predict(genes)
    error = np.abs(predicted / y - 1)
    lower, upper = predictor.predict_interval(genes, 0.9).T
    inside = (lower <= y) & (y <= upper)
    # The nearest to the front: the fastest for their size, a twentieth of all.
    speed = y / np.exp(np.polyval(np.polyfit(np.log(size), np.log(y), 2), np.log(size)))
    limits = np.quantile(y, np.linspace(0.05, 0.95, 19))
    said = np.concatenate([predictor.probability_below(genes, limit) for limit in limits])
    held = np.concatenate([(y <= limit).astype(float) for limit in limits])
    bins = np.minimum((said * 10).astype(int), 9)
    sums = [np.bincount(bins, of, minlength=10) for of in (said, held, np.ones_like(said))]
    return {
        "error %": 100 * float(error.mean()),
        "median %": 100 * float(np.median(error)),
        "within 10 %": 100 * float(np.mean(error <= 0.1)),
        "τ": kendall_tau(y, predicted),
        "90 % hold": 100 * float(inside.mean()),
        "width %": 100 * float(np.mean((upper - lower) / predicted)),
        "near front": 100 * float(inside[speed <= np.quantile(speed, 0.05)].mean()),
        "smallest fifth": 100 * float(inside[size <= np.quantile(size, 0.2)].mean()),
        "budgets off": np.stack(sums),
        "Brier": float(np.mean((said - held) ** 2)),
    }


def table(title: str, results: Mapping[str, Mapping[int, list[dict[str, Any]]]], shown: tuple[str, ...]) -> Table:
    """Predictors by row, means of what is shown over all that was judged by number of architectures."""
    made = Table("predictor", *shown, title=title)
    for name, by_size in results.items():
        sizes = " / ".join(map(str, by_size))
        cells = []
        for what in shown:
            means = [_mean([one[what] for one in found]) for found in by_size.values()]
            digits = 3 if what in ("τ", "Brier") else 2
            cells.append(" / ".join(f"{mean:.{digits}f}" for mean in means))
        made.add_row(f"{name}, n = {sizes}", *cells)
    return made


def _mean(found: list[Any]) -> float:
    """The mean; of sums by bin of what was said, held and counted, the mean distance of the former in points."""
    if np.ndim(found[0]) == 0:
        return float(np.mean(found))
    said, held, n = np.sum(found, axis=0)
    return 100 * float(np.mean(np.abs(said - held)[n > 0] / n[n > 0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table of measured sub-networks, gzipped CSV")
    parser.add_argument("--network", default="ofa_mobilenetv3_w1.2", help="the supernet they are of")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20, 50, 100, 200], help="numbers of measured ones")
    parser.add_argument("--seeds", type=int, default=3, help="random splits per device")
    parser.add_argument("--predictors", nargs="+", default=["ridge"], help="registered names, or 'xgboost on genes'")
    parser.add_argument("--devices", action="store_true", help="tables for every device, too")
    parser.add_argument("--design", action="store_true", help="learn from the covering design")
    arguments = parser.parse_args()

    supernet = create_supernet(arguments.network)
    space = supernet.space
    genes, seconds = read(arguments.data, space)
    subject, macs = Subject(space, supernet.cost_table), supernet.macs(genes).astype(float)
    names = [name for name in arguments.predictors if name != "xgboost on genes"]
    makers: dict[str, Callable[[], Predictor]] = suitable_predictors(subject, "relative", names=names) if names else {}
    if len(names) < len(arguments.predictors):
        makers["xgboost on genes"] = lambda: BoostingPredictor(OneHot(space), "relative")
    by_device: dict[str, dict[str, dict[int, list[dict[str, Any]]]]] = {}
    for device, y in seconds.items():
        results = by_device[device] = {name: {n: [] for n in arguments.sizes} for name in makers}
        for seed in range(arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(y))
            test, rest = order[:1000], order[1000:]
            for n in arguments.sizes:
                train = rest[:n]
                if arguments.design:
                    train = rest[covering_subset(space, genes[rest], n, supernet.macs, seed)]
                for name, make in makers.items():
                    started = perf_counter()
                    predictor = make().fit(genes[train], y[train])
                    found = {"fit s": perf_counter() - started, **judge(predictor, genes[test], y[test], macs[test])}
                    results[name][n].append(found)
    console = Console(width=200)
    for device, results in by_device.items() if arguments.devices else ():
        console.print(table(device, results, (*_SHOWN, *_SURE)))
    everything = {
        name: {n: [one for results in by_device.values() for one in results[name][n]] for n in arguments.sizes}
        for name in makers
    }
    title = f"means over {len(seconds)} devices and {arguments.seeds} seeds"
    console.print(table(title, everything, _SHOWN))
    console.print(table(title, everything, _SURE))


if __name__ == "__main__":
    main()
