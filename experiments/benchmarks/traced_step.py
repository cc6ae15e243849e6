"""python experiments/benchmarks/traced_step.py

What a network that became a supernet by its dependency graph costs: forward and backward of a sub-network through the
supernet against the same network extracted, in turns; putting a sub-network together; and finding the graph.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import rich
import timm
import torch
from rich.table import Table

from supernet.families.traced import elastic_traced
from supernet.graph.groups import DependencyGraph

MODELS = ("convnext_atto", "regnety_004", "swin_tiny_patch4_window7_224", "mobilenetv4_conv_small")


def main() -> None:
    """Measure every network, and print one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    table = Table("network", "elastic / extracted", "assembling, ms", "graph, s", "graph and trials, s", box=None)
    for name in options.models:
        model: Any = timm.create_model(name, num_classes=10)
        images = torch.randn(options.batch, *model.pretrained_cfg["input_size"])
        start = time.process_time()
        DependencyGraph.of(model, images[:1])
        graph = time.process_time() - start
        start = time.process_time()
        supernet = elastic_traced(model, example_input=images[:1]).train()
        whole = time.process_time() - start
        archs = [supernet.space.smallest, *supernet.space.sample(1, np.random.default_rng(0)), supernet.space.largest]
        ratios = [ratio(supernet, arch, images, options.repeats) for arch in archs]
        for _ in range(3):
            supernet._assemble(archs[1], copy=False)
        start = time.process_time()
        for _ in range(20):
            supernet._assemble(archs[1], copy=False)
        assembling = (time.process_time() - start) / 20
        row = (" ".join(f"{r:.3f}" for r in ratios), f"{assembling * 1e3:.1f}", f"{graph:.1f}", f"{whole:.1f}")
        table.add_row(name, *row)
    rich.print(table)


def ratio(supernet: Any, arch: Any, images: torch.Tensor, repeats: int) -> float:
    """Median ratio of CPU time, elastic over extracted, of neighbouring steps; the order changes from pair to pair."""
    subnet = supernet.extract(arch).train()

    def elastic() -> None:
        supernet(images, arch).sum().backward()
        supernet.zero_grad(set_to_none=True)

    def extracted() -> None:
        subnet(images).sum().backward()
        subnet.zero_grad(set_to_none=True)

    pairs = []
    for i in range(repeats + 1):
        times = {}
        for step in (elastic, extracted) if i % 2 else (extracted, elastic):
            start = time.process_time()
            step()
            times[step] = time.process_time() - start
        pairs.append(times[elastic] / times[extracted])
    return statistics.median(pairs[1:])


if __name__ == "__main__":
    main()
