"""python experiments/benchmarks/multi_architecture.py experiments/recipes/digits_multi_stage_vit.toml

What masks cost: a batch on several architectures in one pass, against the same images and architectures one after the
other, each on its own slice. Per number of architectures the ratio of the multiply-accumulates, and that of the time of
forward and backward pass: the two take turns, in random order, and the median of the ratios of all turns is shown with
their quartiles.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.settings.recipe import load_recipe
from supernet import create_supernet
from supernet.networks.masking import forward_of_many, union
from supernet.training import CrossEntropy, Cycles
from supernet.training.gradients import accumulate_gradients


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="whose supernet masks")
    parser.add_argument("--archs", type=int, nargs="+", default=[2, 4, 8, 16], help="architectures per batch")
    parser.add_argument("--batch", type=int, default=64, help="images; a multiple of all of these")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    supernet_of = load_recipe(options.recipe).supernet
    supernet = create_supernet(supernet_of.name, 10, 1, **supernet_of.settings).to(options.device).train()
    forward_of_many(supernet)
    space, rng = supernet.space, np.random.default_rng(0)
    images = torch.randn(options.batch, 1, *2 * space.resolutions[-1:], device=options.device)
    labels = torch.arange(options.batch, device=options.device) % 10

    def seconds(one_pass: bool) -> float:
        supernet.zero_grad()
        started = time.perf_counter()
        losses = accumulate_gradients(
            supernet, images, labels, archs, CrossEntropy(), split_batch=True, one_pass=one_pass
        )
        losses.tolist()  # waits for a GPU
        return time.perf_counter() - started

    table = Table("architectures", "multiply-accumulates", "time", "quartiles", box=None)
    for n in options.archs:
        ratios, work = [], []
        for turn in range(options.turns + 2):
            archs = Cycles()(space, n, 0, turn)
            macs = supernet.macs(space.encode([union(space, archs), *archs]))
            found = {one_pass: seconds(one_pass) for one_pass in rng.permutation([False, True]).tolist()}
            if turn >= 2:  # the first ones warm up
                ratios.append(found[True] / found[False])
                work.append(macs[0] / macs[1:].mean())
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        table.add_row(str(n), f"{np.mean(work):.2f}", f"{middle:.2f}", f"{low:.2f} to {high:.2f}")
    console = Console()
    console.print("one pass with masks / one after the other")
    console.print(table)


if __name__ == "__main__":
    main()
