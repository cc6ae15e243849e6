"""python experiments/benchmarks/training_cost.py experiments/recipes/RECIPE.toml --images 1281167 --device cuda

What the training of a recipe costs, before anybody pays for it: every phase runs a few real steps of the project's
trainer on random images of the recipe's resolution, on one process, and the measured throughput is extrapolated to the
epochs of the phase. Hours are those of one device; n devices take 1/n of them plus what communicating costs (see
scaling.py). Reading images and validation come on top.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.settings.recipe import load_recipe
from experiments.training.phases import training_phases
from hardware.loop.cpu import cpu_description
from supernet import create_supernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.training import AdaptiveSampler, Engine, Phase, Progress, Schedule, Trainer, World, only


@dataclass(frozen=True)
class RandomImages:
    """Batches of noise: what they show does not change how long a step takes."""

    steps_per_epoch: int
    batch_size: int
    resolution: int
    n_classes: int

    def train_batches(
        self, epoch: int, skip: int = 0, rank: int = 0, n_ranks: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batch again and again, so that making it takes no part in the time."""
        generator = torch.Generator().manual_seed(epoch)
        images = torch.randn(self.batch_size, 3, self.resolution, self.resolution, generator=generator)
        labels = torch.randint(self.n_classes, (self.batch_size,), generator=generator)
        for _ in range(skip, self.steps_per_epoch):
            yield images, labels


def main() -> None:
    """Measure every phase and print the sum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--images", type=int, default=1_281_167, help="training images of an epoch (ImageNet's)")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64, help="images of a step on one device")
    parser.add_argument("--steps", type=int, default=20, help="measured steps of a phase; 0: count operations only")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load_recipe(options.recipe)
    settings = dict(recipe.supernet.settings)
    if "pretrained" in settings:
        settings["pretrained"] = False  # the weights do not change how long a step takes
    supernet = create_supernet(recipe.supernet.name, options.classes, 3, **settings).to(options.device)
    phases = training_phases(recipe, supernet)
    resolution = max(supernet.space.resolutions)
    engine = Engine(precision=recipe.engine.precision, channels_last=recipe.engine.channels_last)
    table = Table("phase", "epochs", "sub-networks a step", "images/s", "device hours", "EFLOP", box=None)
    total = exaflops = 0.0
    for phase in phases:
        rate = throughput(supernet, phase, engine, options, resolution) if options.steps else math.inf
        hours = phase.schedule.epochs * options.images / rate / 3600
        total += hours
        n, work = work_per_image(supernet, phase)
        exaflop = phase.schedule.epochs * options.images * work / 1e18
        exaflops += exaflop
        table.add_row(
            phase.name, str(phase.schedule.epochs), f"{n:g}", f"{rate:,.1f}", f"{hours:,.1f}", f"{exaflop:,.3g}"
        )
    table.add_row(
        "sum", str(sum(phase.schedule.epochs for phase in phases)), "", "", f"{total:,.1f}", f"{exaflops:,.3g}"
    )
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{device_name(options.device)}; {options.steps} steps of {options.batch} images at {resolution} px, "
        f"{engine.precision}; extrapolated to {options.images:,} images an epoch"
    )


def throughput(
    supernet: TimmSupernet[Any], phase: Phase, engine: Engine, options: argparse.Namespace, resolution: int
) -> float:
    """Images a second of the steps of a phase, each image counted once; the first steps are not measured."""
    n_warm = 3
    data = RandomImages(n_warm + options.steps, options.batch, resolution, options.classes)
    # A phase of its own, at a rate at which nothing changes: no sorting, since there is nothing before it.
    alone = replace(phase, schedule=Schedule(1, 1e-9), sort="none")
    times: list[float] = []

    def on_step(_: object) -> None:
        if options.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())

    Trainer(supernet, (alone,), data, engine=engine, world=World()).run(only(Progress, on_step))
    return options.batch * options.steps / (times[-1] - times[n_warm - 1])


def work_per_image(supernet: TimmSupernet[Any], phase: Phase) -> tuple[float, float]:
    """Sub-networks of a step, and floating-point operations for one image: forward, twice that backward, teacher."""
    space = phase.space
    if isinstance(phase.sampler, AdaptiveSampler):
        archs, n_steps = [space.largest, *space.sample(2, np.random.default_rng(0)), space.smallest], 1
    else:
        n_steps = 50
        archs = [a for step in range(n_steps) for a in phase.sampler(phase.space_at(step / n_steps), 0, step)]
    macs = supernet.macs(supernet.space.encode(archs)).sum() / n_steps
    teacher = supernet.macs(supernet.space.encode([supernet.space.largest]))[0] if phase.loss.teacher == "frozen" else 0
    return len(archs) / n_steps, float(2 * (3 * macs + teacher))


def device_name(device: str) -> str:
    """What the times hold for."""
    return torch.cuda.get_device_name() if device == "cuda" else f"{cpu_description()}, one thread"


if __name__ == "__main__":
    main()
