"""Several fine-tuned copies of one network as one network."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["breadcrumbs"]


def breadcrumbs(
    base: Mapping[str, Tensor],
    tuned: Sequence[Mapping[str, Tensor]],
    parameters: Collection[str],
    *,
    scale: float = 0.3,
    smallest: float = 0.85,
    largest: float = 0.01,
) -> dict[str, Tensor]:
    """The base with a share of what every copy has learned (Model Breadcrumbs, Davari & Belilovsky 2023).

    Of what fine-tuning has changed in a parameter the largest changes are left out, which are outliers that harm the
    other tasks, and the smallest, which are noise; what is left of all copies is added to the base. Which tasks there
    are and their data need not be known.

    Args:
        base: the tensors that all copies began with, by name.
        tuned: those of the copies.
        parameters: names of what is trained; anything else, such as running statistics, stays the base's.
        scale: of the changes; 1 would add them in full.
        smallest, largest: shares of the numbers of a parameter, in [0, 1], whose changes are left out.

    Raises:
        ValueError: a share is out of range, there is nothing to merge, or a copy is of another network.
    """
    if not (0 <= smallest <= 1 and 0 <= largest <= 1 and smallest + largest < 1):
        raise ValueError(f"leaving out the {smallest:g} smallest and {largest:g} largest leaves nothing; take less")
    if not tuned:
        raise ValueError("there is no fine-tuned copy to merge; give at least one")
    merged = dict(base)
    for copy in tuned:
        for name in parameters:
            if name not in copy or copy[name].shape != base[name].shape:
                has = f"of shape {list(copy[name].shape)}" if name in copy else "missing"
                raise ValueError(f"{name} is {has} in a copy and {list(base[name].shape)} in the base")
            change = copy[name] - base[name]
            merged[name] = merged[name] + scale * _middle(change, smallest, largest)
    return merged


def _middle(change: Tensor, smallest: float, largest: float) -> Tensor:
    """The changes without the smallest and the largest shares of them."""
    n = change.numel()
    low, high = round(smallest * n), n - round(largest * n)
    order = torch.argsort(change.abs().flatten(), stable=True)
    kept = torch.zeros(n, dtype=torch.bool, device=change.device)
    kept[order[low:high]] = True
    return torch.where(kept.view(change.shape), change, torch.zeros_like(change))
