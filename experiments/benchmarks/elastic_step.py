"""python experiments/benchmarks/elastic_step.py

What elasticity costs in training: forward and backward of a sub-network through the supernet, against the same
sub-network extracted as a plain timm module; and what channels_last, bf16 autocast and keeping freed memory (as the
trainer does) change. Every pair is measured interleaved in one process, and the ratio is the median of the ratios of
neighbours. With --compile the blocks of the supernet are compiled and those of the plain module are not, so the ratio
shows what compiling gains.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from supernet import Architecture, create_supernet
from supernet.networks.timm_supernet import TimmSupernet
from supernet.training import keep_freed_memory

_ARCHS = ("smallest", "middle", "largest")
_SETTINGS = ("contiguous", "channels_last", "channels_last, memory kept", "channels_last, bf16, memory kept")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", default="ofa_mobilenetv3_w1.0", help="a registered name")
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--resolution", type=int, default=128, help="pixels")
    parser.add_argument("--repeats", type=int, default=9, help="pairs per row")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--compile", action="store_true", help="compile the blocks of the supernet (takes minutes)")
    parser.add_argument("--archs", nargs="+", choices=_ARCHS, default=_ARCHS, help="which sub-networks")
    parser.add_argument("--settings", nargs="+", choices=_SETTINGS, default=_SETTINGS, help="which settings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    supernet = create_supernet(options.supernet, num_classes=1000).to(options.device).train()
    space = supernet.space.restrict(resolution=(options.resolution,))
    if options.compile:
        supernet.compile_blocks()
    archs = {
        "smallest": space.smallest,
        "middle": middle(supernet, space.sample(101, np.random.default_rng(0))),
        "largest": space.largest,
    }
    images = torch.randn(options.batch, 3, options.resolution, options.resolution, device=options.device)
    labels = torch.randint(1000, (options.batch,), device=options.device)
    table = Table("sub-network", "setting", "elastic, CPU ms", "static, CPU ms", "elastic / static", box=None)
    for name, arch in ((name, arch) for name, arch in archs.items() if name in options.archs):
        for setting in options.settings:
            with keep_freed_memory() if "kept" in setting else contextlib.nullcontext():
                elastic, static, ratio = compare(supernet, arch, images, labels, setting, options.repeats)
            table.add_row(name, setting, f"{elastic * 1e3:.0f}", f"{static * 1e3:.0f}", f"{ratio:.3f}")
    Console(width=120).print(f"{options.supernet}, batch {options.batch} at {options.resolution} px, {options.device}")
    Console(width=120).print(table)


def middle(supernet: TimmSupernet[Any], archs: list[Architecture]) -> Architecture:
    """The architecture with the median number of multiply-accumulates."""
    macs = supernet.macs(supernet.space.encode(archs))
    return archs[int(np.argsort(macs)[len(archs) // 2])]


def compare(
    supernet: TimmSupernet[Any], arch: Architecture, images: Tensor, labels: Tensor, setting: str, repeats: int
) -> tuple[float, float, float]:
    """Median CPU seconds of a step elastic and static, and the median ratio of neighbouring steps."""
    memory = torch.contiguous_format if setting == "contiguous" else torch.channels_last
    supernet.to(memory_format=memory)  # type: ignore[call-overload]
    static = supernet.extract(arch).train().to(memory_format=memory)  # type: ignore[call-overload]
    images = images.contiguous(memory_format=memory)
    half = torch.autocast(images.device.type, torch.bfloat16) if "bf16" in setting else contextlib.nullcontext()

    def elastic_step() -> None:
        with half:
            loss = F.cross_entropy(supernet(images, arch), labels)
        loss.backward()
        supernet.zero_grad(set_to_none=True)

    def static_step() -> None:
        with half:
            loss = F.cross_entropy(static(images), labels)
        loss.backward()
        static.zero_grad(set_to_none=True)

    def seconds(step: object) -> float:
        # CPU time on the CPU: another process on a shared machine then disturbs less than in wall-clock time.
        clock = time.process_time if images.device.type == "cpu" else time.perf_counter
        start = clock()
        step()  # type: ignore[operator]
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    pairs = []
    for i in range(repeats + 1):
        first, second = (elastic_step, static_step) if i % 2 else (static_step, elastic_step)
        times = {first: seconds(first), second: seconds(second)}
        if i:  # the first pair warms up
            pairs.append((times[elastic_step], times[static_step]))
    elastic, alone = (statistics.median(column) for column in zip(*pairs, strict=True))
    return elastic, alone, statistics.median(e / s for e, s in pairs)


if __name__ == "__main__":
    main()
