"""python experiments/benchmarks/latency_predictors.py --data ofa_mbv3_gpu_latency.csv.gz

How well each predictor knows the latency of once-for-all MobileNetV3 sub-networks on real GPUs from a few measured
ones: error, share within 10 % and Kendall τ on 1,000 architectures held out, mean over devices and seeds. With
--design, those that are learned from are not a random sample but the covering design of campaigns. The file is a table
with columns r, d0.., ks0.., e0.. (0: the block is absent) and one column ``lat_ms_*`` per device.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from predictors import BlockCosts, BlockTerms, BoostingPredictor, Joined, OneHot, Predictor, RidgePredictor
from predictors.card import error_card
from predictors.protocol import Values
from supernet import create_supernet
from supernet.space import Gene, Genes, SearchSpace
from supernet.space.design import covering_subset


class TotalMacs:
    """One column, the multiply-accumulates of the whole network: what a latency model must beat."""

    names, groups, digest = ("macs",), ("macs",), "total macs"

    def __init__(self, macs: Callable[[Genes], Values]) -> None:
        self.macs = macs

    def __call__(self, genes: Genes) -> Values:
        return self.macs(genes)[:, None] / 1e8

    def dot(self, genes: Genes, coefficients: Values) -> Values:
        return self(genes) @ coefficients


def read(path: Path, space: SearchSpace) -> tuple[Genes, dict[str, Values]]:
    """Genes (n_archs, n_genes) and seconds (n_archs,) by device."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    genes = np.zeros((len(rows), len(space.genes)), dtype=np.int64)
    for i, gene in enumerate(space.genes):
        values = [int(row[_column(gene)]) or gene.choices[0] for row in rows]  # 0 is an absent block: any value will do
        genes[:, i] = np.searchsorted(gene.choices, values)
    devices = [name for name in rows[0] if name.startswith("lat_ms_")]
    seconds = {name.removeprefix("lat_ms_"): np.array([float(row[name]) / 1e3 for row in rows]) for name in devices}
    return space.canonical(genes), seconds


def _column(gene: Gene) -> str:
    if gene.stage is None:
        return "r"
    if gene.block is None:
        return f"d{gene.stage}"
    return {"kernel": "ks", "expand": "e"}[gene.name] + str(4 * gene.stage + gene.block)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the table of measured sub-networks, gzipped CSV")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 200, 500], help="numbers of measured ones")
    parser.add_argument("--seeds", type=int, default=2, help="random splits per device")
    parser.add_argument("--design", action="store_true", help="learn from the covering design")
    arguments = parser.parse_args()

    supernet = create_supernet("ofa_mobilenetv3_w1.0")
    space = supernet.space
    genes, seconds = read(arguments.data, space)
    one_hot, terms = OneHot(space), BlockTerms(space)
    costs = BlockCosts(space, lambda genes: supernet.costs(genes).macs.astype(float))
    total = TotalMacs(lambda genes: supernet.macs(genes).astype(float))
    both = Joined(terms, costs)
    makers: dict[str, Callable[[], Predictor]] = {
        "MACs, linear": lambda: RidgePredictor(total, "relative"),
        "XGBoost on genes": lambda: BoostingPredictor(one_hot, "relative"),
        "XGBoost on block MACs": lambda: BoostingPredictor(costs, "relative"),
        "ridge on genes": lambda: RidgePredictor(one_hot, "relative"),
        "ridge on block terms": lambda: RidgePredictor(terms, "relative"),
        "ridge on block terms and MACs": lambda: RidgePredictor(both, "relative"),
    }
    table = Table(title=f"error % / within 10 % / Kendall τ / 90 % intervals hold; {len(seconds)} devices")
    table.add_column("predictor")
    for n in arguments.sizes:
        table.add_column(f"n = {n}", justify="right")
    for name, make in makers.items():
        cells = []
        for n in arguments.sizes:
            cards = []
            for y in seconds.values():
                for seed in range(arguments.seeds):
                    order = np.random.default_rng(seed).permutation(len(y))
                    test, rest = order[:1000], order[1000:]
                    train = rest[:n]
                    if arguments.design:
                        train = rest[covering_subset(space, genes[rest], n, supernet.macs, seed)]
                    cards.append(error_card(make, genes[train], y[train], held_out=(genes[test], y[test])))
            error, within, tau, inside = (
                float(np.mean([getattr(card, field) for card in cards]))
                for field in ("mape", "within_10_percent", "kendall_tau", "interval_coverage")
            )
            cells.append(f"{error * 100:.1f} / {within * 100:.0f} / {tau:.3f} / {inside * 100:.0f}")
        table.add_row(name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
