"""python experiments/benchmarks/scoring_throughput.py runs/digits --archs 12

Sub-networks scored a minute, against the plain loop: extract, `torch.optim.swa_utils.update_bn`, evaluate, one after
the other; once reading images as they are needed, once from images in memory. All ways take the same sub-networks in
turns within one run, a group at a time, so that the machine's changing speed falls on all. Then: where the time goes,
and what fewer calibration images cost.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.optim.swa_utils import update_bn

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.onnx_module import fast_evaluator
from experiments.scoring.scorer import Scorer
from supernet.architecture import Architecture
from supernet.protocol import Supernet
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.scoring.images import resize

_COUNTS = (64, 128, 256, 500, 1000, 2000)

Batches = list[tuple[Tensor, Tensor]]


def plain_loop(
    supernet: Supernet,
    archs: Sequence[Architecture],
    calibration: Callable[[], Iterable[Tensor]],
    images: Callable[[], Iterable[tuple[Tensor, Tensor]]],
) -> dict[str, float]:
    """What everybody writes first: accuracy by id."""
    accuracies = {}
    for arch in archs:
        subnet = supernet.extract(arch)
        update_bn([resize(batch, arch.resolution) for batch in calibration()], subnet)
        subnet.eval()
        correct = total = 0
        with torch.no_grad():
            for batch, labels in images():
                predictions = subnet(resize(batch, arch.resolution)).argmax(1)
                correct += (predictions == labels).sum().item()
                total += len(labels)
        accuracies[arch.id] = correct / total
    return accuracies


def copied(run: RunFolder, folder: Path, calibration_images: int) -> RunFolder:
    """The same run without scores, and with another number of calibration images."""
    folder.mkdir()
    for name in ("recipe.toml", "run.json", "supernet.safetensors"):
        shutil.copyfile(run.path / name, folder / name)
    copy = RunFolder(folder)
    score = copy.recipe.score.model_copy(update={"calibration_images": calibration_images})
    copy.recipe = copy.recipe.model_copy(update={"score": score})
    return copy


def where_the_time_goes(
    run: RunFolder, archs: Sequence[Architecture], calibration: list[Tensor], images: Batches
) -> Any:
    """Seconds a sub-network, part by part, in the order in which `Scorer` does them."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = work()
        seconds[name] += (perf_counter() - start) / len(archs)
        return result

    def prepared(batch: Tensor, resolution: int) -> Tensor:
        return resize(batch, resolution).contiguous(memory_format=torch.channels_last)

    for arch in archs:
        small = [prepared(batch, arch.resolution) for batch in calibration]
        scored = [(prepared(batch, arch.resolution), labels) for batch, labels in images]
        subnet = timed("extract", lambda: run.supernet.extract(arch).to(memory_format=torch.channels_last))  # noqa: B023
        timed("recalibrate", lambda: recalibrate(subnet, small).eval())  # noqa: B023
        channels = run.data.in_channels
        evaluator = timed("ONNX file and session", lambda: fast_evaluator(subnet, channels, arch.resolution))  # noqa: B023
        timed("evaluate", lambda: evaluate(evaluator, scored))  # noqa: B023
        timed("evaluate, were it in torch", lambda: evaluate(subnet, scored))  # noqa: B023
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run with a trained supernet")
    parser.add_argument("--archs", type=int, default=12, help="sub-networks that every way scores")
    parser.add_argument("--groups", type=int, default=3, help="turns")
    parser.add_argument("--images", type=int, default=2000, help="calibration images of the plain loop")
    parser.add_argument("--fewer", type=int, default=500, help="calibration images of the last way")
    parser.add_argument("--seed", type=int, default=0, help="of the sub-networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(highlight=False, width=120)
    quiet = Reporter(Console(quiet=True))
    run = RunFolder(arguments.run)
    settings = run.recipe.score
    images = list(run.data.evaluation_batches("validation", settings.batch_size))
    calibration = list(run.data.calibration_batches(max(arguments.images, *_COUNTS), settings.batch_size))
    pool = torch.cat(calibration)
    archs = run.supernet.space.sample(arguments.archs, np.random.default_rng(arguments.seed))
    with tempfile.TemporaryDirectory() as folder:
        same = Scorer(copied(run, Path(folder) / "same", arguments.images))
        fewer = Scorer(copied(run, Path(folder) / "fewer", arguments.fewer))

        def score(scorer: Scorer, group: Sequence[Architecture]) -> dict[str, float]:
            found = scorer.score(group, "validation", quiet)
            return {key: value.metrics["accuracy"] for key, value in found.items()}

        ways: dict[str, Callable[[Sequence[Architecture]], dict[str, float]]] = {
            f"plain loop, {arguments.images} calibration images, read every time": lambda group: plain_loop(
                run.supernet,
                group,
                lambda: run.data.calibration_batches(arguments.images, settings.batch_size),
                lambda: run.data.evaluation_batches("validation", settings.batch_size),
            ),
            f"plain loop, {arguments.images}, images in memory": lambda group: plain_loop(
                run.supernet, group, lambda: pool[: arguments.images].split(settings.batch_size), lambda: images
            ),
            f"supernet score, {arguments.images}": lambda group: score(same, group),
            f"supernet score, {arguments.fewer}": lambda group: score(fewer, group),
        }
        warm = run.supernet.space.smallest
        accuracies: dict[str, dict[str, float]] = {name: {} for name in ways}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way([warm])  # images are read, and libraries are loaded
        for number in range(arguments.groups):
            group = archs[number :: arguments.groups]
            order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
            for name in order:
                start = perf_counter()
                accuracies[name] |= ways[name](group)
                seconds[name].append(perf_counter() - start)
    reading, plain, *_ = ways
    table = Table(
        "way", "a minute", "against the first", "and the second", "in each turn", "largest difference", "mean"
    )
    for name in ways:
        ratios = np.divide(seconds[plain], seconds[name])
        differences = np.array([accuracies[name][arch.id] - accuracies[plain][arch.id] for arch in archs]) * 100
        table.add_row(
            name,
            f"{60 * len(archs) / sum(seconds[name]):.1f}",
            f"{sum(seconds[reading]) / sum(seconds[name]):.2f}×",
            f"{sum(seconds[plain]) / sum(seconds[name]):.2f}×",
            " ".join(f"{ratio:.1f}" for ratio in ratios),
            f"{np.abs(differences).max():.2f} points",
            f"{differences.mean():+.3f}",
        )
    console.print(f"{run.path}: {len(archs)} sub-networks, {run.data.n_images('validation')} validation images")
    console.print(table)
    parts = where_the_time_goes(run, archs[:6], list(pool[: arguments.fewer].split(settings.batch_size)), images)
    table = Table("part", "ms a sub-network", title=f"where the time goes, {arguments.fewer} calibration images")
    for name, value in parts.items():
        table.add_row(name, f"{value * 1e3:.1f}")
    console.print(table)
    console.print(calibration_error(run, archs, pool, images))


def calibration_error(run: RunFolder, archs: Sequence[Architecture], pool: Tensor, images: Batches) -> Table:
    """How far accuracy is with fewer calibration images from accuracy with as many again as the largest number."""
    batch_size, channels = run.recipe.score.batch_size, run.data.in_channels

    def accuracy(arch: Architecture, n_images: int) -> float:
        small = (resize(batch, arch.resolution) for batch in pool[:n_images].split(batch_size))
        subnet = recalibrate(run.supernet.extract(arch), small).eval()
        return evaluate(fast_evaluator(subnet, channels, arch.resolution), images, arch.resolution).value

    found = {n: np.array([accuracy(arch, n) for arch in archs]) for n in _COUNTS}
    table = Table(
        "calibration images",
        "mean difference",
        "mean size",
        "largest",
        "rank correlation",
        title="against 2,000, points",
    )
    reference = found[_COUNTS[-1]]
    for n, values in found.items():
        differences = (values - reference) * 100
        ranks = np.corrcoef(np.argsort(np.argsort(values)), np.argsort(np.argsort(reference)))[0, 1]
        table.add_row(
            str(n),
            f"{differences.mean():+.3f}",
            f"{np.abs(differences).mean():.3f}",
            f"{np.abs(differences).max():.2f}",
            f"{ranks:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
