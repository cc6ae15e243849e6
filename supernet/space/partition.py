"""A space in parts by cost: compact sub-spaces, one for each of several supernets."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from supernet.space.nested import nested_chain
from supernet.space.sampling import Cost
from supernet.space.search_space import Genes, SearchSpace
from supernet.space.stage import Choices

__all__ = ["between", "partition"]


def partition(space: SearchSpace, by: Cost, k: int) -> tuple[SearchSpace, ...]:
    """`k` compact sub-spaces from the cheapest to the dearest (AutoDistil, Xu et al. 2022).

    Sub-networks of one part differ less than those of the whole space, so that sharing weights harms them less; every
    part is a space of its own and can be trained, measured and searched like any other. The parts are cut out of a
    chain of nested architectures, from the smallest to the largest, at even steps of the logarithm of the cost: the
    largest architecture of a part is the smallest of the next, and all choices between its two ends are in it. What is
    small in one dimension and large in another is in no part: that is what makes them compact.

    Args:
        space: the whole.
        by: canonical genes (n_archs, n_genes) to costs (n_archs,), such as ``supernet.macs``.
        k: number of parts; 1 is the whole space.

    Raises:
        ValueError: the space has too few choices for so many parts.
    """
    if any(stage.when for stage in space.stages):
        raise ValueError("a space whose settings exist only with others has no compact parts; restrict it instead")
    if k < 1:
        raise ValueError(f"a space cannot be in {k} parts; the least is 1")
    chain = nested_chain(space)
    costs = np.log(np.maximum.accumulate(np.asarray(by(chain), dtype=float)))
    steps = np.linspace(costs[0], costs[-1], k + 1)[1:-1]
    cuts = [0, *(int(np.abs(costs - step).argmin()) for step in steps), len(chain) - 1]
    if len(set(cuts)) <= k:
        raise ValueError(f"the space has too few choices for {k} parts: there are {len(chain)} nested levels")
    return tuple(between(space, chain[i], chain[j]) for i, j in pairwise(cuts))


def between(space: SearchSpace, low: Genes, high: Genes) -> SearchSpace:
    """The sub-space of all choices from canonical genes `low` (n_genes,) to `high` (n_genes,).

    Raises:
        ValueError: `low` is above `high` somewhere.
    """
    if (low > high).any():
        gene = space.genes[int(np.argmax(low > high))]
        raise ValueError(f"{gene.label} begins above its end; swap the two")
    columns = iter(zip(low.tolist(), high.tolist(), strict=True))

    def keep(_: str, choices: Choices) -> Choices:
        first, last = next(columns)
        return choices[first : last + 1]

    return space.narrowed(keep)
