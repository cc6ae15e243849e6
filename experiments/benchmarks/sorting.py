"""python experiments/benchmarks/sorting.py runs/digits

What sorting channels by importance is worth: the largest network of a run's space is trained alone on the run's data
for some epochs; then networks of a fraction of its middle width are cut out of it, without any further training, from
the channels as they are, sorted, and in reverse. BatchNorm is recalibrated in every case.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.run_folder import RunFolder
from experiments.training.phases import alone_phases
from supernet import create_supernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.training import Trainer
from supernet.training.shrinking import keep_largest


def main() -> None:
    """Train, cut and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a run; its weights are not used")
    parser.add_argument("--epochs", type=int, default=6, help="of the largest network")
    parser.add_argument("--seeds", type=int, default=3, help="trainings")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run = RunFolder(options.run)
    score = run.recipe.score
    images = list(run.data.evaluation_batches("validation", score.batch_size))
    calibration = list(run.data.calibration_batches(score.calibration_images, score.batch_size))
    space = run.untrained_supernet.space
    expands = sorted({choice for gene in space.genes if gene.name == "expand" for choice in gene.choices})
    table = Table("seed", "expand", "unsorted", "sorted", "reversed", box=None)
    for seed in range(options.seeds):
        supernet = create_supernet(**(run.untrained_supernet.definition or {}), seed=seed)
        largest = keep_largest(space, dict.fromkeys((gene.name for gene in space.genes), 1))
        Trainer(supernet, alone_phases(run.recipe, supernet, largest, options.epochs), run.data, seed=seed).run()
        orders = {"unsorted": supernet, "sorted": copy.deepcopy(supernet), "reversed": copy.deepcopy(supernet)}
        orders["sorted"].sort_channels()
        orders["reversed"].sort_channels(least_important)
        for expand in expands:
            arch = space.restrict(**{g.name: g.choices[-1:] for g in largest.genes if g.name != "expand"})
            cut = arch.restrict(expand=(expand,)).largest
            accuracies = [
                evaluate(recalibrate(net.extract(cut), calibration, cut.resolution), images, cut.resolution).value
                for net in orders.values()
            ]
            table.add_row(str(seed), f"{expand:g} of {expands[-1]:g}", *(f"{accuracy:.1%}" for accuracy in accuracies))
    Console(width=100).print(table)


def least_important(weight: Tensor) -> Tensor:
    """The opposite of the default importance."""
    return -weight.abs().transpose(0, 1).flatten(1).sum(dim=1)


if __name__ == "__main__":
    main()
