"""python experiments/benchmarks/scaling.py
python experiments/benchmarks/scaling.py --gpus 64 --images-per-second 900 --gradient-mb 31

How training scales. Without --gpus: steps of one process against steps of two (gloo) that share the same batch, one
after the other in the same run; images a second, the share of a step spent communicating, and how much is sent. With
--gpus: what that means on a cluster, calculated from the throughput of one GPU and from assumed networks.
"""

from __future__ import annotations

import argparse
import math
import os
import socket
import statistics
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.multiprocessing import spawn  # pyright: ignore[reportPrivateImportUsage]

from supernet import create_supernet
from supernet.training import Engine, Phase, World, join, keep_freed_memory, single_stage
from supernet.training.optimisation import Optimisation
from supernet.training.phases import Schedule
from supernet.training.step import Stepper, StepResult

_PROCESSES = 2


def main() -> None:
    """Measure, or calculate, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", default="ofa_mobilenetv3_w1.0", help="a registered name")
    parser.add_argument("--batch", type=int, default=32, help="images per step, over all processes")
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each kind")
    paper = parser.add_argument_group("calculation")
    paper.add_argument("--gpus", type=int, help="calculate for so many")
    paper.add_argument("--images-per-second", type=float, help="of one GPU: images of whole steps")
    paper.add_argument("--images", type=int, default=64, help="per GPU and step")
    paper.add_argument("--gradient-mb", type=float, help="averaged per step: 4 bytes per parameter of the supernet")
    paper.add_argument("--gigabytes-per-second", type=float, default=10.0, help="of the slowest link of the ring")
    paper.add_argument("--latency-us", type=float, default=15.0, help="of one message between two machines")
    paper.add_argument("--norms", type=int, default=62, help="BatchNorms of the largest sub-network")
    paper.add_argument("--subnets", type=int, default=4, help="sub-networks per step")
    options = parser.parse_args()
    if options.gpus is None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(_PROCESSES)}
        spawn(_measure, (options,), _PROCESSES)
    elif options.images_per_second is None or options.gradient_mb is None:
        parser.error("--gpus needs --images-per-second and --gradient-mb, both measured on one GPU")
    else:
        calculate(options)


def calculate(options: argparse.Namespace) -> None:
    """Print the step time on n GPUs: nothing overlaps, as the trainer has it.

    A ring all-reduce sends 2 (n − 1) / n times the gradients over its slowest link in 2 (n − 1) messages. Small
    messages (losses and agreement; two numbers per channel and BatchNorm where they are synchronised, forward and
    backward) are latency alone, over log₂ n hops.
    """
    compute = options.images / options.images_per_second
    table = Table(
        "GPUs", "SyncBN", "compute, ms", "gradients, ms", "messages, ms", "communicating", "images/s", box=None
    )
    sizes = sorted({n for n in (1, 8, 16, 32) if n < options.gpus} | {options.gpus})
    for n in sizes:
        for synchronised in (False, True) if n > 1 else (False,):
            hops = math.ceil(math.log2(n))
            latency = options.latency_us * 1e-6
            volume = 2 * (n - 1) / n * options.gradient_mb * 1e6
            gradients = volume / (options.gigabytes_per_second * 1e9) + 2 * (n - 1) * latency
            n_messages = 1 + (2 * options.norms * options.subnets if synchronised else 0)
            messages = n_messages * hops * latency if n > 1 else 0.0
            step = compute + gradients + messages
            table.add_row(
                str(n),
                "yes" if synchronised else "no",
                f"{compute * 1e3:.1f}",
                f"{gradients * 1e3:.1f}",
                f"{messages * 1e3:.1f}",
                f"{1 - compute / step:.1%}",
                f"{n * options.images / step:,.0f}",
            )
    Console(width=120).print(
        f"Calculated, not measured: {options.images_per_second:g} images/s and {options.images} images a step on "
        f"one GPU, {options.gradient_mb:g} MB of gradients, {options.gigabytes_per_second:g} GB/s, "
        f"{options.latency_us:g} µs"
    )
    Console(width=120).print(table)


def _measure(rank: int, options: argparse.Namespace) -> None:
    """What each process does: the first one alone with the other waiting, then both together, again and again."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    with join() as world, keep_freed_memory():
        ways = {
            "1 process": _Steps(options, World(), synchronised=False),
            "2 processes": _Steps(options, world, synchronised=False),
            "2 processes, synchronised BatchNorm": _Steps(options, world, synchronised=True),
        }
        for repeat in range(options.repeats + 1):
            for steps in ways.values():
                world.barrier()
                if world.is_first or steps.world.size > 1:
                    steps.take(repeat)
                world.barrier()
        bare = _bare_seconds(world, ways["2 processes"].results[-1].n_bytes, options.repeats)
        if world.is_first:
            _print(options, {name: steps.results[1:] for name, steps in ways.items()}, bare)


