"""Do verified budgets hold? Random budgets are verified, and every answer is measured again, independently.

For each budget, drawn evenly between the fastest and the slowest candidate of a goal, `query --verify` answers. The
answer is then measured in another session, alone with the anchors, and that latency is brought to the level of the
verifying session, where the budget was meant. Printed: how many hold, how far the others are beyond, and how much
quality the answer lacks against the best candidate known to keep the budget on that level.

    python experiments/benchmarks/verified_budgets.py runs/digits --device cpu-b1 --budgets 50
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.measuring.measure import Setup, architectures, measure_anew, profilers
from experiments.progress import Reporter
from experiments.quantities import Limit, latency, quality
from experiments.querying import goal_results, kinds
from experiments.run_folder import RunFolder
from experiments.verifying import verified_answer
from hardware.loop.measurement import Measurements
from supernet.architecture import Architecture


def main() -> None:
    """Verify and measure again, on a copy of the run, whose store stays as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run that has searched")
    parser.add_argument("--device", default=None, help="default: the first of the recipe")
    parser.add_argument("--budgets", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(arguments.run, Path(folder) / "run", ignore=shutil.ignore_patterns("checkpoints", "decoded"))
        run = RunFolder(Path(folder) / "run")
        device = arguments.device or run.recipe.devices[0].name
        (profiler,) = profilers(run, device)
        _, results = goal_results(run.path, None, device)
        best = quality(kinds(results))
        known = {c["id"]: c["values"] for c in results["candidates"]}
        times = np.array([values[f"latency@{device}"] for values in known.values()])
        rng, quiet = np.random.default_rng(arguments.seed), Reporter(Console(quiet=True))
        held, beyond, lacking = 0, [], []
        for number in range(arguments.budgets):
            budget = float(rng.uniform(times.min() * 1.05, times.max()))
            limit = Limit(latency(device), budget, True)
            row, evidence = verified_answer(run, results, [limit], quiet)
            arch = Architecture.from_dict(row["architecture"])
            with run.store() as store:
                session = measure_anew(Setup.of(run), store, profiler, architectures(run, [arch]), quiet)
                sessions = store.sessions(profiler.device)
            there = Measurements(profiler.device, sessions, evidence.session)
            alone = float(np.exp(session.fit.levels[session.places[arch.id, arch.resolution]]))
            found = there.brought(alone, session.id)
            holds = found <= budget
            held += holds
            beyond += [] if holds else [found / budget - 1]
            keeping = [
                values[best.name]
                for key, values in known.items()
                for network in there
                if network[0] == key and there[network].latency <= budget
            ]
            lacking.append(max(keeping) - row["values"][best.name])
            console.print(
                f"{number + 1:3}: budget {budget * 1e3:.4f} ms, {arch.id} verified {evidence.latency * 1e3:.4f} ms "
                f"({evidence.probability:.1%}), again {found * 1e3:.4f} ms: {'holds' if holds else 'DOES NOT HOLD'}"
            )
    console.print(
        f"{device}: {held} of {arguments.budgets} hold, the others are beyond by {[f'{x:.2%}' for x in beyond]}; "
        f"quality lacking: mean {np.mean(lacking):.3%}, at most {max(lacking):.2%}"
    )


if __name__ == "__main__":
    main()
