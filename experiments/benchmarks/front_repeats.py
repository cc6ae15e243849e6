"""Does time decide? One trained run searched and compared again and again, quiet and with busy processes beside it.

    python experiments/benchmarks/front_repeats.py runs/digits --repeats 3 --out runs/repeats

Every repeat copies the trained weights of the run and does everything else anew with `supernet run`; half of the
repeats have two busy loops beside them. Afterwards all networks of the repeat are measured side by side in one longer
session, and from that:

- the hypervolume of random search as a share of the searched front's, as the repeat reports it, on test;
- the hypervolume of the searched front, and of what was delivered in ``front.json``, as a share of the best choice from
  the networks that the search knew, and from all networks of the repeat, baselines included, chosen anew on validation
  accuracy and these latencies;
- the ten-fold error of the run's predictor over all its networks, at the latencies that the run has.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from experiments import fitting
from experiments.measuring.measure import architectures, profilers
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.quantities import latency
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from hardware.loop.measurement import Measurements
from hardware.loop.measuring import measure
from hardware.loop.turns import Sampling
from hardware.profiling import Profiler
from predictors.card import error_card
from search.front import hypervolume, non_dominated
from supernet.architecture import Architecture

_TRAINED = ("recipe.toml", "run.json", "checkpoints", "supernet.safetensors", "baselines")
_BUSY = "while True: pass"


def repeat(trained: Path, out: Path, busy: int) -> RunFolder:
    """Everything after the training, anew, with so many busy processes beside it."""
    if not (out / "report.html").exists():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        for name in _TRAINED:
            if (trained / name).is_dir():
                shutil.copytree(trained / name, out / name)
            elif (trained / name).exists():
                shutil.copyfile(trained / name, out / name)
        with _busy(busy):
            command = [sys.executable, "-m", "experiments", "run", str(out / "recipe.toml"), "--out", str(out)]
            subprocess.run(command, check=True, stdout=(out / "log.txt").open("w"))
    return RunFolder(out)


@contextmanager
def _busy(n: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(n)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def judge(run: RunFolder, report: Reporter, turns: int) -> list[dict[str, Any]]:
    """What a repeat reports, and what is so side by side; a row for every device."""
    comparison, fronts = json.loads(run.comparison.read_text()), json.loads(run.front.read_text())["goals"]
    searched = list(dict.fromkeys(arch for plan in search_plans(run) for arch in plan.archs))
    everything = list(dict.fromkeys(arch for plan in run.all_plans() for arch in plan.archs))
    scorer = Scorer(run)
    validation, test = (
        {key: score.metrics["accuracy"] for key, score in scorer.score(everything, split, report).items()}
        for split in ("validation", "test")
    )
    rows = []
    for profiler, told in zip(profilers(run), comparison["goals"], strict=True):
        side = _side_by_side(run, profiler, everything, turns)  # type: ignore[arg-type]
        seconds = np.array([side[arch.id, arch.resolution].latency for arch in everything])
        numbers = {arch.id: i for i, arch in enumerate(everything)}
        points = {
            "searched front": [
                p["id"] for one in told["series"] if one["name"] == "searched front" for p in one["points"]
            ],
            "delivered": [c["id"] for c in fronts[profiler.device.name]["front"]["candidates"]],
        }
        chosen = {name: [numbers[key] for key in keys] for name, keys in points.items()}
        candidates = {"searched": [numbers[arch.id] for arch in searched], "all": list(range(len(everything)))}
        accuracy = {split: np.array([found[arch.id] for arch in everything])
                    for split, found in (("validation", validation), ("test", test))}  # fmt: skip

        def volume(chosen: Sequence[int], split: str, seconds: Any = seconds, accuracy: Any = accuracy) -> float:
            losses = np.stack([-accuracy[split], seconds], axis=1)
            return hypervolume(losses[list(chosen)], losses.max(axis=0))

        def front(of: Sequence[int], seconds: Any = seconds, accuracy: Any = accuracy) -> list[int]:
            losses = np.stack([-accuracy["validation"], seconds], axis=1)[list(of)]
            return np.array(of)[non_dominated(losses)].tolist()

        row: dict[str, Any] = {"device": profiler.device.name}
        row |= {one["series"]: one["relative"] for one in told["hypervolume"] if one["series"] != "searched front"}
        for split in ("validation", "test"):
            best = {name: volume(front(of), split) for name, of in candidates.items()}
            row[f"search of its own, {split}"] = volume(chosen["searched front"], split) / best["searched"]
            row[f"search of all, {split}"] = volume(chosen["searched front"], split) / best["all"]
            row[f"delivered of all, {split}"] = volume(chosen["delivered"], split) / best["all"]
        with run.store() as store:
            row["error"], row["tau"] = _ten_fold(run, store.measurements(profiler.device), everything)
        rows.append(row)
    return rows


def _side_by_side(run: RunFolder, profiler: Profiler, archs: Sequence[Architecture], turns: int) -> Measurements:
    networks = architectures(run, archs)
    sampling = Sampling(min_turns=turns, max_turns=turns, turn_seconds=60.0, session_networks=1000)
    sessions = list(measure(profiler, map(networks.make, networks.names), sampling))
    return Measurements(profiler.device, sessions)


def _ten_fold(run: RunFolder, measurements: Measurements, archs: Sequence[Architecture]) -> tuple[float, float]:
    """Mean error, as a share, and Kendall τ of the run's chosen predictor, over networks that it has not learned from.

    Ten folds, at the latencies that the run has of them."""
    archs = [arch for arch in archs if (arch.id, arch.resolution) in measurements]
    genes = run.untrained_supernet.space.encode(archs)
    y = np.array([measurements[arch.id, arch.resolution].latency for arch in archs])
    chosen = fitting.load(run, latency(measurements.device.name)).predictor
    card = error_card(lambda: type(chosen)(chosen.features, chosen.target), genes, y, n_folds=10, seed=run.recipe.seed)  # type: ignore[call-arg]
    return card.mape, card.kendall_tau


def main() -> None:
    """Repeat, judge, and print a table and how far the shares lie apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a trained run")
    parser.add_argument("--out", type=Path, required=True, help="folder for the repeats; kept, and gone on with")
    parser.add_argument("--repeats", type=int, default=3, help="of each kind, quiet and busy")
    parser.add_argument("--busy", type=int, default=2, help="busy processes beside the busy repeats")
    parser.add_argument("--turns", type=int, default=150, help="of the session that judges")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console, rows = Console(width=200), []
    for kind, busy in (("quiet", 0), ("busy", arguments.busy)):
        for number in range(1, arguments.repeats + 1):
            run = repeat(arguments.run, arguments.out / f"{kind}-{number}", busy)
            rows += [{"repeat": f"{kind} {number}", **row} for row in judge(run, Reporter(console), arguments.turns)]
    table = Table(title="Shares of hypervolume; error and τ of the predictor")
    for name in rows[0]:
        table.add_column(name)
    for row in sorted(rows, key=lambda row: row["device"]):
        table.add_row(*(value if isinstance(value, str) else f"{value:.3f}" for value in row.values()))
    console.print(table)
    for device in dict.fromkeys(row["device"] for row in rows):
        shares = [row["random search"] for row in rows if row["device"] == device]
        console.print(f"{device}: random search {min(shares):.1%} to {max(shares):.1%} of the searched front")


if __name__ == "__main__":
    main()
