"""python experiments/benchmarks/supernet_quality.py --data CIFAR10_FOLDER --out runs/quality

Are sub-networks taken from a supernet, without retraining, as good as the same networks trained alone?

For some sub-networks spread over the MAC range: test accuracy from the supernet against that of the same architecture
trained alone, from fresh weights, for as many epochs as the supernet's whole training, with the same batches, peak
learning rate and augmentation. Every main recipe, and ablations of them. All training goes through the project's own
trainer. Interrupted, the same command carries on; what is finished is kept in the folder.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from experiments.data import create_data
from experiments.data.image_data import ImageData
from experiments.provenance import provenance
from experiments.settings.sections import AugmentationSettings, DataSettings
from supernet import Architecture, SearchSpace, create_supernet
from supernet.families.inverted_residual import InvertedResidualSupernet
from supernet.files import read_json, write_json
from supernet.scoring.calibration import Evaluation, evaluate, recalibrate
from supernet.space.sampling import sample_in_bins
from supernet.training import (
    CrossEntropy,
    Phase,
    Sandwich,
    Schedule,
    Static,
    Trainer,
    Uniform,
    plain,
    progressive_shrinking,
    single_stage,
)

# The published class at 32 pixels: 17 million sub-networks, 0.48 to 3.04 million MACs.
SPACE = {
    "stages": [
        {"width": 16, "stride": 2, "act": "relu"},
        {"width": 24, "stride": 1, "se": True},
        {"width": 48, "stride": 2, "se": True},
    ],
    "stem_width": 8,
    "head_width": 128,
    "feature_width": 128,
    "kernels": (3, 5),
    "expands": (2, 3, 4),
    "depths": (1, 2, 3),
    "resolutions": (32,),
}
CALIBRATION_IMAGES, BATCH = 1000, 250
SHARES = (0.40, 0.20, 0.05, 0.15, 0.05, 0.15)  # of the epochs of progressive shrinking, phase by phase
PEAK_LR = 0.1


def sandwich(space: SearchSpace, epochs: int) -> tuple[Phase, ...]:
    """The single-stage recipe: largest, smallest and two random sub-networks a step, taught in place."""
    return single_stage(space, _schedule(epochs, PEAK_LR, warmup=True), n_random=2, label_weight=(1.0, 0.0))


def sandwich_without_distillation(space: SearchSpace, epochs: int) -> tuple[Phase, ...]:
    """The same with labels for all."""
    return (Phase("labels", space, _schedule(epochs, PEAK_LR, warmup=True), Sandwich(2), CrossEntropy(), clip=1.0),)


def uniform(space: SearchSpace, epochs: int) -> tuple[Phase, ...]:
    """The same with four random sub-networks a step in place of the sandwich."""
    return (Phase("uniform", space, _schedule(epochs, PEAK_LR, warmup=True), Uniform(4), CrossEntropy(), clip=1.0),)


def shrinking(space: SearchSpace, epochs: int, distillation_weight: float = 1.0) -> tuple[Phase, ...]:
    """Progressive shrinking; with higher rates than published after the first phase, since there are few epochs."""
    parts = [max(1, round(share * epochs)) for share in SHARES]
    parts[0] += epochs - sum(parts)
    largest, kernel, depth_step, depth_last, _, _ = parts
    return progressive_shrinking(
        space,
        largest=_schedule(largest, PEAK_LR, warmup=True),
        full=_schedule(kernel, PEAK_LR),
        step=_schedule(depth_step, 0.3 * PEAK_LR),
        last_step=_schedule(depth_last, 0.6 * PEAK_LR),
        distillation_weight=distillation_weight,
    )


def shrinking_without_distillation(space: SearchSpace, epochs: int) -> tuple[Phase, ...]:
    """Progressive shrinking on the labels alone."""
    return shrinking(space, epochs, distillation_weight=0.0)


def shrinking_without_sorting(space: SearchSpace, epochs: int) -> tuple[Phase, ...]:
    """Progressive shrinking with the channels in the order in which they were initialised."""
    return tuple(replace(phase, sort="none") for phase in shrinking(space, epochs))


MAIN: dict[str, Callable[[SearchSpace, int], tuple[Phase, ...]]] = {
    "sandwich": sandwich,
    "progressive shrinking": shrinking,
}
ABLATIONS: dict[str, Callable[[SearchSpace, int], tuple[Phase, ...]]] = {
    "sandwich without distillation": sandwich_without_distillation,
    "uniform instead of sandwich": uniform,
    "shrinking without distillation": shrinking_without_distillation,
    "shrinking without sorting": shrinking_without_sorting,
}


@dataclass(frozen=True)
class Settings:
    """What a comparison is made of; equal settings give equal numbers."""

    data: str
    n_images: int
    epochs: int
    n_archs: int
    device: str
    out: Path

    def images(self, seed: int) -> ImageData:
        """Training images drawn with the seed, and all test images."""
        data = DataSettings(
            source="folder",
            root=self.data,
            batch_size=64,
            train_images=self.n_images,
            validation_images=1000,
            evaluation_crop=1.0,
            workers=0,
            cache=True,
            augmentation=AugmentationSettings(crop_scale=(0.6, 1.0)),
        )
        return create_data(data, seed=seed, resolution=32, cache_folder=self.out / "decoded")


@dataclass(frozen=True)
class Task:
    """One training: of a supernet by a recipe, or (number ≥ 0) of one sub-network alone."""

    recipe: str
    seed: int
    number: int = -1

    @property
    def name(self) -> str:
        return f"seed{self.seed}/" + (self.recipe.replace(" ", "-") if self.number < 0 else f"alone-{self.number:02d}")


def main() -> None:
    """Train what is missing, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with train.tar and test.tar, or train/ and test/")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, kept for the next time")
    parser.add_argument("--images", type=int, default=6000, help="training images")
    parser.add_argument("--epochs", type=int, default=20, help="of every training")
    parser.add_argument("--archs", type=int, default=12, help="sub-networks, smallest and largest included")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of the main recipes and of the networks alone")
    parser.add_argument("--ablation-seeds", type=int, default=1, help="trainings of the ablations")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, each with one thread")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    settings = Settings(options.data, options.images, options.epochs, options.archs, options.device, options.out)
    tasks = [Task(recipe, seed) for seed in range(options.seeds) for recipe in MAIN]
    tasks += [Task("alone", seed, i) for seed in range(options.seeds) for i in reversed(range(options.archs))]
    tasks += [Task(recipe, seed) for seed in range(options.ablation_seeds) for recipe in ABLATIONS]
    run_all(tasks, settings, options.jobs)
    results = {task: read_json(result_path(options.out, task)) for task in tasks}
    summary = summarise(results)
    write_json(
        options.out / "quality.json",
        {
            "provenance": provenance("none", 0),
            "settings": {name: value for name, value in vars(options).items() if name not in ("data", "out", "jobs")},
            "summary": summary,
            "results": {task.name: result for task, result in results.items()},
        },
    )
    show(summary, results, settings)


