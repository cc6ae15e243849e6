"""python experiments/benchmarks/shrinking.py --out runs/shrinking

Which training of a supernet is the best for the same cost? Single stage (all is open at once), progressive shrinking in
its published phases and inside one schedule, and what is between them, one difference at a time: when and in which
order ranges open, labels, the phase of the largest network alone, sorting, whom a step trains. With the recipe of a
transformer (`--recipe experiments/recipes/digits_pathways.toml`) also what only these can have.

Cost is counted and not timed: the multiply-accumulates of every sub-network that a step trains, three times for forward
and backward, and once those of a frozen teacher. Where images are composed (`source = "digits"`) an epoch of every
training has as many as make its cost that of the first one; elsewhere epochs are alike and the cost is in the table.
Accuracy is the mean over sub-networks spread evenly over the MACs, smallest and largest included, on validation and on
test. Differences are to the first training with the same seed; their interval (90 %) takes the spread among seeds from
all trainings together. Interrupted, the same command carries on.
"""

from __future__ import annotations

import argparse
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import t as student

from experiments.data import create_data
from experiments.data.image_data import ImageData
from experiments.provenance import provenance
from experiments.settings.recipe import Recipe, load_recipe
from experiments.settings.training import NoTrainingSettings
from supernet import Architecture, create_supernet
from supernet.files import read_json, write_json
from supernet.networks.masking import union
from supernet.networks.timm_supernet import TimmSupernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.space.sampling import sample_in_bins
from supernet.training import (
    AttentionRelation,
    InPlaceDistillation,
    Pathways,
    Phase,
    Sandwich,
    Schedule,
    Trainer,
    Uniform,
    gradual_shrinking,
    progressive_shrinking,
    random_sampling,
    single_stage,
    with_pathways,
)
from supernet.training.shrinking import keep_largest

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits.toml"
_LARGEST_FIRST = 2  # epochs
_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Bench:
    """What all trainings have in common: the supernet, epochs and the highest learning rate of the recipe."""

    supernet: TimmSupernet[Any]
    epochs: int
    peak_lr: float

    def schedules(self, largest: int = _LARGEST_FIRST) -> tuple[Schedule | None, Schedule]:
        """Of the largest network alone, and of the rest of the epochs; the first one warms up."""
        if not largest:
            return None, Schedule(self.epochs, self.peak_lr, 1)
        return Schedule(largest, self.peak_lr, min(1, largest / 2)), Schedule(self.epochs - largest, self.peak_lr)


def single(bench: Bench, largest: int = _LARGEST_FIRST, **changes: Any) -> tuple[Phase, ...]:
    """Single stage: all open from the start."""
    first, schedule = bench.schedules(largest)
    return single_stage(bench.supernet.space, schedule, warmup=first, **{"label_weight": (1.0, 0.5), **changes})


def gradual(bench: Bench, largest: int = _LARGEST_FIRST, **changes: Any) -> tuple[Phase, ...]:
    """Shrinking inside one schedule."""
    first, schedule = bench.schedules(largest)
    return gradual_shrinking(bench.supernet.space, schedule, first, **changes)


def one_curve(bench: Bench, largest: int = _LARGEST_FIRST) -> tuple[Phase, ...]:
    """The same with the largest network's epochs in that schedule, too: its rate does not start again after them."""
    (whole,) = gradual(bench, 0)
    alone, space = largest / bench.epochs, bench.supernet.space
    one = replace(space, resolutions=space.resolutions[-1:])
    one = keep_largest(one, {gene.name: 1 for gene in space.genes if gene.name != "resolution"})
    return (replace(whole, opening=((alone, one), *((alone + until, part) for until, part in whole.opening))),)


def gradual_without_smallest(bench: Bench) -> tuple[Phase, ...]:
    """The same without the smallest of what is open in every step: three random ones."""
    first, last = gradual(bench)
    return first, replace(last, sampler=Sandwich(3, smallest=False))


def published(bench: Bench, sandwich: bool = False) -> tuple[Phase, ...]:
    """Progressive shrinking in phases; with higher rates than published after the first, since there are few epochs."""
    rate = bench.peak_lr
    phases = progressive_shrinking(
        bench.supernet.space,
        largest=Schedule(6, 2 * rate, 1),
        full=Schedule(3, 2 * rate),
        step=Schedule(1, 0.6 * rate),
        last_step=Schedule(3, 1.2 * rate),
        subnets={"kernel": 1, "depth": 2, "middle_width": 2},
    )
    if not sandwich:
        return phases
    inside = gradual(bench)[-1]
    return (
        phases[0],
        *(
            replace(p, sampler=inside.sampler, loss=inside.loss, clip=inside.clip, regularise="largest")
            for p in phases[1:]
        ),
    )


