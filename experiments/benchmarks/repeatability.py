"""python experiments/benchmarks/repeatability.py

Campaigns over the same networks of the demo's space, each in a process of its own and at a time of its own: in turns
with nothing beside it, and with a busy loop on every core. How well do two of them agree that share eight anchors and
no more? Beside that: how well medians agree, and how well intervals of 95 % hold, between the two halves of a campaign,
between campaigns of like and of unlike load.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit
from scipy.stats import kendalltau

from experiments.settings.recipe import load_recipe
from hardware import OnnxRuntimeProfiler, Sampling, Session, Store, Workload, measure
from hardware.loop.session import MeasuredNetwork
from hardware.loop.tying import tie_sessions
from supernet import create_supernet
from supernet.space.design import covering_design

_RECIPE = Path(__file__).parents[1] / "recipes" / "digits.toml"
_BUSY = "while True: pass"
_N_ANCHORS = 8

Array = NDArray[np.float64]


def campaign(path: Path, batch_sizes: Sequence[int], n: int, sampling: Sampling) -> None:
    """One session for every batch size over the first `n` networks of the design."""
    supernet = create_supernet(load_recipe(_RECIPE).supernet.name, 10, 1, **load_recipe(_RECIPE).supernet.settings)
    archs = supernet.space.decode(covering_design(supernet.space, n, supernet.macs, seed=0))
    workloads = [Workload(arch.id, supernet.extract(arch).eval(), arch.resolution, 1) for arch in archs]
    with Store(path) as store:
        for batch_size in batch_sizes:
            (session,) = measure(OnnxRuntimeProfiler(f"batch {batch_size}", batch_size), workloads, sampling)
            store.add_session(session)


def in_a_process(arguments: argparse.Namespace, path: Path, busy: int, seed: int) -> None:
    """A campaign as another invocation of this file, with so many busy loops beside it."""
    loops = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(busy)]
    command = [sys.executable, __file__, "--campaign", str(path), "--seed", str(seed)]
    command += ["--archs", str(arguments.archs), "--turns", str(arguments.turns)]
    command += ["--batch-sizes", *map(str, arguments.batch_sizes)]
    try:
        subprocess.run(command, check=True)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def compare(first: Session, second: Session) -> dict[str, float]:
    """How two campaigns agree on networks that only their anchors tie: all others have another name in the second."""
    networks = [n if i < _N_ANCHORS else _renamed(n) for i, n in enumerate(second.networks)]
    tie = tie_sessions([first, dataclasses.replace(second, networks=tuple(networks))], at=0)
    places = {name: i for i, name in enumerate(tie.networks)}
    own = [places[network.name] for network in first.networks[_N_ANCHORS:]]
    other = [places[network.name] for network in networks[_N_ANCHORS:]]
    difference = tie.levels[other] - tie.levels[own]
    deviations = np.hypot(tie.deviations[own], tie.deviations[other])
    medians = [np.log(np.nanmedian(session.seconds, axis=1))[_N_ANCHORS:] for session in (first, second)]
    return {
        "sd": float(difference.std()),
        "level": float(difference.mean()),
        "tau": _tau(tie.levels[own], tie.levels[other]),
        "sd of medians": float((medians[1] - medians[0]).std()),
        "level of medians": float((medians[1] - medians[0]).mean()),
        "tau of medians": _tau(*medians),
        "held": float(np.mean(np.abs(difference) <= stdtrit(tie.degrees, 0.975) * deviations)),
    }


def halves(session: Session) -> float:
    """The share of intervals that hold between the first and the second half of a campaign."""
    middle = session.n_turns // 2
    parts = [
        Session.of_turns(
            session.device,
            session.networks,
            [(session.started[:, t], session.seconds[:, t], "") for t in turns],  # type: ignore[misc]
            id=f"{session.id}{number}",
            began=session.began,
        )
        for number, turns in enumerate((range(middle), range(middle, session.n_turns)))
    ]
    first, second = (part.fit for part in parts)
    difference = second.levels - first.levels
    difference -= np.median(difference)
    degrees = np.minimum(first.degrees, second.degrees)
    limits = stdtrit(degrees, 0.975) * np.hypot(first.deviations, second.deviations)
    return float(np.mean(np.abs(difference) <= limits))


def _renamed(network: MeasuredNetwork) -> MeasuredNetwork:
    return dataclasses.replace(network, key=f"{network.key} in the second")


def _tau(first: Array, second: Array) -> float:
    return float(kendalltau(first, second).statistic)  # pyright: ignore[reportAttributeAccessIssue]


def report(campaigns: Sequence[tuple[str, Path]], batch_sizes: Sequence[int]) -> None:
    """Print, for each batch size, every pair of campaigns, and how often intervals hold."""
    console = Console(width=130)
    for batch_size in batch_sizes:
        sessions = []
        for load, path in campaigns:
            with Store(path) as store:
                (device,) = (one for one in store.devices() if one.batch_size == batch_size)
                sessions.append((load, store.sessions(device)[0]))
        table = Table(title=f"batch {batch_size}: two campaigns tied by {_N_ANCHORS} anchors, and their medians")
        for name in ("campaigns", "sd", "level", "τ", "sd, medians", "level, medians", "τ, medians", "intervals held"):
            table.add_column(name, justify="left" if name == "campaigns" else "right")
        held = defaultdict(list)
        for (load, one), (other_load, other) in itertools.combinations(sessions, 2):
            found = compare(one, other)
            kind = "like load" if load == other_load else "unlike load"
            held[kind].append(found["held"])
            texts = (f"{value:.3f}" if "tau" in name else f"{value:+.1%}" if "level" in name else f"{value:.1%}"
                     for name, value in found.items())  # fmt: skip
            table.add_row(f"{load}, {other_load}", *texts)
        console.print(table)
        held["halves of a campaign"] = [halves(session) for _, session in sessions]
        for kind, shares in held.items():
            console.print(f"  intervals of 95 % hold between {kind}: {np.mean(shares):.1%} ({len(shares)})")
        turns = ", ".join(f"{session.n_turns}" for _, session in sessions)
        console.print(f"  turns: {turns}")


def main() -> None:
    """Measure and print; with --campaign, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archs", type=int, default=40, help="number of networks (%(default)s)")
    parser.add_argument("--turns", type=int, default=100, help="of every campaign (%(default)s)")
    parser.add_argument("--pairs", type=int, default=2, help="quiet and busy campaigns, of each (%(default)s)")
    parser.add_argument("--busy", type=int, default=os.cpu_count(), help="busy loops beside a busy one (%(default)s)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32], help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--campaign", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.campaign is not None:
        sampling = Sampling(min_turns=arguments.turns, max_turns=arguments.turns, seed=arguments.seed)
        campaign(arguments.campaign, arguments.batch_sizes, arguments.archs, sampling)
        return
    with tempfile.TemporaryDirectory() as folder:
        campaigns = []
        for number in range(2 * arguments.pairs):
            load = "busy" if number % 2 else "quiet"
            campaigns.append((load, Path(folder) / f"{number}.sqlite"))
            in_a_process(arguments, campaigns[-1][1], arguments.busy if number % 2 else 0, seed=number)
        report(campaigns, arguments.batch_sizes)


if __name__ == "__main__":
    main()
