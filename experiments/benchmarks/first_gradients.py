"""python experiments/benchmarks/first_gradients.py

Why a learning rate should grow when sub-networks come: the gradient of the first steps of `shrinking.py`'s trainings
against that of the largest network alone, after this one was trained for two epochs: how much longer it is, and the
cosine between the two, means over eight batches.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from experiments.benchmarks.shrinking import Settings
from experiments.benchmarks.trainings import gradual, single
from experiments.settings.recipe import load_recipe
from supernet import Architecture
from supernet.training import Phase
from supernet.training.gradients import accumulate_gradients

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits.toml"
_TRAININGS = {
    "single stage, 2 random": single,
    "one schedule, 1 random": gradual,
    "one schedule, 2 random": partial(gradual, n_random=2),
}


def main() -> None:
    """Train the largest network, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=_RECIPE, help="its data, supernet, epochs and learning rate")
    parser.add_argument("--images", type=int, default=5120, help="training images of an epoch")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and sub-networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load_recipe(options.recipe), Path(folder), 0)
        bench, data = settings.bench(options.seed, None), settings.data(options.seed, options.images)
        net = bench.supernet
        settings.train(net, gradual(bench)[:1], data, options.seed, "largest")
        net.train()
        batches = list(itertools.islice(data.train_batches(bench.epochs), 8))
        table = Table("training", "times as long", "cosine", box=None)
        for name, make in _TRAININGS.items():
            phase, rows = make(bench)[-1], []
            for step, (images, labels) in enumerate(batches):
                archs = phase.sampler(phase.space_at(0.0), options.seed, step)  # type: ignore[operator]
                alone, together = (gradient(net, images, labels, some, phase) for some in (archs[:1], archs))
                rows.append((float(together.norm() / alone.norm()), float(torch.cosine_similarity(alone, together, 0))))
            length, cosine = np.mean(rows, axis=0)
            table.add_row(name, f"{length:.1f}", f"{cosine:.2f}")
        Console().print(table)


def gradient(net: nn.Module, images: Tensor, labels: Tensor, archs: list[Architecture], phase: Phase) -> Tensor:
    """(n_weights,) of a step of these architectures."""
    net.zero_grad()
    accumulate_gradients(net, images, labels, archs, phase.loss, 0.0, None, phase.regularise)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


if __name__ == "__main__":
    main()
