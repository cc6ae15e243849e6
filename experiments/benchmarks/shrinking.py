"""python experiments/benchmarks/shrinking.py --out runs/shrinking

Which training of a supernet is the best for the same cost? Single stage (all is open at once), progressive shrinking in
its published phases and inside one schedule, and what is between them, one difference at a time: when and in which
order ranges open, labels, the phase of the largest network alone, sorting, whom a step trains. With the recipe of a
transformer (`--recipe experiments/recipes/digits_pathways.toml`) also what only these can have.

Cost is counted and not timed: the multiply-accumulates of every sub-network that a step trains, three times for forward
and backward, and once those of a frozen teacher. An epoch of every training has as many composed images as make its
cost that of single stage with `--images`; on a data set the number of epochs does that, to the nearest. "each alone" is
not a training of a supernet: every sub-network by itself from fresh weights, for all epochs and images, at the same
highest rate; give it first, and differences are to it. With `--rates` every training is done at each of these instead
of the recipe's highest rate.
Accuracy is the mean over sub-networks spread evenly over the MACs, or drawn (`--drawn`), smallest and largest
included, on validation and on test. Differences are to the first training with the same seed; their interval (90 %)
takes the spread among seeds from all trainings together. Interrupted, the same command carries on.
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student
from torch import nn

from experiments.benchmarks.trainings import ALL, AVERAGED, TRAININGS, Bench, cost, single
from experiments.data import create_data
from experiments.data.image_data import ImageData
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe
from experiments.settings.training import NoTrainingSettings
from supernet import Architecture, create_supernet
from supernet.files import read_json, write_json
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.space.sampling import sample_in_bins
from supernet.training import Phase, Schedule, Static, Trainer, plain

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits.toml"
_SPLITS = ("validation", "test")
_ALONE = "each alone"


@dataclass(frozen=True)
class Settings:
    """What a table is made of."""

    recipe: Recipe
    out: Path
    n_archs: int
    drawn: bool = False

    def data(self, seed: int, train_images: int) -> ImageData:
        """The recipe's, with so many training images."""
        data = self.recipe.data.model_copy(update={"train_images": train_images, "workers": 0})
        resolution = max(self.supernet(seed).space.resolutions)
        return create_data(data, seed=seed, resolution=resolution, cache_folder=self.out / "decoded")

    def supernet(self, seed: int) -> TimmSupernet[Any]:
        """With the first weights of a seed."""
        digits = self.recipe.data.source == "digits"
        settings = self.recipe.supernet.settings
        return create_supernet(self.recipe.supernet.name, 10, 1 if digits else 3, seed=seed, **settings)

    def train(
        self, network: Any, phases: Sequence[Phase], data: ImageData, seed: int, name: str, ema: float | None = None
    ) -> None:
        """Train with the recipe's engine; a checkpoint that was left is gone on from, and removed in the end."""
        folder = self.out / name
        optimisation = self.recipe.optimisation
        Trainer(
            network, phases, data, seed=seed, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
            engine=replace(self.recipe.engine.engine(10), ema=ema), folder=folder, save_seconds=60, keep=1,
        ).run()  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)

    def score(
        self, arch: Architecture, network: nn.Module, supernet: TimmSupernet[Any], data: ImageData
    ) -> dict[str, Any]:
        """Its MACs and accuracies."""
        row: dict[str, Any] = {"id": arch.id, "macs": int(supernet.macs(supernet.space.encode([arch]))[0])}
        for split in _SPLITS:
            images = data.evaluation_batches(split, self.recipe.score.batch_size)
            row[split] = evaluate(network, images, arch.resolution).value
        return row

    def bench(self, seed: int, epochs: int | None, rate: float | None = None) -> Bench:
        """The supernet, with epochs and rate of the recipe where none are given."""
        assert not isinstance(self.recipe.training, NoTrainingSettings)
        supernet = self.supernet(seed)
        phases = self.recipe.training.phases(supernet.space)
        whole = sum(phase.schedule.epochs for phase in phases)
        return Bench(supernet, epochs or whole, rate or max(phase.schedule.peak_lr for phase in phases))

    def file(self, label: str, seed: int) -> Path:
        """Where a result is kept."""
        return self.out / f"{re.sub('[^a-z0-9.]+', '-', label)}-{seed}.json"


