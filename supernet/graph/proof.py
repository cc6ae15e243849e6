"""Numeric checks of a supernet by its dependency graph: each can fail, and together they find a missed dependency."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from supernet.graph.groups import as_inputs
from supernet.graph.tracing import tensors_in

__all__ = ["Proof", "prove"]


@dataclass(frozen=True)
class Proof:
    """Largest differences, each over the size of what is compared, and what did not hold."""

    largest: float
    """The largest sub-network against the original."""
    extracted: float
    """Extracted sub-networks against calls."""
    removed: float
    """Units set to zero against the sub-network without them; 0 where all are normalised together."""
    fewer: bool
    """Whether every smaller sub-network has strictly fewer multiply-accumulates."""

    @property
    def holds(self) -> bool:
        """Whether all is as it must be."""
        return self.largest < 1e-5 and self.extracted < 1e-6 and self.removed < 1e-4 and self.fewer


def prove(supernet: Any, original: nn.Module, inputs: Any, n_archs: int = 3, seed: int = 0) -> Proof:
    """Hold a `TracedSupernet` against the network that it was made of.

    Args:
        supernet: in eval mode.
        original: the network, in eval mode; its weights should hide nothing (`supernet.testing.randomize`).
        inputs: as for the supernet's call.
        n_archs: random sub-networks, beside the smallest.
    """
    rng = np.random.default_rng(seed)
    space = supernet.space
    archs = [space.smallest, *space.sample(n_archs, rng)]
    with torch.no_grad():
        largest = difference(supernet(inputs, space.largest), original(*as_inputs(inputs)))
        extracted = max(difference(supernet.extract(a).eval()(*as_inputs(inputs)), supernet(inputs, a)) for a in archs)
        removed = max((_removal(supernet, inputs, rng) for _ in range(n_archs)), default=0.0)
    macs = supernet.macs(space.encode([*archs, space.largest])).tolist()
    fewer = all(m < macs[-1] for arch, m in zip(archs, macs, strict=False) if arch != space.largest)
    return Proof(largest, extracted, removed, fewer)


def difference(found: Any, expected: Any) -> float:
    """The largest difference between the tensors of two outputs, over the largest value of the second."""
    pairs = list(zip(tensors_in(found), tensors_in(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return float("inf")
    pairs = [(a, b) for a, b in pairs if b.is_floating_point() and b.numel()]
    differences = [float((a - b).abs().max() / b.abs().max().clamp_min(1e-12)) for a, b in pairs]
    return max((float("inf") if d != d else d for d in differences), default=0.0)


def _removal(supernet: Any, inputs: Any, rng: np.random.Generator) -> float:
    """Set everything to zero that belongs to some units, in a copy, and compare it with the network without them.

    Units that something normalises or averages together are left alone: without one of them the others change.
    """
    dials = [dial for dial in supernet.dials if not any(group.mixed for group in dial.groups)]
    if not dials:
        return 0.0
    zeroed = copy.deepcopy(supernet)
    tensors: dict[str, Tensor] = {**dict(zeroed.named_parameters()), **dict(zeroed.named_buffers())}
    kept = supernet.graph.full
    for dial in dials:
        share = rng.choice([0.5, 0.75])
        value = max(1, int(dial.full * share)) if dial.role == "heads" else share
        for group in dial.groups:
            n = kept[group.index] = dial.kept(group, value, supernet.multiple_of)
            for (name, axis), where in group.spots.items():
                tensors[name].index_fill_(axis, torch.from_numpy(where[n:].ravel()), 0)
    return difference(supernet.cut(kept)(*as_inputs(inputs)), zeroed(inputs, supernet.space.largest))
