"""python experiments/benchmarks/parts.py --out runs/parts

Are several supernets, each over a compact part of the space, better than one over all of it (AutoDistil, Xu et al.
2022)? One supernet of the recipe's space, and one for each of `k` parts by MACs, all shrinking inside one schedule; the
parts together cost as much as the whole, counted as in shrinking.py. Accuracy of the ends of every part and of random
networks of it, from the supernet of the part and from that of the whole space. Interrupted, the same command carries
on with the supernet that it was at.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.shrinking import Settings
from experiments.benchmarks.trainings import Bench, cost, gradual
from experiments.provenance import provenance
from experiments.settings.recipe import load_recipe
from supernet import Architecture, elastic
from supernet.files import read_json, write_json
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.training import Trainer

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits.toml"


def train(
    supernet: TimmSupernet[Any], share: float, archs: Sequence[Architecture], settings: Settings, seed: int, n: int,
    path: Path,
) -> list[float]:  # fmt: skip
    """Train at `share` of the cost of the whole space with `n` images an epoch; test accuracies (n_archs,)."""
    if path.exists():
        return read_json(path)["accuracies"]
    whole, batch = settings.bench(seed, None), settings.recipe.data.batch_size
    phases = gradual(Bench(supernet, whole.epochs, whole.peak_lr))
    paid = cost(whole.supernet, gradual(whole), n // batch, seed)
    images = max(1, round(n / batch * share * paid / cost(supernet, phases, n // batch, seed))) * batch
    data, recipe, folder = settings.data(seed, images), settings.recipe, path.with_suffix("")
    optimisation = recipe.optimisation
    Trainer(
        supernet, phases, data, seed=seed, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
        engine=recipe.engine.engine(10), folder=folder, save_seconds=60, keep=1,
    ).run()  # fmt: skip
    calibration = list(data.calibration_batches(min(images, recipe.score.calibration_images), recipe.score.batch_size))
    accuracies = []
    for arch in archs:
        subnet = recalibrate(supernet.extract(arch), calibration, arch.resolution).eval()
        found = evaluate(subnet, data.evaluation_batches("test", recipe.score.batch_size), arch.resolution)
        accuracies.append(found.value)
    write_json(path, {"accuracies": accuracies, "images": images, "archs": [arch.id for arch in archs]})
    shutil.rmtree(folder, ignore_errors=True)
    return accuracies


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, kept for the next time")
    parser.add_argument("--recipe", type=Path, default=_RECIPE, help="of composed digits: its supernet and epochs")
    parser.add_argument("--k", type=int, default=2, help="parts")
    parser.add_argument("--images", type=int, default=5120, help="training images of an epoch of the whole space")
    parser.add_argument("--archs", type=int, default=6, help="networks of a part, its ends included")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of data, weights and sub-networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = Settings(load_recipe(options.recipe), options.out, options.archs)
    if settings.recipe.data.source != "digits":
        parser.error(f"{options.recipe} has other data than composed digits, of which there are as many as one likes")
    table = Table("seed", "part", "sub-networks", "from the whole", "from its own supernet", "points", box=None)
    rows = []
    for seed in options.seeds:
        whole = settings.supernet(seed)
        parts = whole.space.partition(by=whole.macs, k=options.k)
        rng = np.random.default_rng(7)
        chosen = [[p.smallest, *p.sample(options.archs - 2, rng), p.largest] for p in parts]
        flat = [arch for archs in chosen for arch in archs]
        shared = train(whole, 1.0, flat, settings, seed, options.images, options.out / f"whole-{seed}.json")
        for i, (part, archs) in enumerate(zip(parts, chosen, strict=True)):
            own = elastic(settings.supernet(seed).extract(part.largest), space=part, importance=None)
            path = options.out / f"part-{i + 1}-of-{options.k}-{seed}.json"
            alone = train(own, 1 / options.k, archs, settings, seed, options.images, path)
            before = float(np.mean(shared[i * options.archs : (i + 1) * options.archs]))
            after = float(np.mean(alone))
            rows.append({"seed": seed, "part": i + 1, "whole": before, "own": after})
            table.add_row(
                str(seed), f"{i + 1} of {options.k}", f"{part.size:,}", f"{before:.2%}", f"{after:.2%}",
                f"{(after - before) * 100:+.2f}",
            )  # fmt: skip
    console = Console(width=110)
    console.print(table)
    gain = np.mean([row["own"] - row["whole"] for row in rows]) * 100
    console.print(f"mean {gain:+.2f} points over {len(options.seeds)} seeds, on test", highlight=False)
    write_json(options.out / "parts.json", {"provenance": provenance(settings.recipe.digest, 0), "rows": rows})


if __name__ == "__main__":
    main()