def subnets(supernet: TimmSupernet[Any], n: int, drawn: bool) -> list[Architecture]:
    """Smallest, largest, and `n` - 2 between them: the nearest to even steps of MACs, the fewest first; or drawn."""
    space = supernet.space
    if drawn:
        return [space.smallest, *space.sample(n - 2, np.random.default_rng(1)), space.largest]
    pool = space.decode(np.unique(sample_in_bins(space, 50 * n, np.random.default_rng(5), supernet.macs), axis=0))
    archs = [arch for arch in pool if arch not in (space.smallest, space.largest)]
    macs = supernet.macs(space.encode([space.smallest, *archs, space.largest]))
    steps = np.linspace(macs[0], macs[-1], n)[1:-1]
    return [space.smallest, *(archs[int(np.abs(macs[1:-1] - step).argmin())] for step in steps), space.largest]


def run(name: str, rate: float | None, seed: int, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Train, score, and write the result; what is there is read."""
    label = name if rate is None else f"{name} at {rate:g}"
    path = settings.file(label, seed)
    if path.exists():
        return read_json(path)
    bench = settings.bench(seed, options.epochs, rate)
    batch, n_images = settings.recipe.data.batch_size, options.images
    base = cost(bench.supernet, single(bench), n_images // batch, seed)
    started = time.process_time()
    train = alone if name == _ALONE else together
    rows, n_images, work = train(name, label, seed, bench, settings, n_images, base)
    result = {
        "training": label, "seed": seed, "images": n_images, "epochs": bench.epochs, "cost": work / base,
        "cpu_seconds": time.process_time() - started, "rows": rows,
    }  # fmt: skip
    write_json(path, result)
    return result


Rows = list[dict[str, Any]]


def together(
    name: str, label: str, seed: int, bench: Bench, settings: Settings, n_images: int, base: float
) -> tuple[Rows, int, float]:
    """Train the supernet for what costs `base`; the accuracies, images per epoch, and the cost.

    Where images are composed an epoch has more or fewer of them; a data set has what it has, and is seen less often.
    """
    supernet, phases = bench.supernet, ALL[name](bench)
    batch, averaged = settings.recipe.data.batch_size, AVERAGED.get(name)
    less = base / cost(supernet, phases, n_images // batch, seed)
    if settings.recipe.data.source == "digits":
        n_images = max(1, round(n_images / batch * less)) * batch
    else:
        phases = ALL[name](replace(bench, epochs=max(1, round(bench.epochs * less))))
    data = settings.data(seed, n_images)
    settings.train(supernet, phases, data, seed, settings.file(label, seed).stem, averaged)
    score, rows = settings.recipe.score, []
    calibration = list(data.calibration_batches(score.calibration_images, score.batch_size))
    for arch in subnets(supernet, settings.n_archs, settings.drawn):
        subnet = recalibrate(supernet.extract(arch), calibration, arch.resolution).eval()
        rows.append(settings.score(arch, subnet, supernet, data))
    return rows, n_images, cost(supernet, phases, n_images // batch, seed)


def alone(
    name: str, label: str, seed: int, bench: Bench, settings: Settings, n_images: int, base: float
) -> tuple[Rows, int, float]:
    """Train every one of the sub-networks by itself, from fresh weights, for all epochs."""
    data, rows, work = settings.data(seed, n_images), [], 0.0
    schedule = Schedule(bench.epochs, bench.peak_lr, 1)
    for i, arch in enumerate(subnets(bench.supernet, settings.n_archs, settings.drawn)):
        kept = settings.out / "alone" / f"{arch.id}-{bench.peak_lr:g}-{seed}.json"
        if not kept.exists():
            network = settings.supernet(seed + 1000 * (i + 1)).extract(arch)
            static = Static(network, arch.resolution)
            phases = plain(static.space, schedule, clip=single(bench)[-1].clip)
            settings.train(static, phases, data, seed, f"{arch.id}-{bench.peak_lr:g}-{seed}")
            write_json(kept, settings.score(arch, network.eval(), bench.supernet, data))
        rows.append(read_json(kept))
        work += 3.0 * rows[-1]["macs"] * bench.epochs * (n_images // settings.recipe.data.batch_size)
    return rows, n_images, work


def summarise(results: Sequence[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Per training mean, smallest and largest in points, and the difference of the mean to the first training's."""
    means = {(r["training"], r["seed"]): 100 * np.mean([row[split] for row in r["rows"]]) for r in results}
    names = list(dict.fromkeys(r["training"] for r in results))
    seeds = {name: [r["seed"] for r in results if r["training"] == name] for name in names}
    paired = {
        name: np.array([means[name, s] - means[names[0], s] for s in seeds[name] if s in seeds[names[0]]])
        for name in names[1:]
    }
    squares = sum(float(((d - d.mean()) ** 2).sum()) for d in paired.values() if len(d))
    freedom = sum(len(d) - 1 for d in paired.values() if len(d))
    rows = []
    for name in names:
        found = [r for r in results if r["training"] == name]
        ends = [100 * float(np.mean([r["rows"][i][split] for r in found])) for i in (0, -1)]
        row = {
            "training": name, "seeds": len(found), "mean": float(np.mean([means[name, s] for s in seeds[name]])),
            "smallest": ends[0], "largest": ends[1], "cost": float(np.mean([r["cost"] for r in found])),
        }  # fmt: skip
        if name in paired and len(paired[name]):
            row["difference"] = float(paired[name].mean())
            if freedom:
                row["interval"] = float(student.ppf(0.95, freedom) * math.sqrt(squares / freedom / len(paired[name])))
        rows.append(row)
    return rows


def show(rows: Sequence[dict[str, Any]], split: str, console: Console) -> None:
    """One table."""
    table = Table("training", "seeds", "cost", "mean", "smallest", "largest", "mean against the first", box=None)
    for row in rows:
        difference = f"{row['difference']:+.2f}" if "difference" in row else ""
        difference += f" ± {row['interval']:.2f}" if "interval" in row else ""
        numbers = (f"{row[name]:.2f}" for name in ("cost", "mean", "smallest", "largest"))
        table.add_row(row["training"], str(row["seeds"]), *numbers, difference)
    console.print(f"on {split}")
    console.print(table)


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, kept for the next time")
    parser.add_argument("--recipe", type=Path, default=_RECIPE, help="its data, supernet, epochs and learning rate")
    parser.add_argument("--data", help="folder of the data, instead of the recipe's")
    parser.add_argument("--images", type=int, default=5120, help="training images of an epoch of the first training")
    parser.add_argument("--epochs", type=int, help="of every training but the published phases; default the recipe's")
    parser.add_argument("--archs", type=int, default=12, help="sub-networks, smallest and largest included")
    parser.add_argument("--drawn", action="store_true", help="every choice alike, instead of even over the MACs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of data, weights and sub-networks")
    parser.add_argument("--rates", type=float, nargs="+", help="highest learning rates; default the recipe's")
    parser.add_argument("--only", nargs="+", metavar="TRAINING", help=f"some of {', '.join(map(repr, (_ALONE, *ALL)))}")
    parser.add_argument("--show", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args()
    known = (_ALONE, *ALL)
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"no training is called {unknown[0]!r}; there are {', '.join(map(repr, known))}")
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    if options.data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": options.data})})
    settings, console = Settings(recipe, options.out, options.archs, options.drawn), Console(width=130)
    results = []
    names: list[str] = options.only or list(TRAININGS)
    rates: list[float | None] = options.rates or [None]
    seeds: list[int] = options.seeds
    for name, rate, seed in itertools.product(names, rates, seeds):
        there = settings.file(name if rate is None else f"{name} at {rate:g}", seed).exists()
        if options.show and not there:
            continue
        results.append(result := run(name, rate, seed, settings, options))
        mean = np.mean([row["validation"] for row in result["rows"]])
        if not there:
            label, seconds = result["training"], result["cpu_seconds"]
            console.print(f"{label}, seed {seed}: {mean:.1%}, {seconds:.0f} s", highlight=False)
    tables = {split: summarise(results, split) for split in _SPLITS}
    for split, rows in tables.items():
        show(rows, split, console)
    write_json(options.out / "shrinking.json", {"provenance": provenance(recipe.digest, 0), "tables": tables})


if __name__ == "__main__":
    main()
