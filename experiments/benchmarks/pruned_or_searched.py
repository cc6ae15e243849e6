"""python experiments/benchmarks/pruned_or_searched.py experiments/recipes/digits_pruning.toml --target "macs <= 50%"

One network for one budget, by every rule of pruning while training and by a search in a supernet of the same network,
on the data of a recipe: what each keeps of the accuracy, and what the first device of the recipe takes for it, all
measured in one session. With a budget of latency ("latency@cpu-b1 <= 70%") the device is asked first, about 40
sub-networks of that network, and all plan with the line that is fitted to them; the best is then one of those that were
measured to keep it. The network is timm's test_resnet with two blocks in each of its four stages. Every training has as
many epochs; the supernet's runs four networks in each step. What is searched is the best on validation of those within
15 % below the budget; it is not trained any further. A rule that cannot keep the budget has the least it can.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import rich
import timm
import torch
from rich.table import Table
from torch import nn

from experiments.budgets import format_seconds
from experiments.measuring.devices import create_profiler
from experiments.run_folder import RunFolder
from experiments.settings.target import Target, read_target
from experiments.training.pricing import fitted_prices
from hardware.loop.measurement import Measurements
from hardware.loop.measuring import measure
from hardware.loop.turns import Sampling
from hardware.profiling import Workload
from supernet import elastic
from supernet.architecture import Architecture
from supernet.families.traced import TracedSupernet
from supernet.pruning.costs import Cost, Prices, share_of_macs
from supernet.pruning.plan import Plan
from supernet.pruning.spec import Pruning, Rule
from supernet.pruning.units import Units
from supernet.scoring.calibration import evaluate, recalibrate
from supernet.space.design import covering_design
from supernet.training import Phase, Schedule, Trainer, plain, pruning, single_stage

_BAND = 0.15  # of the budget, below it
_ASKED, _TOLERANCE = 40, 0.02
_DRAWN, _PARENTS, _CHILDREN, _ROUNDS = 24, 4, 12, 2


def main() -> None:
    """Train, search, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="whose data and device are taken")
    parser.add_argument("--target", default="macs <= 50%", help="of macs, parameters or latency")
    parser.add_argument("--epochs", type=int, default=3, help="of every training")
    parser.add_argument("--rules", nargs="+", default=list(get_args(Rule)), help="of pruning")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and the search")
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = read_target(options.target)
    with tempfile.TemporaryDirectory() as folder:
        show(RunFolder.start(options.recipe, Path(folder) / "run"), target, options)


def show(run: RunFolder, target: Target, options: argparse.Namespace) -> None:
    """Every network, and the table of all."""
    aim = Pruning(target.value, of=target.of, absolute=target.absolute)
    if target.of == "latency":
        aim = replace(aim, prices=asked(run, options.seed))
    schedule = Schedule(options.epochs, 0.1, 1)
    found: dict[str, tuple[nn.Module, float]] = {}

    def keep(name: str, network: nn.Module, share: float) -> None:
        found[name] = (settled(network, run), share)
        score = accuracy(found[name][0], run, "validation")
        print(f"{name}: {score:.1%} on validation, {share:.0%} of the MACs", flush=True)

    dense = trained(run, options.seed, lambda net: plain(net.space, schedule))
    keep("the whole network", dense.extract(dense.space.largest), 1.0)
    units = Units(dense)
    plan = Plan(target.value, 1, 1, 1, aim.cost(dense))
    gone = plan.choose(units, units.scores("l2"), torch.zeros(units.n, dtype=torch.bool), 1.0)
    keep("cut at once", units.without(gone), float(share_of_macs(dense)(units.kept(gone))))
    over = {"the whole network"}
    for rule in options.rules:
        how = reachable(replace(aim, by=rule, end=0.7), untrained(run, options.seed), schedule, run)
        net = trained(run, options.seed, lambda net, how=how: pruning(net.space, schedule, how))
        over |= {rule} if how.target > target.value else set()
        removable = how.removable(net)
        gone = removable.zero
        keep(rule, removable.without(gone), removable.priced(share_of_macs(net), gone))
    net = trained(run, options.seed, lambda net: single_stage(net.space, schedule))
    cost = aim.cost(net)
    assert cost is not None
    arch = searched(net, run, cost, target.value, options.seed)
    keep("searched in a supernet", net.extract(arch), spent(net, arch, share_of_macs(net)))
    table = Table("network", "MACs", run.recipe.devices[0].name, "accuracy on test", box=None)
    seconds = latencies(run, {name: network for name, (network, _) in found.items()})
    tested = {name: accuracy(network, run, "test") for name, (network, _) in found.items()}
    if target.of == "latency":
        most = target.value * (1.0 if target.absolute else seconds["the whole network"])
        over = {name for name, value in seconds.items() if value > (1 + _TOLERANCE) * most}
    for name, (_, share) in found.items():
        table.add_row(name, f"{share:.0%}", format_seconds(seconds[name]), f"{tested[name]:.1%}")
    rich.print(table)
    print(f"not within {target}: {', '.join(sorted(over)) or 'none'}")
    kept = [name for name in tested if name not in over]
    print(f"the best within the budget: {max(kept, key=lambda name: tested[name], default='none')}")