def published_in_one_schedule(bench: Bench) -> tuple[Phase, ...]:
    """The published sub-networks, teacher and loss, with ranges that open over half of one schedule."""
    phases, inside = published(bench), gradual(bench, largest=4, opening=0.5)
    last = phases[-1]
    return inside[0], replace(inside[1], sampler=Uniform(2), loss=last.loss, regularise="all", clip=None)


_WIDTH_FIRST = (("middle_width", "heads"), ("depth", "switch"), ("outer_width", "embedding"))
_TOGETHER = (("depth", "switch", "middle_width", "heads", "outer_width", "embedding"),)
_KERNEL_LAST = (("depth", "switch"), ("middle_width", "heads"), ("outer_width", "embedding"), ("kernel",))

Make = Callable[[Bench], tuple[Phase, ...]]
TRAININGS: dict[str, Make] = {
    "single stage": single,
    "one schedule": gradual,
    "one schedule, largest within": one_curve,
    "published phases": published,
    "opening: over 1/3": partial(gradual, opening=1 / 3),
    "opening: over 2/3": partial(gradual, opening=2 / 3),
    "order: expansion before depth": partial(gradual, step_by_step=_WIDTH_FIRST),
    "order: depth and expansion together": partial(gradual, step_by_step=_TOGETHER),
    "order: kernel last": partial(gradual, at_once=(), step_by_step=_KERNEL_LAST),
    "labels: fade": partial(gradual, label_weight=(1.0, 0.0)),
    "labels: half": partial(gradual, label_weight=(0.5, 0.5)),
    "labels: alone": partial(gradual, label_weight=(1.0, 1.0)),
    "largest first: not at all": partial(gradual, largest=0),
    "largest first: 1 epoch": partial(gradual, largest=1),
    "largest first: 4 epochs": partial(gradual, largest=4),
    "sorted after the largest": partial(gradual, sort=True),
    "without the smallest": gradual_without_smallest,
    "published phases with the sandwich": partial(published, sandwich=True),
    "published steps in one schedule": published_in_one_schedule,
    "average of weights": gradual,
    "single stage, labels fade": partial(single, label_weight=(1.0, 0.0)),
    "single stage, labels at half": partial(single, label_weight=(0.5, 0.5)),
}


def _related_in_place(phases: Sequence[Phase], weight: float) -> tuple[Phase, ...]:
    """What `with_relation` refuses, to show why."""
    relation = AttentionRelation(heads=2, weight=weight)
    return tuple(
        replace(phase, loss=replace(phase.loss, relation=relation))
        if isinstance(phase.loss, InPlaceDistillation)
        else phase
        for phase in phases
    )


_AVERAGED = {"average of weights": 0.998}
TRANSFORMERS: dict[str, Make] = {
    "attention to 1 of 4": lambda bench: with_pathways(gradual(bench), Pathways(4)),
    "attention to 1 of 4, near ones": lambda bench: with_pathways(gradual(bench), Pathways(4, window=6)),
    "relations among tokens": lambda bench: _related_in_place(gradual(bench), 1.0),
    "relations among tokens, a hundredth": lambda bench: _related_in_place(gradual(bench), 0.01),
}
"""What only transformers can have; attention counts as dense in the cost."""


def shared_out(bench: Bench, multi_architecture: bool) -> tuple[Phase, ...]:
    """Four drawn sub-networks per step, each on a quarter of the images."""
    largest, schedule = bench.schedules()
    return random_sampling(
        bench.supernet.space, schedule, 4, largest=largest, clip=1.0, split_batch=True,
        multi_architecture=multi_architecture,
    )  # fmt: skip


SHARED: dict[str, Make] = {
    "images shared out": partial(shared_out, multi_architecture=False),
    "several architectures per batch": partial(shared_out, multi_architecture=True),
}
"""What gives each sub-network its own images; the latter is for supernets that mask (digits_multi_stage_vit)."""
_ALL = TRAININGS | TRANSFORMERS | SHARED


def cost(supernet: TimmSupernet[Any], phases: Sequence[Phase], steps_per_epoch: int, seed: int) -> float:
    """Multiply-accumulates for one image of every step, summed over all of them."""
    space, total = supernet.space, 0.0
    whole = int(supernet.macs(space.encode([space.largest]))[0])
    step = 0
    for phase in phases:
        n_steps = phase.schedule.epochs * steps_per_epoch
        archs = []
        for i in range(n_steps):
            archs += phase.sampler(phase.space_at(i / n_steps), seed, step + i)  # type: ignore[operator]
        if phase.one_pass:  # what is masked is computed
            n = len(archs) // n_steps
            archs = [union(space, archs[i : i + n]) for i in range(0, len(archs), n)]
        macs = supernet.macs(space.encode(archs))
        total += 3.0 * float(macs.sum()) * n_steps / (len(archs) if phase.split_batch else n_steps)
        if phase.loss.teacher == "frozen":  # once for every step, at the resolution that its sub-networks share
            per_step = len(archs) // n_steps
            sizes = np.array([arch.resolution for arch in archs[::per_step]]) / space.largest.resolution
            total += whole * float((sizes**2).sum())
        step += n_steps
    return total