class _Steps:
    """Steps of a sandwich (the largest, two random and the smallest) by some processes, on images made beforehand."""

    def __init__(self, options: argparse.Namespace, world: World, synchronised: bool) -> None:
        net = create_supernet(options.supernet, num_classes=1000).train()
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.world, self.results = world, list[StepResult]()
        space = net.space.restrict(resolution=(options.resolution,))
        self.phase: Phase = single_stage(space, Schedule(2, 0.01))[-1]
        self.stepper = Stepper(net, Engine(sync_batch_norm=synchronised), world, seed=0)
        self.optimisation = Optimisation(net, self.phase, 2, optimizer="sgd", weight_decay=3e-5, momentum=0.9)
        generator = torch.Generator().manual_seed(world.rank)
        n = options.batch // world.size
        self.images = torch.randn(n, 3, options.resolution, options.resolution, generator=generator)
        self.labels = torch.randint(1000, (n,), generator=generator)

    def take(self, step: int) -> None:
        settings: dict[str, Any] = {"phase": self.phase, "optimisation": self.optimisation, "teacher": None}
        self.results.append(
            self.stepper.run(
                self.images, self.labels, **settings, sampler_state={}, step=step, step_of_phase=0, progress=0.0,
                wishes=(), timed=True,
            )
        )  # fmt: skip


def _bare_seconds(world: World, n_bytes: int, repeats: int) -> float:
    """Median of averaging so many bytes with nothing else going on, so that no process waits for another."""
    flat, seconds = torch.zeros(n_bytes // 4), []
    for _ in range(repeats):
        world.barrier()
        started = time.perf_counter()
        world.sum(flat)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _print(options: argparse.Namespace, found: dict[str, list[StepResult]], bare: float) -> None:
    console = Console(width=120)
    console.print(
        f"{options.supernet}, sandwich of 4, {options.batch} images of {options.resolution} px a step over all "
        f"processes, one thread each, {os.cpu_count()} cores with load {os.getloadavg()[0]:.1f}"
    )
    table = Table("", "images/s", "against 1", "communicating, waiting included", "MB averaged", box=None)
    first = next(iter(found.values()))
    for name, results in found.items():
        # Every step has other sub-networks, so steps of one number are compared.
        gains = [a.seconds / b.seconds for a, b in zip(first, results, strict=True)]
        rates = [result.n_images / result.seconds for result in results]
        shares = [result.communication / result.seconds for result in results]
        table.add_row(
            name,
            f"{statistics.median(rates):.1f}",
            f"{statistics.median(gains):.2f}× ({min(gains):.2f} to {max(gains):.2f})",
            f"{statistics.median(shares):.1%}",
            f"{statistics.median(result.n_bytes for result in results) / 1e6:.1f}",
        )
    console.print(table)
    step = statistics.median(result.seconds for result in found["2 processes"])
    console.print(f"averaging alone, nobody waiting: {bare * 1e3:.0f} ms, {bare / step:.1%} of a step of two processes")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


if __name__ == "__main__":
    main()
