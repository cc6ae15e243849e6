"""python experiments/benchmarks/pretrained_to_elastic.py experiments/recipes/digits.toml --epochs 8

How good sub-networks of a trained network are without any further training. The largest network of a recipe is trained
alone on its data; then sub-networks of about 75 and 50 % of its multiply-accumulates are cut out of it: channels as
they are, sorted by importance, and sorted with the layers corrected by least squares on some training images. BatchNorm
is recalibrated on the same images but where the layers are corrected. The resolution stays: no layer can make up for
pixels.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.run_folder import RunFolder
from experiments.training.phases import alone_phases
from supernet.architecture import Architecture
from supernet.networks.importance import gradients_of, importance_named
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.scoring.correction import correct
from supernet.space import SearchSpace
from supernet.training import Trainer
from supernet.training.shrinking import keep_largest


def main() -> None:
    """Train, cut and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--epochs", type=int, default=8, help="of the largest network")
    parser.add_argument("--seeds", type=int, default=1, help="trainings")
    parser.add_argument("--n", type=int, default=6, help="sub-networks of each size")
    parser.add_argument("--images", type=int, default=512, help="for the correction and for the statistics")
    parser.add_argument("--importance", nargs="+", default=["l1"], help="criteria to sort by")
    parser.add_argument("--ridge", type=float, nargs="+", default=[0.01], help="penalties of the correction")
    parser.add_argument("--weights", type=Path, help="where the trained network is kept, to look at it again")
    parser.add_argument("--depth", action="store_true", help="blocks are left out, too; default widths alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.start(options.recipe, Path(folder) / "run")
        for seed in range(options.seeds):
            show(run, seed, options)


def show(run: RunFolder, seed: int, options: argparse.Namespace) -> None:
    """Train with one seed, and print the table of what its sub-networks score."""
    torch.manual_seed(seed)
    supernet: Any = run.new_supernet()
    space = supernet.space
    if options.weights is not None and options.weights.exists():
        supernet.load_state_dict(torch.load(options.weights, weights_only=True))
    else:
        largest = keep_largest(space, dict.fromkeys((gene.name for gene in space.genes), 1))
        phases, settings = alone_phases(run.recipe, supernet, largest, options.epochs), run.recipe.optimisation
        engine = run.recipe.engine.engine(run.n_outputs)
        Trainer(
            supernet, phases, run.data, seed=seed, engine=engine, weight_decay=settings.weight_decay,
            momentum=settings.momentum,
        ).run()  # fmt: skip
        if options.weights is not None:
            torch.save(supernet.state_dict(), options.weights)
    supernet.eval()
    images = list(run.data.evaluation_batches("validation", run.recipe.score.batch_size))
    calibration = list(run.data.calibration_batches(options.images, min(options.images, 256)))
    labelled = list(run.data.train_batches(0, 0))[:8]
    orders = {"as they are": copy.deepcopy(supernet)}
    for name in options.importance:
        orders[name] = copy.deepcopy(supernet)
        call = lambda x, net=orders[name]: net(x, net.space.largest)  # noqa: E731
        with gradients_of(orders[name], labelled, call=call):
            orders[name].sort_channels(importance_named(name))
    columns = [*orders, *(f"{name}, ridge {ridge:g}" for name in options.importance for ridge in options.ridge)]
    whole = accuracy(supernet, space.largest, calibration, images)
    table = Table("MACs", *columns, title=f"seed {seed}: the largest has {whole:.1%}", box=None)
    for share in (0.75, 0.5):
        found: dict[str, list[float]] = {column: [] for column in columns}
        for arch in cut_to(supernet, share, options.n, options.depth, seed):
            for name, network in orders.items():
                found[name].append(accuracy(network, arch, calibration, images))
            for name in options.importance:
                for ridge in options.ridge:
                    subnet = correct(orders[name], arch, calibration, ridge)
                    found[f"{name}, ridge {ridge:g}"].append(evaluate(subnet, images, arch.resolution).value)
        table.add_row(f"{share:.0%}", *(f"{np.mean(values):.1%}" if values else "none" for values in found.values()))
    Console(width=160).print(table)


def cut_to(supernet: Any, share: float, n: int, depth: bool, seed: int) -> list[Architecture]:
    """Random sub-networks of the largest resolution with this share of its MACs, to within 4 points."""
    space: SearchSpace = supernet.space
    wide = space.restrict(resolution=space.resolutions[-1:])
    if any(gene.name == "kernel" for gene in space.genes):
        wide = wide.restrict(kernel=[max(gene.choices[-1] for gene in space.genes if gene.name == "kernel")])
    whole = int(supernet.macs(space.encode([space.largest]))[0])
    found: list[Architecture] = []
    rng = np.random.default_rng(seed)
    for _ in range(200):
        archs = wide.sample(256, rng)
        if not depth:
            deepest = [len(stage) for stage in space.largest.stages]
            archs = [a for a in archs if [len(stage) for stage in a.stages] == deepest]
        if archs:
            shares = supernet.macs(space.encode(archs)) / whole
            found += [arch for arch, one in zip(archs, shares, strict=True) if abs(one - share) < 0.04]
        if len(found) >= n:
            break
    return found[:n]


def accuracy(supernet: Any, arch: Architecture, calibration: list[Any], images: list[Any]) -> float:
    """On validation, with statistics of its own."""
    return evaluate(recalibrate(supernet.extract(arch), calibration, arch.resolution), images, arch.resolution).value


if __name__ == "__main__":
    main()