@dataclass(frozen=True)
class Settings:
    """What a table is made of."""

    recipe: Recipe
    out: Path
    n_archs: int

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

    def bench(self, seed: int, epochs: int | None) -> Bench:
        """The supernet, with epochs and rate of the recipe."""
        assert not isinstance(self.recipe.training, NoTrainingSettings)
        supernet = self.supernet(seed)
        phases = self.recipe.training.phases(supernet.space)
        whole = sum(phase.schedule.epochs for phase in phases)
        return Bench(supernet, epochs or whole, max(phase.schedule.peak_lr for phase in phases))


def spread(supernet: TimmSupernet[Any], n: int) -> list[Architecture]:
    """Smallest, largest, and the nearest to `n` - 2 even steps of MACs between them; the fewest MACs first."""
    space = supernet.space
    drawn = space.decode(np.unique(sample_in_bins(space, 50 * n, np.random.default_rng(5), supernet.macs), axis=0))
    archs = [arch for arch in drawn if arch not in (space.smallest, space.largest)]
    macs = supernet.macs(space.encode([space.smallest, *archs, space.largest]))
    steps = np.linspace(macs[0], macs[-1], n)[1:-1]
    return [space.smallest, *(archs[int(np.abs(macs[1:-1] - step).argmin())] for step in steps), space.largest]


def run(name: str, seed: int, settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Train, score, and write the result; what is there is read."""
    path = settings.out / f"{re.sub('[^a-z0-9]+', '-', name)}-{seed}.json"
    if path.exists():
        return read_json(path)
    bench = settings.bench(seed, options.epochs)
    supernet, phases = bench.supernet, _ALL[name](bench)
    batch, n_images = settings.recipe.data.batch_size, options.images
    base = cost(supernet, single(bench), n_images // batch, seed)
    work = cost(supernet, phases, n_images // batch, seed)
    if settings.recipe.data.source == "digits":
        n_images = max(1, round(n_images / batch * base / work)) * batch
        work = cost(supernet, phases, n_images // batch, seed)
    data = settings.data(seed, n_images)
    folder = path.with_suffix("")
    started = time.process_time()
    engine = replace(settings.recipe.engine.engine(10), ema=_AVERAGED.get(name))
    optimisation = settings.recipe.optimisation
    Trainer(
        supernet, phases, data, seed=seed, weight_decay=optimisation.weight_decay, momentum=optimisation.momentum,
        engine=engine, folder=folder, save_seconds=60, keep=1,
    ).run()  # fmt: skip
    seconds = time.process_time() - started
    score, rows = settings.recipe.score, []
    calibration = list(data.calibration_batches(score.calibration_images, score.batch_size))
    for arch in spread(supernet, settings.n_archs):
        subnet = recalibrate(supernet.extract(arch), calibration, arch.resolution).eval()
        row: dict[str, Any] = {"id": arch.id, "macs": int(supernet.macs(supernet.space.encode([arch]))[0])}
        for split in _SPLITS:
            row[split] = evaluate(subnet, data.evaluation_batches(split, score.batch_size), arch.resolution).value
        rows.append(row)
    result = {
        "training": name, "seed": seed, "images": n_images, "epochs": sum(p.schedule.epochs for p in phases),
        "cost": work / base, "cpu_seconds": seconds, "rows": rows,
    }  # fmt: skip
    write_json(path, result)
    shutil.rmtree(folder, ignore_errors=True)
    return result


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of data, weights and sub-networks")
    parser.add_argument("--only", nargs="+", metavar="TRAINING", help=f"some of: {', '.join(_ALL)}")
    parser.add_argument("--show", action="store_true", help="print what is there, train nothing")
    options = parser.parse_args()
    if unknown := [name for name in options.only or () if name not in _ALL]:
        parser.error(f"no training is called {unknown[0]!r}; there are {', '.join(_ALL)}")
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    if options.data:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": options.data})})
    settings, console = Settings(recipe, options.out, options.archs), Console(width=130)
    results = []
    for name in options.only or TRAININGS:
        for seed in options.seeds:
            there = (options.out / f"{re.sub('[^a-z0-9]+', '-', name)}-{seed}.json").exists()
            if options.show and not there:
                continue
            results.append(result := run(name, seed, settings, options))
            mean = np.mean([row["validation"] for row in result["rows"]])
            if not there:
                console.print(f"{name}, seed {seed}: {mean:.1%}, {result['cpu_seconds']:.0f} s", highlight=False)
    tables = {split: summarise(results, split) for split in _SPLITS}
    for split, rows in tables.items():
        show(rows, split, console)
    write_json(options.out / "shrinking.json", {"provenance": provenance(recipe.digest, 0), "tables": tables})


if __name__ == "__main__":
    main()
