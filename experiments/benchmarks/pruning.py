"""python experiments/benchmarks/pruning.py --seeds 0 1

Pruning while training against the whole network and against a cut at once, on scikit-learn's digits with noise: the
ways of `supernet.pruning`, each of which leaves half of the inner channels, or half of the multiply-accumulates. The
difference is between the small network and the one that it was cut out of.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn

from supernet import elastic
from supernet.pruning.consensus import ConsensusGates
from supernet.pruning.costs import share_of_macs
from supernet.pruning.dhspg import Dhspg
from supernet.pruning.hesso import Hesso
from supernet.pruning.plan import Plan, Pruner
from supernet.pruning.units import Units
from supernet.scoring.calibration import recalibrate

_TRAIN, _TEST, _BATCH, _EPOCHS = slice(0, 900), slice(1200, None), 64, 30
_STEPS = 900 // _BATCH
_WAYS: dict[str, Callable[[Units], Pruner]] = {
    "HESSO": lambda units: Hesso(units, Plan(0.5, 5 * _STEPS, 10 * _STEPS, 5)),
    "DHSPG": lambda units: Dhspg(units, Plan(0.5, 5 * _STEPS, 10 * _STEPS, 1)),
    "HESSO, half of the MACs": lambda units: Hesso(
        units, Plan(0.5, 5 * _STEPS, 10 * _STEPS, 5, share_of_macs(units.supernet))
    ),
}


class Block(nn.Module):
    """An inverted residual block that is four times as wide inside."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        inner = 4 * n_in
        self.layers = nn.Sequential(
            nn.Conv2d(n_in, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(),
            nn.Conv2d(inner, n_out, 1, bias=False), nn.BatchNorm2d(n_out),
        )  # fmt: skip
        self.residual = stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """(n, n_out, height, width)."""
        return x + self.layers(x) if self.residual else self.layers(x)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of weights and batches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = digits()
    table = Table("seed", "network", "units gone", "MACs", "test", "difference", box=None)
    for seed in options.seeds:
        dense = new_supernet(seed, images)
        train(dense, images, labels, seed)
        table.add_row(str(seed), "whole", "0", "100%", f"{accuracy(whole(dense), images, labels):.1%}", "")
        units = Units(dense)
        nothing = torch.zeros(units.n, dtype=torch.bool)
        cut = units.without(Plan(0.5, 1, 1, 1).choose(units, units.scores("l2"), nothing, 1.0))
        table.add_row(str(seed), "cut at once", str(units.n // 2), "", f"{accuracy(cut, images, labels):.1%}", "")
        for name, way in _WAYS.items():
            supernet = new_supernet(seed, images)
            pruner = way(Units(supernet))
            train(supernet, images, labels, seed, pruner)
            show(table, seed, name, supernet, pruner.gone, pruner.network(), images, labels)
        supernet, gates = with_gates(seed, images, labels)
        gone, decided = gates.gone, gates.decided
        small = recalibrate(gates.network(), images[_TRAIN].split(225))
        show(table, seed, f"gates, {decided:.0%} decided", supernet, gone, small, images, labels)
    Console(width=110).print(table)


def digits() -> tuple[Tensor, Tensor]:
    """Images (n, 1, 8, 8) and labels (n,), shuffled, with noise so that accuracy is not saturated."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    noisy = images[order] / 8 - 1 + np.random.default_rng(1).normal(0, 0.6, images.shape)
    return torch.tensor(noisy, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels[order])


def new_supernet(seed: int, images: Tensor) -> Any:
    """A small network by its dependency graph."""
    torch.manual_seed(seed)
    widths = [(8, 12, 2), (12, 12, 1), (12, 12, 1), (12, 16, 2), (16, 16, 1), (16, 16, 1)]
    stem = [nn.Conv2d(1, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    model = nn.Sequential(*stem, *(Block(*width) for width in widths), *head)
    return elastic(model, example_input=images[:2], multiple_of=1, importance=None)


def train(supernet: Any, images: Tensor, labels: Tensor, seed: int, pruner: Pruner | None = None) -> None:
    """Train the largest network, with a pruner where there is one."""
    optimizer = sgd(supernet)
    if pruner is not None:
        pruner.attach(optimizer)
    fit(supernet, optimizer, images, labels, seed)


def sgd(supernet: Any) -> torch.optim.SGD:
    """The optimiser of the weights."""
    return torch.optim.SGD(supernet.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=3e-4)


def with_gates(seed: int, images: Tensor, labels: Tensor) -> tuple[Any, ConsensusGates]:
    """The same with gates whose cost is to be six tenths of the MACs."""
    supernet = new_supernet(seed, images)
    units = Units(supernet)
    gates = ConsensusGates(units, 0.6, share_of_macs(supernet))
    optimizer = sgd(supernet)
    opening = torch.optim.Adam(gates.parameters(), lr=0.03)

    def open_and_close(*_: Any) -> None:
        opening.step()
        opening.zero_grad()

    optimizer.register_step_post_hook(open_and_close)
    fit(supernet, optimizer, images, labels, seed, gates.penalty)
    return supernet, gates


def fit(
    supernet: Any,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    seed: int,
    penalty: Callable[[float], Tensor] | None = None,
) -> None:
    """Train the largest network: a warm-up of an epoch, then a cosine."""
    generator, n_steps, step = torch.Generator().manual_seed(seed), _EPOCHS * _STEPS, 0
    supernet.train()
    for _ in range(_EPOCHS):
        order = torch.randperm(900, generator=generator)
        for i in range(_STEPS):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (1 + math.cos(math.pi * step / n_steps)) * min(1, (step + 1) / _STEPS)
            batch = order[i * _BATCH : (i + 1) * _BATCH]
            noisy = images[batch] + 0.2 * torch.randn(images[batch].shape, generator=generator)
            loss = nn.functional.cross_entropy(
                supernet(noisy, supernet.space.largest), labels[batch], label_smoothing=0.1
            )
            if penalty is not None:
                loss = loss + penalty(step / n_steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    supernet.eval()


def whole(supernet: Any) -> Callable[[Tensor], Tensor]:
    """The largest network."""
    return lambda x: supernet(x, supernet.space.largest)


def accuracy(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> float:
    """On test."""
    if isinstance(network, nn.Module):
        network.eval()
    with torch.no_grad():
        return float((network(images[_TEST]).argmax(1) == labels[_TEST]).float().mean())


def show(
    table: Table, seed: int, name: str, supernet: Any, gone: Tensor, small: nn.Module, images: Tensor, labels: Tensor
) -> None:
    """A row of the table."""
    kept = Units(supernet).kept(gone)
    score = accuracy(small, images, labels)
    with torch.no_grad():
        difference = float((small(images[_TEST]) - whole(supernet)(images[_TEST])).abs().max())
    shown = "" if name.startswith("gates") else f"{difference:.1e}"  # its norms were recalibrated
    table.add_row(str(seed), name, str(int(gone.sum())), f"{share_of_macs(supernet)(kept):.1%}", f"{score:.1%}", shown)


if __name__ == "__main__":
    main()
