"""python experiments/benchmarks/subnets_against_alone.py runs/digits

Are sub-networks taken from the supernet, without retraining, as good as the same networks trained alone? For random
architectures of a finished run: test accuracy from the supernet against that of the extracted architecture with fresh
weights, trained alone for as many epochs as the supernet's whole training. Trained networks are kept in the run's
folder, so an interrupted comparison carries on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.training.phases import alone_phases
from experiments.training.train import train_module
from supernet import Architecture, create_supernet
from supernet.files import write_json
from supernet.scoring.calibration import evaluate
from supernet.training import Static


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--archs", type=int, default=8, help="random architectures")
    parser.add_argument("--seed", type=int, default=1, help="of the architectures and the fresh weights")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run, report = RunFolder(options.run), Reporter()
    space = run.supernet.space
    archs = sorted(
        space.sample(options.archs, np.random.default_rng(options.seed)),
        key=lambda arch: int(run.supernet.macs(space.encode([arch]))[0]),
    )
    scores = Scorer(run).score(archs, "test", report)
    rows = []
    for arch in archs:
        alone = accuracy_alone(run, arch, options.seed, report)
        macs = int(run.supernet.macs(space.encode([arch]))[0])
        rows.append({"id": arch.id, "macs": macs, "supernet": scores[arch.id].metrics["accuracy"], "alone": alone})
    table = Table("sub-network", "MACs", "from the supernet", "trained alone", "gap, points", box=None)
    for row in rows:
        gap = (row["supernet"] - row["alone"]) * 100
        table.add_row(row["id"], f"{row['macs']:,}", f"{row['supernet']:.2%}", f"{row['alone']:.2%}", f"{gap:+.2f}")
    mean = float(np.mean([row["supernet"] - row["alone"] for row in rows])) * 100
    Console(width=120).print(table)
    report.say(f"mean gap {mean:+.2f} points over {len(rows)} sub-networks; test images {run.data.n_images('test')}")
    write_json(run.path / "alone.json", {"provenance": run.provenance, "seed": options.seed, "rows": rows, "gap": mean})


def accuracy_alone(run: RunFolder, arch: Architecture, seed: int, report: Reporter) -> float:
    """Test accuracy of the architecture trained alone from fresh weights, at its own resolution."""
    definition = dict(run.supernet.definition or {})
    model = create_supernet(**definition, seed=run.recipe.seed + seed).extract(arch)
    static = Static(model, arch.resolution)
    phases = alone_phases(run.recipe, run.untrained_supernet, static.space)
    schedule = phases[0].schedule  # a recipe may be changed in what concerns baselines alone
    folder = run.path / "alone" / f"{arch.id}-{seed}-{schedule.epochs}-epochs-at-{schedule.peak_lr:g}"
    weights = folder.with_name(f"{folder.name}.safetensors")
    if not weights.exists():
        train_module(run, static, phases, folder, weights, f"training {arch.id} alone", report, model)
    model.load_state_dict(load_file(weights))
    images = run.data.evaluation_batches("test", run.recipe.score.batch_size)
    return evaluate(model.eval(), images, arch.resolution).value


if __name__ == "__main__":
    main()