def asked(run: RunFolder, seed: int) -> Prices:
    """What the device asks for every operation, by measurements of sub-networks without any training."""
    net = untrained(run, seed)
    archs = net.space.decode(covering_design(net.space, _ASKED, net.macs, seed))
    seconds = latencies(run, {arch.id: net.extract(arch) for arch in archs})
    prices, error = fitted_prices(net, archs, np.array([seconds[arch.id] for arch in archs]), seed)
    print(f"a line in the costs of {len(archs)} sub-networks is {error:.1%} off on those it has not seen", flush=True)
    return prices


def reachable(how: Pruning, net: TracedSupernet, schedule: Schedule, run: RunFolder) -> Pruning:
    """With as much more as the rule cannot do without: whole operators come in large pieces."""
    while True:
        try:
            how.start(net, schedule.epochs * run.data.steps_per_epoch).remove()
        except ValueError as error:
            if "cannot be reached" not in str(error):
                raise
            how = replace(how, target=1.05 * how.target)
        else:
            return how


def untrained(run: RunFolder, seed: int) -> TracedSupernet:
    """A new network of the seed."""
    torch.manual_seed(seed)
    model = timm.create_model("test_resnet", num_classes=run.n_outputs, in_chans=run.data.in_channels, layers=(2,) * 4)
    size = run.data.resolution
    net: Any = elastic(model, family="traced", example_input=torch.zeros(1, run.data.in_channels, size, size))
    return net


def trained(run: RunFolder, seed: int, phases: Callable[[TracedSupernet], tuple[Phase, ...]]) -> TracedSupernet:
    """The same, trained."""
    net = untrained(run, seed)
    Trainer(net, phases(net), run.data, seed=seed).run()
    return net.eval()


def settled(network: nn.Module, run: RunFolder) -> nn.Module:
    """With statistics of its own."""
    score = run.recipe.score
    return recalibrate(network, list(run.data.calibration_batches(score.calibration_images, score.batch_size))).eval()


def accuracy(network: nn.Module, run: RunFolder, split: Any) -> float:
    """Of a network that is settled."""
    return float(evaluate(network, run.data.evaluation_batches(split, run.recipe.score.batch_size)).value)


def spent(net: TracedSupernet, arch: Architecture, cost: Cost) -> float:
    """What a sub-network costs."""
    gone = [path for row, stage in zip(net.runs, arch.stages, strict=True) for path in row.paths[len(stage) :]]
    return float(cost(net.kept(arch), dict.fromkeys(gone, 0.0)))


def searched(net: TracedSupernet, run: RunFolder, cost: Cost, budget: float, seed: int) -> Architecture:
    """The best sub-network within the budget, by a small evolution on validation."""
    rng = np.random.default_rng(seed)
    scores: dict[Architecture, float] = {}

    def fits(arch: Architecture) -> bool:
        return (1 - _BAND) * budget <= spent(net, arch, cost) <= budget and arch not in scores

    def score(archs: list[Architecture]) -> None:
        for arch in dict.fromkeys(archs):
            scores[arch] = accuracy(settled(net.extract(arch), run), run, "validation")

    score([arch for arch in net.space.sample(2000, rng) if fits(arch)][:_DRAWN])
    for _ in range(_ROUNDS):
        parents = net.space.encode(sorted(scores, key=lambda arch: scores[arch])[-_PARENTS:])
        genes = np.repeat(parents, 200, axis=0)
        others = net.space.sample_genes(len(genes), rng)
        genes = np.where(rng.random(genes.shape) < 0.15, others, genes)
        children = net.space.decode(net.space.canonical(genes))
        order = rng.permutation(len(children)).tolist()
        score([children[i] for i in order if fits(children[i])][:_CHILDREN])
    print(f"{len(scores)} sub-networks scored", flush=True)
    return max(scores, key=lambda arch: scores[arch])


def latencies(run: RunFolder, networks: dict[str, nn.Module]) -> dict[str, float]:
    """Seconds on the first device of the recipe, measured side by side."""
    profiler = create_profiler(run.recipe.devices[0])
    size, channels = run.data.resolution, run.data.in_channels
    workloads = [Workload(name, copy.deepcopy(network), size, channels) for name, network in networks.items()]
    (session,) = measure(profiler, workloads, Sampling(0.03, max_turns=40, seed=0), purpose="final")
    found = Measurements(profiler.device, [session])
    return {name: found[name, size].latency for name in networks}


if __name__ == "__main__":
    main()
