"""python experiments/benchmarks/repeatability.py

Two independent campaigns, each in a process of its own, over the same architectures of the published space: the first
with nothing beside it, the second while another process keeps a core busy. How well do they agree? The same is printed
for the plain loop (a session, 10 calls to warm up, the mean of 100), which takes its turn in the same two processes, a
group at a time, so that the state of the machine is the same for both.

`as they are` are medians. `after the reference network` are medians divided by that of the reference network beside
them: what remains when the machine as a whole was slower.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from hardware import Measurement, OnnxRuntimeProfiler, Sampling, Workload, export_onnx
from supernet import create_supernet
from supernet.architecture import Architecture
from supernet.protocol import Supernet
from supernet.sampling import sample_in_bins

_BUSY = "while True: pass"


def campaign(supernet: Supernet, archs: Sequence[Architecture], max_repeats: int, seed: int) -> dict[str, Any]:
    """Measurements by id, and plain means by id, in seconds."""
    sampling = Sampling(max_repeats=max_repeats, seed=seed)
    profiler = OnnxRuntimeProfiler("benchmark", sampling=sampling)
    plain: dict[str, float] = {}

    def workloads() -> Any:
        for i, arch in enumerate(archs):
            if i and i % sampling.group_size == 0:
                plain.update((done.id, plain_mean(supernet, done)) for done in archs[i - sampling.group_size : i])
            yield Workload(arch.id, supernet.extract(arch), arch.resolution)

    start = perf_counter()
    measured = {m.key: m.to_dict() for m in profiler.measure(workloads())}
    plain.update((arch.id, plain_mean(supernet, arch)) for arch in archs if arch.id not in plain)
    return {"measured": measured, "plain": plain, "seconds": perf_counter() - start}


def plain_mean(supernet: Supernet, arch: Architecture) -> float:
    """What everybody writes first."""
    shape = (1, 3, arch.resolution, arch.resolution)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    model = export_onnx(supernet.extract(arch), shape)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"images": np.random.default_rng(0).standard_normal(shape, dtype=np.float32)}
    for _ in range(10):
        session.run(None, feed)
    start = perf_counter()
    for _ in range(100):
        session.run(None, feed)
    return (perf_counter() - start) / 100


def in_a_process(arguments: argparse.Namespace, seed: int, folder: Path) -> dict[str, Any]:
    """A campaign as another invocation of this file."""
    path = folder / f"{seed}.json"
    command = [sys.executable, __file__, "--campaign", str(path), "--campaign-seed", str(seed)]
    for name in ("supernet", "archs", "seed", "resolution", "max_repeats"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    subprocess.run(command, check=True)
    return json.loads(path.read_text())


def report(quiet: dict[str, Any], busy: dict[str, Any]) -> None:
    """Print how the two campaigns agree."""
    console = Console(width=120)
    ids = list(quiet["plain"])
    runs = [{key: Measurement.from_dict(data) for key, data in run["measured"].items()} for run in (quiet, busy)]
    raw = [np.array([run[key].median for key in ids]) for run in runs]
    references = [np.array([median(run[key].reference_seconds) for key in ids]) for run in runs]
    plain = [np.array([run["plain"][key] for key in ids]) for run in (quiet, busy)]
    table = Table(f"{len(ids)} networks, alone and beside a busy process")
    for heading in ("Kendall τ", "median |difference|", "90 % below", "median ratio"):
        table.add_column(heading, justify="right")
    for name, values in (
        ("measured, as they are", raw),
        ("measured, after the reference network", [a / b for a, b in zip(raw, references, strict=True)]),
        ("plain loop", plain),
    ):
        table.add_row(name, *agreement(*values))
    console.print(table)
    console.print("goals: Kendall τ at least 0.97, median difference at most 2 %")
    for name, run, result in (("alone", runs[0], quiet), ("busy", runs[1], busy)):
        kept = sum(len(m.seconds) for m in run.values())
        marked = sum(len(m.disturbed) for m in run.values())
        doubtful = sum(bool(m.warnings) for m in run.values())
        console.print(
            f"{name}: {kept} repeats, {marked} more marked as disturbed; {doubtful} of {len(ids)} with a warning; "
            f"reference network {median(references[run is runs[1]]) * 1e3:.3f} ms; "
            f"{result['seconds']:.0f} s with the plain loop"
        )
        warnings = [warning for m in run.values() for warning in m.warnings]
        if warnings:
            console.print(f"  the first warning: {warnings[0]}")


def agreement(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[str]:
    """Kendall τ, and the relative differences, of two runs (n_archs,)."""
    differences = np.abs(second / first - 1)
    tau = kendalltau(first, second).statistic  # pyright: ignore[reportAttributeAccessIssue]
    return [
        f"{tau:.3f}",
        f"{np.median(differences):.1%}",
        f"{np.quantile(differences, 0.9):.1%}",
        f"{np.median(second / first):.3f}",
    ]


def main() -> None:
    """Measure and print; with --campaign, be one of the two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", default="ofa_mobilenetv3_w1.0", help="a registered name (%(default)s)")
    parser.add_argument("--archs", type=int, default=60, help="number of architectures (%(default)s)")
    parser.add_argument("--resolution", type=int, default=160, help="the largest, in pixels (%(default)s)")
    parser.add_argument("--max-repeats", type=int, default=400, help="undisturbed repeats of each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the architectures (%(default)s)")
    parser.add_argument("--campaign", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--campaign-seed", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.campaign is None:
        with tempfile.TemporaryDirectory() as folder:
            quiet = in_a_process(arguments, 1, Path(folder))
            with subprocess.Popen([sys.executable, "-c", _BUSY]) as process:
                if hasattr(os, "sched_setaffinity"):  # a core of its own: the last one
                    os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
                try:
                    busy = in_a_process(arguments, 2, Path(folder))
                finally:
                    process.kill()
        report(quiet, busy)
        return
    supernet = create_supernet(arguments.supernet)
    resolutions = tuple(r for r in supernet.space.resolutions if r <= arguments.resolution)
    space = supernet.space.restrict(resolution=resolutions)
    genes = sample_in_bins(space, arguments.archs, np.random.default_rng(arguments.seed), supernet.macs)
    archs = space.decode(np.unique(genes, axis=0))  # a campaign measures nothing twice
    result = campaign(supernet, archs, arguments.max_repeats, arguments.campaign_seed)
    arguments.campaign.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