def run_all(tasks: Sequence[Task], settings: Settings, jobs: int) -> None:
    """Every task that has no result yet, so many at a time in processes of their own."""
    missing = [task for task in tasks if not result_path(settings.out, task).exists()]
    if not missing:
        return
    settings.images(0)  # lays the index of the images down once
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        started = time.monotonic()
        futures = {pool.submit(run_task, task, settings): task for task in missing}
        for done, future in enumerate(as_completed(futures), start=1):
            result = future.result()
            accuracies = ", ".join(f"{row['accuracy']:.1%}" for row in result["rows"])
            left = (time.monotonic() - started) / done * (len(missing) - done)
            print(
                f"{done} of {len(missing)}, about {left / 60:.0f} min left  {futures[future].name}: {accuracies}",
                flush=True,
            )


def run_task(task: Task, settings: Settings) -> dict[str, Any]:
    """Train, score on the test images, and write the result."""
    torch.set_num_threads(1)
    supernet, data = fresh_supernet(task.seed), settings.images(task.seed)
    archs = choose(supernet, settings.n_archs)
    started = time.process_time()
    folder = settings.out / "checkpoints" / task.name
    if task.number >= 0:
        arch = archs[task.number]
        static = Static(supernet.extract(arch).to(settings.device), arch.resolution)
        phases = plain(static.space, _schedule(settings.epochs, PEAK_LR, warmup=True), clip=1.0)
        trainer = Trainer(static, phases, data, seed=task.seed, folder=folder, save_seconds=60)
        archs, extract = [arch], lambda _: static.model
    else:
        phases = (MAIN | ABLATIONS)[task.recipe](supernet.space, settings.epochs)
        supernet.to(settings.device)
        trainer = Trainer(supernet, phases, data, seed=task.seed, folder=folder, save_seconds=60)
        extract = supernet.extract
    epochs = trainer.run()
    rows = []
    for arch in archs:
        tracked = score(extract(arch), data, arch.resolution, calibrate=False)
        found = score(extract(arch), data, arch.resolution, calibrate=task.number < 0)
        macs = int(supernet.macs(supernet.space.encode([arch]))[0])
        rows.append(
            {"id": arch.id, "macs": macs, "accuracy": found.value, "loss": found.loss, "tracked": tracked.value}
        )
    result = {
        "recipe": task.recipe,
        "seed": task.seed,
        "rows": rows,
        "epochs": len(epochs),
        "n_images": data.n_images("test"),
        "cpu_seconds": time.process_time() - started,
    }
    write_json(result_path(settings.out, task), result)
    return result


def score(model: nn.Module, data: ImageData, resolution: int, calibrate: bool) -> Evaluation:
    """On the test images; recalibrated, or with the statistics that training left."""
    if calibrate:
        recalibrate(model, data.calibration_batches(CALIBRATION_IMAGES, BATCH), resolution)
    return evaluate(model.eval(), data.evaluation_batches("test", BATCH), resolution)


