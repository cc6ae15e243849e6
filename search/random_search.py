"""Random search: the control that every tactic has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.archive import Archive
from search.objectives import Constraint, Objective
from search.result import SearchResult
from supernet.space import Genes, SearchSpace

__all__ = ["run_random"]


def run_random(
    space: SearchSpace,
    objectives: Sequence[Objective],
    *,
    budget: int,
    seed: int,
    constraints: Sequence[Constraint] = (),
    batch: int = 200,
    initial: Genes | None = None,
    reference: Mapping[str, float] | None = None,
) -> SearchResult:
    """Evaluate `budget` distinct architectures drawn at random, the smallest, the largest and `initial` among them.

    The arguments are those of `run_nsga2`; `batch` architectures are evaluated at a time.

    Raises:
        ValueError: as `run_nsga2`.
    """
    archive = Archive(space, objectives, constraints, budget, reference)
    rng = np.random.default_rng(seed)
    archive.evaluate(archive.start(batch, initial, rng))
    while archive.left:
        archive.evaluate(archive.take_random(min(batch, archive.left), rng))
    return archive.result("random", seed)
