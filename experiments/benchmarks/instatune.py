"""python experiments/benchmarks/instatune.py --out runs/instatune

Does fine-tuning as a supernet cost the full network anything, and are its sub-networks worth it (InstaTune, Sarah et
al. 2023)? The network of a fine-tuning recipe learns the data alone, as the recipe's phase `largest` has it; from these
weights it is fine-tuned twice for as many epochs and at the same rates: plainly, and as a supernet. On test: the full
network, and sub-networks of about half its multiply-accumulates, cut out of both after sorting by importance.
Interrupted, the same command carries on with the seed that it was at.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments.data import create_data
from experiments.data.image_data import ImageData
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe
from experiments.settings.training import FineTuningSettings
from supernet import Architecture, create_supernet
from supernet.files import read_json, write_json
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.space.roles import roles_of
from supernet.training import Largest, Phase, Trainer, plain

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits_fine_tuning.toml"
_DRAWN = 2000


def half(supernet: TimmSupernet[Any], n: int) -> list[Architecture]:
    """`n` different sub-networks of the largest resolution with the nearest to half of the full network's MACs."""
    space = supernet.space.restrict(resolution=(supernet.space.largest.resolution,))
    genes = np.unique(space.sample_genes(_DRAWN, np.random.default_rng(0), "architectures"), axis=0)
    archs = space.decode(genes)
    macs = supernet.macs(supernet.space.encode([space.largest, *archs]))
    order = np.argsort(np.abs(macs[1:] / macs[0] - 0.5), kind="stable")
    return [archs[i] for i in order[:n]]


def run(recipe: Recipe, seed: int, n_archs: int, out: Path) -> dict[str, Any]:
    """One comparison; what was done with the seed before is read."""
    path = out / f"seed-{seed}.json"
    if path.exists():
        return read_json(path)
    training = recipe.training
    assert isinstance(training, FineTuningSettings) and training.largest is not None
    digits = recipe.data.source == "digits"
    net = create_supernet(recipe.supernet.name, 10, 1 if digits else 3, seed=seed, **recipe.supernet.settings)
    assert isinstance(net, TimmSupernet)
    size = max(net.space.resolutions)
    data = create_data(recipe.data, seed=seed, resolution=size, cache_folder=out / "decoded")
    first, tuning = training.phases(net.space, roles_of(net))
    assert isinstance(first.sampler, Largest)
    _train(recipe, net, (first,), data, seed, out / f"{seed}-first")
    alone = copy.deepcopy(net)
    rows = {"before": _scores(net, [net.space.largest], data, recipe)}
    phases = plain(net.space, tuning.schedule, training.label_smoothing, tuning.clip)
    _train(recipe, alone, phases, data, seed + 1000, out / f"{seed}-plain")
    alone.sort_channels()
    _train(recipe, net, (tuning,), data, seed + 1000, out / f"{seed}-supernet")
    archs = [net.space.largest, *half(net, n_archs)]
    rows |= {name: _scores(one, archs, data, recipe) for name, one in (("plain", alone), ("supernet", net))}
    macs = net.macs(net.space.encode(archs))
    result = {"seed": seed, "scores": rows, "shares": (macs / macs[0]).tolist()}
    write_json(path, result)
    return result


def _train(
    recipe: Recipe, net: TimmSupernet[Any], phases: tuple[Phase, ...], data: ImageData, seed: int, folder: Path
) -> None:
    optimisation = recipe.optimisation
    Trainer(
        net, phases, data, seed=seed, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
        engine=recipe.engine.engine(10), folder=folder, save_seconds=60, keep=1,
    ).run()  # fmt: skip


def _scores(net: TimmSupernet[Any], archs: list[Architecture], data: ImageData, recipe: Recipe) -> list[float]:
    score = recipe.score
    calibration = list(data.calibration_batches(score.calibration_images, score.batch_size))
    found = []
    for arch in archs:
        subnet = recalibrate(net.extract(arch), calibration, arch.resolution).eval()
        found.append(evaluate(subnet, data.evaluation_batches("test", score.batch_size), arch.resolution).value)
    return found


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, kept for the next time")
    parser.add_argument("--recipe", type=Path, default=_RECIPE, help="of method fine_tuning, with a phase `largest`")
    parser.add_argument("--archs", type=int, default=8, help="sub-networks of half the MACs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of data, weights and sub-networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    if not isinstance(recipe.training, FineTuningSettings) or recipe.training.largest is None:
        parser.error(f"{options.recipe} has no method fine_tuning with a phase `largest` to begin from")
    results = [run(recipe, seed, options.archs, options.out) for seed in options.seeds]
    table = Table("seed", "network", "MACs", "before", "fine-tuned plainly", "as a supernet", "points", box=None)
    for result in results:
        scores = cast(dict[str, list[float]], result["scores"])
        for name, part in (("full", slice(0, 1)), (f"mean of {options.archs}", slice(1, None))):
            before = f"{scores['before'][0]:.2%}" if name == "full" else ""
            alone, tuned = (float(np.mean(scores[kind][part])) for kind in ("plain", "supernet"))
            share = float(np.mean(result["shares"][part]))
            table.add_row(
                str(result["seed"]), name, f"{share:.0%}", before, f"{alone:.2%}", f"{tuned:.2%}",
                f"{(tuned - alone) * 100:+.2f}",
            )  # fmt: skip
    Console(width=110).print(table)
    write_json(options.out / "instatune.json", {"provenance": provenance(recipe.digest, 0), "results": results})


if __name__ == "__main__":
    main()