def choose(supernet: InvertedResidualSupernet, n: int) -> list[Architecture]:
    """Smallest, largest, and sub-networks spread evenly over the MACs between them; the fewest MACs first."""
    space = supernet.space
    ends, n_bins, n_each = [space.smallest, space.largest], n - 2, 3
    drawn = space.decode(sample_in_bins(space, n_each * n_bins, np.random.default_rng(5), supernet.macs, n_bins))
    # One of every bin: the first that is not the smallest or the largest itself.
    between = [next(arch for arch in drawn[number::n_bins] if arch not in ends) for number in range(n_bins)]
    archs = [*ends, *between]
    return sorted(archs, key=lambda arch: int(supernet.macs(space.encode([arch]))[0]))


def fresh_supernet(seed: int) -> InvertedResidualSupernet:
    """The supernet with the first weights of a seed."""
    supernet = create_supernet("mobilenetv3", 10, 3, seed=seed, **SPACE)
    assert isinstance(supernet, InvertedResidualSupernet)
    return supernet


def summarise(results: dict[Task, dict[str, Any]]) -> dict[str, Any]:
    """Per recipe the gaps to the networks alone, in points, over sub-networks and seeds."""
    alone = {(t.seed, t.number): r["rows"][0]["accuracy"] for t, r in results.items() if t.number >= 0}
    summary: dict[str, Any] = {}
    for recipe in (*MAIN, *ABLATIONS):
        found = [(task, result) for task, result in results.items() if task.recipe == recipe]
        if found:
            summary[recipe] = _gaps(found, alone, "accuracy")
        if found and recipe in MAIN:
            summary[f"{recipe} without recalibration"] = _gaps(found, alone, "tracked")
    return summary


def _gaps(
    found: list[tuple[Task, dict[str, Any]]], alone: dict[tuple[int, int], float], key: Literal["accuracy", "tracked"]
) -> dict[str, Any]:
    accuracies = np.array([[row[key] for row in result["rows"]] for _, result in found])
    rivals = np.array([[alone[task.seed, i] for i in range(accuracies.shape[1])] for task, _ in found])
    gaps = (accuracies - rivals) * 100
    # The seeds are the independent repeats; the sub-networks of one supernet are not.
    spread = float(gaps.mean(axis=1).std(ddof=1) / math.sqrt(len(gaps))) if len(gaps) > 1 else None
    return {
        "seeds": len(gaps),
        "mean_gap": float(gaps.mean()),
        "standard_error": spread,
        "smallest_gap": float(gaps[:, 0].mean()),
        "largest_gap": float(gaps[:, -1].mean()),
        "worst_gap": float(gaps.mean(axis=0).min()),
        "mean_accuracy": float(accuracies.mean()),
        "cpu_seconds": float(np.mean([result["cpu_seconds"] for _, result in found])),
    }


def show(summary: dict[str, Any], results: dict[Task, dict[str, Any]], settings: Settings) -> None:
    """Two tables: per recipe, and per sub-network."""
    console = Console(width=130)
    table = Table(
        "recipe", "seeds", "mean accuracy", "mean gap, points", "smallest", "largest", "worst", "CPU s", box=None
    )
    for recipe, row in summary.items():
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:.2f}"
        table.add_row(
            recipe, str(row["seeds"]), f"{row['mean_accuracy']:.2%}", f"{row['mean_gap']:+.2f}{error}",
            f"{row['smallest_gap']:+.2f}", f"{row['largest_gap']:+.2f}", f"{row['worst_gap']:+.2f}",
            f"{row['cpu_seconds']:.0f}",
        )  # fmt: skip
    console.print(table)
    archs = Table("sub-network", "MACs", "alone", *MAIN, box=None)
    for i in range(settings.n_archs):
        rows = {r: [res["rows"][i] for t, res in results.items() if t.recipe == r] for r in MAIN}
        alone = [res["rows"][0]["accuracy"] for t, res in results.items() if t.number == i]
        first = next(iter(rows.values()))[0]
        means = [f"{np.mean([row['accuracy'] for row in rows[r]]):.2%}" for r in MAIN]
        archs.add_row(first["id"], f"{first['macs']:,}", f"{np.mean(alone):.2%}", *means)
    console.print(archs)
    spread = json.dumps({"images": settings.n_images, "epochs": settings.epochs})
    console.print(f"{spread}; means over the seeds; gap = from the supernet − trained alone, on the same test images")


def result_path(out: Path, task: Task) -> Path:
    """Where the result of a task lies."""
    return out / "results" / f"{task.name}.json"


def _schedule(epochs: int, peak_lr: float, warmup: bool = False) -> Schedule:
    return Schedule(epochs, peak_lr, min(1.0, epochs / 4) if warmup else 0.0)


if __name__ == "__main__":
    main()
