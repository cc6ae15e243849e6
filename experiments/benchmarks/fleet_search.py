"""python experiments/benchmarks/fleet_search.py --scores TABLE --latencies TABLE

One search for several devices against one for each, with as many evaluations in all: published accuracy of the
once-for-all MobileNetV3 and latencies on GPUs, as in `search_quality.py`, both with noise. An evaluation scores one
network, and measures it on every device. Of every device's reported front the hypervolume that it truly has, as a
share of the best known; means over devices and seeds, and the worst device. "apart, pooled" has every device's front
chosen from what all the searches have evaluated; "on MACs" is one search for accuracy and multiply-accumulates, whose
networks are then measured on the devices.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is loaded
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.search_problems import Problem, gpu_latency
from experiments.benchmarks.search_quality import Learner
from search import Objective, non_dominated, run_search
from search.front import Values
from search.tactics.model_based import ModelBased
from supernet.space import Genes

_BATCH = 4


class Fleet:
    """Problems of one accuracy on several devices."""

    def __init__(self, alone: Sequence[Problem]) -> None:
        self.alone = alone
        first = alone[0]
        latencies = [replace(one.objectives[1], name=f"latency {i}") for i, one in enumerate(alone)]
        macs = Objective("macs", "", False, lambda genes: np.asarray(first.supernet.macs(genes), dtype=float))
        self.together = replace(
            first,
            name="fleet",
            objectives=(first.objectives[0], *latencies, macs),
            noise=(first.noise[0], *(one.noise[1] for one in alone), 0.0),
            exact=(False, *(False for _ in alone), True),
        )
        self.learner = Learner(self.together)

    def search(self, fronts: Sequence[Sequence[int]], budget: int, seed: int) -> tuple[Genes, Values]:
        """What is evaluated, and how it looked."""
        n = len(self.together.objectives)
        tactic = ModelBased(self.together.space, n, seed, self.learner, fronts=fronts)
        noisy = self.together.noisy(seed)
        found = run_search(self.together.space, noisy, tactic=tactic, budget=budget, seed=seed, batch=_BATCH)
        return found.genes, found.losses

    def shares(self, genes: Genes, losses: Values, devices: Sequence[int]) -> list[float]:
        """Per device that of the front which is reported, by the models, of what was evaluated."""
        models = self.learner(genes, losses)
        foretold = np.stack([one.loss(one.values(genes)) for one in models], axis=1)
        return [self.alone[i].share(genes[non_dominated(foretold[:, [0, 1 + i]])]) for i in devices]


def shared(fleet: Fleet, budget: int, seed: int) -> list[float]:
    """One search, each network by the sum of what it adds to all fronts."""
    devices = range(len(fleet.alone))
    return fleet.shares(*fleet.search([(0, 1 + i) for i in devices], budget, seed), devices)


def apart(fleet: Fleet, budget: int, seed: int, pooled: bool = False) -> list[float]:
    """A search for every device, each with its part of the evaluations."""
    devices = range(len(fleet.alone))
    found = [fleet.search([(0, 1 + i)], budget // len(devices), 100 * seed + i) for i in devices]
    if pooled:
        return fleet.shares(np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found]), devices)
    return [fleet.shares(*found[i], [i])[0] for i in devices]


def on_macs(fleet: Fleet, budget: int, seed: int) -> list[float]:
    """One search for accuracy and multiply-accumulates."""
    devices = range(len(fleet.alone))
    return fleet.shares(*fleet.search([(0, len(devices) + 1)], budget, seed), devices)


_WAYS: dict[str, Callable[[Fleet, int, int], list[float]]] = {
    "apart": apart,
    "apart, pooled": lambda fleet, budget, seed: apart(fleet, budget, seed, pooled=True),
    "on MACs": on_macs,
    "shared": shared,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=Path, required=True, help="table of scored sub-networks, gzipped CSV")
    parser.add_argument("--latencies", type=Path, required=True, help="table of measured sub-networks, gzipped CSV")
    parser.add_argument("--devices", nargs="+", default=["v100_32", "titan_rtx_64", "2080ti_64", "2080ti_1"])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[50, 100, 200], help="in all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(_WAYS), choices=list(_WAYS))
    arguments = parser.parse_args()
    fleet = Fleet([gpu_latency(arguments.scores, arguments.latencies, name) for name in arguments.devices])
    table = Table("% of the best: mean (worst device)", *map(str, arguments.evaluations), *arguments.devices)
    for way in arguments.ways:
        cells, last = [], np.empty(0)
        for budget in arguments.evaluations:
            last = 100 * np.mean([_WAYS[way](fleet, budget, seed) for seed in range(arguments.seeds)], axis=0)
            cells.append(f"{last.mean():.1f} ({last.min():.1f})")
        table.add_row(way, *cells, *(f"{one:.1f}" for one in last))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
