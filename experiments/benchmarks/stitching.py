"""python experiments/benchmarks/stitching.py --out runs/stitching

What stitching trained networks gives (SN-Net, Pan et al. 2023). The networks of a stitched recipe each learn the data
alone. They are stitched with random stitches and with fitted ones, and both are trained further by random stitches, as
is each network alone, at the same rates and for as many steps (the stitched ones run `n` sub-networks in each). Test
accuracy of every sub-network before and after. The last row is one elastic supernet of the large network alone, shrunk
gradually for as many multiply-accumulates as training the networks and then the fitted stitches took: of its
sub-networks the one of the most MACs up to each stitched one's. Interrupted, the same command carries on with the seed
that it was at.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from experiments.benchmarks.trainings import cost
from experiments.data import create_data
from experiments.data.image_data import SPLITS, ImageData
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe
from experiments.settings.training import RandomSamplingSettings
from supernet.architecture import Architecture
from supernet.files import read_json, write_json
from supernet.registry import create_supernet, open_supernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.space.roles import roles_of
from supernet.stitching import StitchedSupernet
from supernet.training import Phase, Schedule, Static, Trainer, gradual_shrinking, plain, random_sampling

_RECIPE = Path(__file__).with_suffix(".toml")


def plain_digits(seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """scikit-learn's 1797 digits of 8x8 pixels: 1000 to learn from, 300 for validation, 497 for the test."""
    digits: Any = load_digits()
    images, labels = torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)
    parts = torch.from_numpy(np.random.default_rng(seed).permutation(len(labels))).split([1000, 300, 497])
    return {name: (images[rows], labels[rows]) for name, rows in zip(SPLITS, parts, strict=True)}


