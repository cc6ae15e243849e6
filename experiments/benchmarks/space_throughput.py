"""python experiments/benchmarks/space_throughput.py

CPU seconds for 100,000 architectures of a published space (sample, encode, decode, count), and what extracting a
sub-network costs against copying its tensors, interleaved.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from supernet import create_supernet
from supernet.networks.timm_supernet import TimmSupernet


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--supernet", default="ofa_mobilenetv3_w1.0", help="a registered name")
    parser.add_argument("--n", type=int, default=100_000, help="architectures")
    parser.add_argument("--repeats", type=int, default=5, help="of every row; the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    supernet = create_supernet(options.supernet)
    time_space(supernet, options.n, options.repeats)
    time_extraction(supernet, 6 * options.repeats)


def time_space(supernet: TimmSupernet[Any], n: int, repeats: int) -> None:
    """Print the CPU seconds for `n` architectures."""
    space, rng = supernet.space, np.random.default_rng(0)
    archs = space.sample(n, rng)
    genes = space.encode(archs)
    supernet.macs(genes[:1])  # builds the tables
    rows: dict[str, Callable[[], object]] = {
        "sample": lambda: space.sample(n, rng),
        "encode": lambda: space.encode(archs),
        "decode": lambda: space.decode(genes),
        "macs": lambda: supernet.macs(genes),
        "n_parameters": lambda: supernet.n_parameters(genes),
    }
    for name, call in rows.items():
        seconds = statistics.median(cpu_seconds(call) for _ in range(repeats))
        print(f"{name:>14} of {n:,}: {seconds:.2f} s")


def time_extraction(supernet: TimmSupernet[Any], repeats: int) -> None:
    """Print what extraction costs beside copying the same tensors."""
    for name, arch in {"smallest": supernet.space.smallest, "largest": supernet.space.largest}.items():
        tensors = list(supernet.extract(arch).state_dict().values())
        pairs = [
            (cpu_seconds(partial(supernet.extract, arch)), cpu_seconds(lambda t=tensors: [x.clone() for x in t]))
            for _ in range(repeats)
        ]
        extract, copy = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
        ratio = statistics.median(e / c for e, c in pairs)
        print(f"extract {name}: {extract:.1f} ms, copying its tensors {copy:.1f} ms, ratio {ratio:.1f}")


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
