"""The reference network: small, fixed, and measured beside everything else so that drift of a machine is seen."""

from __future__ import annotations

import torch
from torch import nn

from hardware.profiling import Workload

__all__ = ["reference_workload"]


def reference_workload() -> Workload:
    """A plain network of 16 million multiply-accumulates: less than a millisecond on one CPU core.

    It never changes, so its times can be compared over years. Dense, depthwise and pointwise convolutions see what
    slows computing, and 4 MB of weights, which no core's own cache holds, what slows memory.
    """
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 64, 1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
        nn.ReLU(),
        nn.Conv2d(64, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 1024),
        nn.ReLU(),
        nn.Linear(1024, 1024),
        nn.ReLU(),
        nn.Linear(1024, 10),
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.numel() ** 0.5)
    return Workload("reference", network.eval(), resolution=96)