def run(recipe: Recipe, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One comparison; what was done with the seed before is read."""
    path = options.out / f"seed-{seed}.json"
    if path.exists():
        return read_json(path)
    training = recipe.training
    assert isinstance(training, RandomSamplingSettings)
    made = open_supernet(recipe.supernet.name, options.classes, options.channels, seed=seed, **recipe.supernet.settings)
    net = made.network
    assert isinstance(net, StitchedSupernet)
    data = create_data(
        recipe.data, seed=seed, resolution=max(net.space.resolutions), cache_folder=options.out / "decoded"
    )
    ends = [arch for arch in net.space if net.route(arch).skipped is None]
    alone = _train_alone(
        recipe, net, ends, replace(training.schedule.schedule, epochs=options.alone, warmup_epochs=0.5), data, seed
    )
    for anchor, model in zip(net.anchors, alone, strict=True):
        _take(anchor, model)
    further = Schedule(options.epochs, training.schedule.peak_lr / 4)
    fitted = copy.deepcopy(net)
    fitted.initialise(data.calibration_batches(recipe.score.calibration_images, recipe.score.batch_size))
    archs = list(net.space)
    rows: dict[str, list[float]] = {}
    for name, one in (("random", net), ("fitted", fitted)):
        rows[f"{name}, before"] = _scores(recipe, one, archs, data)
        _train(recipe, one, random_sampling(one.space, further, training.n), data, seed + 1000)
        rows[f"{name}, after"] = _scores(recipe, one, archs, data)
    rows["alone, further"] = [
        _score(recipe, model, net.space.resolutions[-1], data)
        for model in _train_alone(recipe, net, ends, further, data, seed + 1000, alone)
    ]
    macs = made.macs(made.space.encode(archs)).tolist()
    steps = data.steps_per_epoch
    spent = (
        3.0
        * steps
        * (
            options.alone * sum(macs[archs.index(arch)] for arch in ends)
            + options.epochs * training.n * float(np.mean(macs))
        )
    )
    rows["elastic, at equal cost"] = _elastic(recipe, options, data, seed, macs, spent)
    result = {"seed": seed, "macs": macs, "ends": [archs.index(arch) for arch in ends], "accuracies": rows}
    write_json(path, result)
    return result


def _train_alone(
    recipe: Recipe, net: StitchedSupernet, ends: Sequence[Architecture], schedule: Schedule, data: ImageData, seed: int,
    models: Sequence[nn.Module] | None = None,
) -> list[nn.Module]:  # fmt: skip
    """Each network alone."""
    models = [net.extract(arch) for arch in ends] if models is None else [copy.deepcopy(model) for model in models]
    for model in models:
        static = Static(model.train(), data.resolution)
        _train(recipe, static, plain(static.space, schedule), data, seed)
    return list(models)


def _elastic(
    recipe: Recipe, options: argparse.Namespace, data: ImageData, seed: int, macs: Sequence[int], spent: float
) -> list[float]:
    """Accuracies of sub-networks of the large network, shrunk for what the stitching spent, up to each of `macs`."""
    given, training = recipe.supernet.settings, recipe.training
    assert isinstance(training, RandomSamplingSettings)
    settings = {"model": given["models"][-1], "model_args": given["model_args"][-1], "family": "traced"}
    supernet = create_supernet(
        "elastic", options.classes, options.channels, seed=seed, **settings, fractions=(0.25, 0.5, 0.75),
        widths=(0.5, 0.75), multiple_of=4, resolutions=[data.resolution],
    )  # fmt: skip
    rate, largest = training.schedule.schedule.peak_lr, Schedule(2, training.schedule.schedule.peak_lr, 1)

    def phases(epochs: int) -> tuple[Phase, ...]:
        return gradual_shrinking(supernet.space, Schedule(epochs, rate), largest, roles=roles_of(supernet))

    one, two = (cost(supernet, phases(epochs), data.steps_per_epoch, seed) for epochs in (1, 2))
    epochs = max(1, 1 + round((spent - one) / (two - one)))
    _train(recipe, supernet, phases(epochs), data, seed)
    genes = supernet.space.sample_genes(5000, np.random.default_rng(seed))
    genes = np.concatenate([genes, supernet.space.encode([supernet.space.smallest, supernet.space.largest])])
    costs = supernet.macs(genes)
    found = []
    for limit in macs:
        within = np.where(costs <= limit, costs, -1)
        (arch,) = supernet.space.decode(genes[[int(within.argmax() if within.max() > 0 else costs.argmin())]])
        found.append(_score(recipe, supernet.extract(arch), arch.resolution, data))
    return found


def _take(anchor: nn.Module, model: nn.Module) -> None:
    """Load an extracted network, a row of stem, blocks and head, back into its anchor."""
    stem, *blocks, head = model.children()
    anchor.stem.load_state_dict(stem.state_dict())  # type: ignore[union-attr]
    anchor.blocks.load_state_dict(nn.ModuleList(blocks).state_dict())  # type: ignore[union-attr]
    anchor.head.load_state_dict(head.state_dict())  # type: ignore[union-attr]


def _train(recipe: Recipe, net: Any, phases: tuple[Phase, ...], data: ImageData, seed: int) -> None:
    optimisation = recipe.optimisation
    Trainer(
        net, phases, data, seed=seed, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
        engine=recipe.engine.engine(data.n_classes),
    ).run()  # fmt: skip


def _scores(recipe: Recipe, net: StitchedSupernet, archs: Sequence[Architecture], data: ImageData) -> list[float]:
    return [_score(recipe, net.extract(arch), arch.resolution, data) for arch in archs]


def _score(recipe: Recipe, model: nn.Module, resolution: int, data: ImageData) -> float:
    """Accuracy in [0, 1] on test, with statistics of its own."""
    score = recipe.score
    recalibrate(model, data.calibration_batches(score.calibration_images, score.batch_size), resolution)
    return evaluate(model.eval(), data.evaluation_batches("test", score.batch_size), resolution).value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=_RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--alone", type=int, default=30, help="epochs of every network alone, before")
    parser.add_argument("--epochs", type=int, default=10, help="of the stitched networks")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    results = [run(recipe, seed, options) for seed in options.seeds]
    write_json(options.out / "stitching.json", {"provenance": provenance(recipe.digest, 0), "results": results})
    for result in results:
        table = Table(
            "", *(f"{macs / 1e6:.2f} M" for macs in result["macs"]), title=f"seed {result['seed']}, test, %", box=None
        )
        for name, values in result["accuracies"].items():
            cells = [f"{100 * value:.1f}" for value in values]
            if len(cells) < len(result["macs"]):
                cells = [cells.pop(0) if i in result["ends"] else "" for i in range(len(result["macs"]))]
            table.add_row(name, *cells)
        Console(width=150).print(table)


if __name__ == "__main__":
    main()
