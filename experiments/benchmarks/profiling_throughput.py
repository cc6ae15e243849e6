"""python experiments/benchmarks/profiling_throughput.py --archs 16

Architectures a minute from genes to stored measurement, against the loop that everybody writes first: per network
`torch.onnx.export(dynamo=True)`, a session, and 100 runs. Both ways take the same architectures in turns within one
run, a group at a time, so that the machine's changing speed falls on both. The 100 runs have the same protection from
other programs as ours (`undisturbed`), so that ways of measuring are compared and not how busy the machine is.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from hardware import OnnxRuntimeProfiler, Sampling, Session, Store, Workload, export_onnx
from hardware.loop.measuring import measure
from hardware.loop.process import quietest_cores, undisturbed
from supernet import create_supernet
from supernet.architecture import Architecture
from supernet.protocol import Supernet
from supernet.space import Genes

_GROUP = 64  # networks side by side


class Stopwatch:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds[name] += perf_counter() - start


def ours(
    supernet: Supernet, genes: Genes, channels: int, profiler: OnnxRuntimeProfiler, store: Store, sampling: Sampling
) -> Session:
    """The way of the product: one session of the genes (n_archs, n_genes), stored."""
    archs = supernet.space.decode(genes)
    workloads = (Workload(arch.id, supernet.extract(arch), arch.resolution, channels) for arch in archs)
    (session,) = measure(profiler, workloads, sampling)
    store.add_session(session)
    return session


def plain_loop(supernet: Supernet, genes: Genes, channels: int, cores: Collection[int], runs: int = 100) -> list[float]:
    """The usual way: medians in seconds, in the order of the genes (n_archs, n_genes)."""
    return [_plain_median(supernet, arch, channels, runs, cores) for arch in supernet.space.decode(genes)]


def _plain_median(supernet: Supernet, arch: Architecture, channels: int, runs: int, cores: Collection[int]) -> float:
    module = supernet.extract(arch).eval()
    images = torch.randn(1, channels, arch.resolution, arch.resolution)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, (images,), dynamo=True, verbose=False)
    assert program is not None
    session = _session(program.model_proto.SerializeToString())
    feed = {session.get_inputs()[0].name: images.numpy()}
    seconds = []
    with undisturbed(cores, realtime=True):
        for _ in range(runs):
            start = perf_counter()
            session.run(None, feed)
            seconds.append(perf_counter() - start)
    return median(seconds)


def parts(supernet: Supernet, archs: Sequence[Architecture], channels: int) -> dict[str, float]:
    """Seconds of the steps before the first run, each taken by itself."""
    watch = Stopwatch()
    for arch in archs:
        with watch("extract"):
            module = supernet.extract(arch)
        with watch("export"):
            model = export_onnx(module, (1, channels, arch.resolution, arch.resolution))
        with watch("session"):
            _session(model)
    return watch.seconds


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", default="ofa_mobilenetv3_w1.0", help="name of the supernet (%(default)s)")
    parser.add_argument("--archs", type=int, default=16, help="number of architectures (%(default)s)")
    parser.add_argument("--channels", type=int, default=3, help="channels of the images (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the architectures (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)

    channels, sampling = arguments.channels, Sampling(turn_seconds=60.0)
    supernet = create_supernet(arguments.supernet, in_chans=channels)
    genes = supernet.space.sample_genes(arguments.archs, np.random.default_rng(arguments.seed))
    genes = np.unique(genes, axis=0)  # a store keeps each architecture once
    profiler = OnnxRuntimeProfiler("benchmark")
    watch = Stopwatch()
    sessions: list[Session] = []
    plain: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "store.sqlite") as store:
        plain_loop(supernet, genes[:1], channels, (), runs=1)  # what is imported on first use
        export_onnx(supernet.extract(supernet.space.smallest), (1, channels, 32, 32))
        for first in range(0, len(genes), _GROUP):
            group = genes[first : first + _GROUP]
            with watch("ours"):
                sessions.append(ours(supernet, group, channels, profiler, store, sampling))
            cores = quietest_cores(1)
            with watch("plain"):
                plain += plain_loop(supernet, group, channels, cores)
    report(supernet, genes, channels, watch, sessions, plain)


def report(
    supernet: Supernet,
    genes: Genes,
    channels: int,
    watch: Stopwatch,
    sessions: Sequence[Session],
    plain: Sequence[float],
) -> None:
    """Print both rates, how the latencies agree, and where our time goes."""
    n, console = len(genes), Console()
    table = Table("", "architectures a minute", "seconds each")
    for name, label in (("ours", "genes to stored measurement"), ("plain", "dynamo export, session, 100 runs")):
        seconds = watch.seconds[name]
        table.add_row(label, f"{60 * n / seconds:.0f}", f"{seconds / n:.3f}")
    console.print(table)
    console.print(f"{watch.seconds['plain'] / watch.seconds['ours']:.1f} times as many (goal: at least 10)")
    ratios = np.concatenate([np.exp(session.fit.levels) for session in sessions]) / plain
    # The loop runs after ours, network by network, and a shared machine differs by more than 3 % by then: what is left
    # after the median is taken away is between networks.
    middle = float(np.median(ratios))
    console.print(
        f"our latencies over those of the loop: {middle:.3f} in the middle, and beside that "
        f"{ratios.min() / middle:.2f} to {ratios.max() / middle:.2f}"
    )
    turns = ", ".join(str(session.n_turns) for session in sessions)
    widths = np.concatenate([session.fit.half_widths() for session in sessions])
    console.print(f"{turns} turns; relative latencies to ±{np.median(widths):.1%}, at most {widths.max():.1%}")

    steps = parts(supernet, supernet.space.decode(genes), channels)
    steps["timed repeats"] = sum(
        float(np.nansum(session.seconds[i])) * network.calls_per_repeat
        for session in sessions
        for i, network in enumerate(session.networks)
    )
    steps["the rest: warm-up, settling, store"] = watch.seconds["ours"] - sum(steps.values())
    table = Table("where our time goes", "ms for each architecture", "share")
    for name, seconds in steps.items():
        table.add_row(name, f"{seconds / n * 1e3:.1f}", f"{seconds / watch.seconds['ours']:.0%}")
    console.print(table)


if __name__ == "__main__":
    main()
