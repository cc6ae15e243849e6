"""python experiments/benchmarks/families.py

What the families made by hand have that the general way has not: for networks of each, the same sub-networks are looked
for in the supernet by the dependency graph. The table says which choices of the family's space the other has, for how
many of random sub-networks it has the same network and the same outputs, and what a
step and putting together cost, general over own, in turns. With `--names` how many of timm's names each takes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from typing import Any

import numpy as np
import timm
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from supernet import Architecture, elastic
from supernet.families.traced import TracedSupernet
from supernet.graph.proof import difference
from supernet.networks.from_timm import FAMILIES
from supernet.networks.timm_supernet import TimmSupernet
from supernet.testing import randomize

MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vit_tiny_patch16_224": ({}, {}),
    "deit_tiny_distilled_patch16_224": ({}, {}),
    "mobilenetv3_large_100": ({"kernels": (3, 5)}, {"kernels": (3,)}),
    "efficientnet_b0": ({"kernels": (3, 5)}, {"kernels": (3,)}),
}
"""By name the choices for the family and for the general way, where the defaults differ."""


def main() -> None:
    """Compare, and print one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--archs", type=int, default=20, help="random sub-networks")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of steps; 0: no timing")
    parser.add_argument("--names", action="store_true", help="also try every name of timm that belongs to a family")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("network", "sub-networks: own, general", "the same", "same outputs", "step", "assembling", box=None)
    for name in options.models:
        table.add_row(name, *compared(name, options.archs, options.repeats))
    console = Console(width=150)
    console.print(table)
    if options.names:
        console.print(names_taken())


def compared(name: str, n_archs: int, repeats: int) -> tuple[str, ...]:
    """The cells of one row."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=10)
    randomize(model)
    of_own, of_general = MODELS.get(name, ({}, {}))
    own = elastic(model, family="own", importance=None, resolutions=_size(model), **of_own).eval()
    general = elastic(model, family="traced", importance=None, **of_general).eval()
    assert isinstance(general, TracedSupernet)
    images = torch.randn(2, 3, *_size(model) * 2)
    same = equal = 0
    found: tuple[Architecture, Architecture] | None = None
    missing: Counter[str] = Counter()
    for arch in own.space.sample(n_archs, np.random.default_rng(0)):
        subnet = own.extract(arch).eval()
        twin = twin_of(general, subnet, missing)
        if twin is None:
            continue
        same += 1
        with torch.no_grad():
            equal += difference(general(images, twin), subnet(images)) < 1e-5
        found = found or (arch, twin)
    why = "; ".join(f"{what} ({n})" for what, n in missing.most_common(2))
    cells = [f"{own.space.size:.2g}, {general.space.size:.2g}", f"{same} of {n_archs}{' : ' + why if why else ''}"]
    cells.append(f"{equal} of {same}")
    if found is None or not repeats:
        return (*cells, "", "")
    return (*cells, *(f"{ratio:.2f}" for ratio in ratios(own, general, found, images, repeats)))


def twin_of(general: TracedSupernet, subnet: nn.Module, missing: Counter[str]) -> Architecture | None:
    """The architecture of the general supernet that has the shapes of a network; None where it has none."""
    tensors = dict(subnet.named_parameters())
    genes = general.space.encode([general.space.largest])[0]
    labels = {gene.label: i for i, gene in enumerate(general.space.genes)}
    paths = {path for path, _ in subnet.named_modules()}
    for s, run in enumerate(general.runs):
        depth = sum(path in paths for path in run.paths)
        choices = general.space.genes[labels[f"stage{s + 1}.depth"]].choices
        if depth not in choices:
            missing[f"depth {depth} of {len(run.names)}"] += 1
            return None
        genes[labels[f"stage{s + 1}.depth"]] = choices.index(depth)
    for dial in general.dials:
        gene = general.space.genes[labels[dial.label]] if dial.label in labels else None
        for index in range(len(gene.choices) if gene is not None else 0):
            trial = general.space.decode(_with(genes, labels[dial.label], index))[0]
            kept = general.kept(trial)
            if all(
                tensors[name].shape[axis] == general.graph.axis(name, axis, _full(general, name, axis))(kept)
                for group in dial.groups
                for name, axis in group.spots
                if name in tensors
            ) and all(tensors[one.name].shape[2] == kept[one.index] for one in dial.kernels if one.name in tensors):
                genes[labels[dial.label]] = index
                break
    twin = general.space.decode(genes[None])[0]
    shapes = {name: tensor.shape for name, tensor in general.extract(twin).named_parameters()}
    for name, tensor in tensors.items():
        if shapes.get(name) != tensor.shape:
            missing[f"{'.'.join(name.split('.')[-2:])} {list(tensor.shape)[:2]}"] += 1
            return None
    return twin


def ratios(
    own: TimmSupernet[Any],
    general: TracedSupernet,
    archs: tuple[Architecture, Architecture],
    images: torch.Tensor,
    n: int,
) -> tuple[float, float]:
    """Median ratios of CPU time of neighbouring steps, and of putting together: general over own."""

    def step(supernet: Any, arch: Architecture) -> float:
        start = time.process_time()
        supernet(images, arch).sum().backward()
        supernet.zero_grad(set_to_none=True)
        return time.process_time() - start

    def together(supernet: Any, arch: Architecture) -> float:
        start = time.process_time()
        for _ in range(10):
            supernet._assemble(arch, copy=False)
        return time.process_time() - start

    medians = []
    for measured in (step, together):
        pairs = []
        for i in range(n + 1):
            order = ((own, archs[0]), (general, archs[1]))[:: 1 if i % 2 else -1]
            times = {id(supernet): measured(supernet, arch) for supernet, arch in order}
            pairs.append(times[id(general)] / times[id(own)])
        medians.append(statistics.median(pairs[1:]))
    return medians[0], medians[1]


def names_taken() -> Table:
    """How many of timm's names with the families' classes each of the two takes."""
    table = Table("class", "names", "own", "general", box=None)
    counts: dict[str, Counter[str]] = {}
    for name in timm.list_models():
        with torch.device("meta"):
            try:
                model = timm.create_model(name)
            except Exception:
                continue
            if not any(isinstance(model, family.models) for family in FAMILIES):
                continue
            count = counts.setdefault(type(model).__name__, Counter())
            count["names"] += 1
            for family in ("own", "traced"):
                try:
                    elastic(copy.deepcopy(model), family=family, importance=None)
                except ValueError:
                    continue
                count[family] += 1
    for kind, count in sorted(counts.items()):
        table.add_row(kind, *(str(count[column]) for column in ("names", "own", "traced")))
    return table


def _size(model: Any) -> tuple[int]:
    return (model.pretrained_cfg["input_size"][-1],)


def _full(general: TracedSupernet, name: str, axis: int) -> int:
    return dict(general.named_parameters())[name].shape[axis]


def _with(genes: np.ndarray[Any, Any], place: int, index: int) -> np.ndarray[Any, Any]:
    changed = genes.copy()
    changed[place] = index
    return changed[None]


if __name__ == "__main__":
    main()
