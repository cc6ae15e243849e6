"""python -m experiments.benchmarks.block_profiles STORE: does the sum of the blocks of the published MobileNetV3 tell
the latency of whole networks? Measurements are kept in STORE, an SQLite file; run again, it carries on."""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from experiments.measuring.block_profiles import BlockMaker, block_networks, block_seconds
from experiments.measuring.measure import Networks, Setup, measure_missing
from experiments.progress import Reporter
from hardware import OnnxRuntimeProfiler, Sampling, Store
from hardware.loop.session import Network
from hardware.profiling import Workload
from predictors.card import error_card
from predictors.lookup import BlockSum
from predictors.ridge import RidgePredictor
from supernet import create_supernet
from supernet.networks.block_table import block_table
from supernet.space import Genes
from supernet.space.design import covering_design


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--n", type=int, default=40, help="whole networks to judge by")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    report = Reporter()
    supernet = create_supernet("ofa_mobilenetv3_w1.0").eval()
    started = time.monotonic()
    table = block_table(supernet, 3, resolutions=[arguments.resolution])
    report.say(
        f"{len(table.blocks)} distinct blocks at {arguments.resolution} px, found in {time.monotonic() - started:.1f} s"
    )
    at_resolution = supernet.space.restrict(resolution=(arguments.resolution,))
    column = supernet.space.resolutions.index(arguments.resolution)

    def macs(genes: Genes) -> Genes:
        return supernet.macs(np.concatenate([np.full((len(genes), 1), column), genes[:, 1:]], axis=1))

    archs = at_resolution.decode(covering_design(at_resolution, arguments.n, macs, seed=0))
    named = {(arch.id, arch.resolution): arch for arch in archs}

    def whole(network: Network) -> Workload:
        return Workload(network[0], supernet.extract(named[network]).eval(), network[1])

    profiler, wholes = OnnxRuntimeProfiler("cpu"), Networks(tuple(named), whole)
    setup = Setup(Sampling(), wholes.only(list(named)[:8]))
    with Store(arguments.store) as store:
        alone = Networks(tuple(block_networks(table)), BlockMaker(supernet, table, 3))
        blocks = measure_missing(setup, store, profiler, alone, report)
        networks = measure_missing(setup, store, profiler, wholes, report)
        report.say(f"blocks: {blocks.seconds:.0f} s now; networks: {networks.seconds:.0f} s now")
        seconds = block_seconds(store, profiler.device, table)
        measurements = store.measurements(profiler.device)
        latencies = np.array([measurements[network].latency for network in named])
    genes = supernet.space.encode(archs)
    sums = BlockSum(supernet.space, table.lookup, seconds)
    total = np.append(seconds, 0.0)[table.lookup(genes)].sum(axis=1)
    report.say(f"sum of blocks over measured network: {np.median(total / latencies):.3f} in the median")
    report.say(f"scaled and shifted: {error_card(lambda: RidgePredictor(sums, 'relative'), genes, latencies)}")


if __name__ == "__main__":
    main()
