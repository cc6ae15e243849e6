"""What earlier runs of the same space found, as the beginning of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.borrowing import check_space
from experiments.goals import Goal
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.proposing import Proposed
from experiments.run_folder import RunFolder
from search.tactics.model_based import lent_members
from supernet.architecture import Architecture
from supernet.files import read_json

__all__ = ["lent_by"]


def lent_by(
    run: RunFolder, wanted: Sequence[Goal], archives: Sequence[RunFolder], n: int, report: Reporter
) -> Proposed:
    """Up to `n` members of the fronts of earlier runs that no plan has yet, evenly spread over each front.

    They are evaluated here like all others, on the devices and with the weights of this run: what is learned is where
    good networks lie, and what misleads costs no more than these (`experiments/benchmarks/warm_starts.py`). Fronts of
    goals with the objectives of ours lend, or all of them where none has.

    Raises:
        ValueError: a run of another space, or one that has no front.
    """
    space = run.untrained_supernet.space
    known = space.encode(list(dict.fromkeys(arch for plan in search_plans(run) for arch in plan.archs)))
    found: dict[Architecture, dict[str, Any]] = {}
    for archive in archives:
        check_space(run, archive)
        archive.require(archive.front, "search")
        goals = read_json(archive.front)["goals"]
        alike = {tuple(one.name for one in goal.objectives) for goal in wanted}
        lending = [goal for goal in goals.values() if tuple(goal["objectives"]) in alike] or list(goals.values())
        for goal in lending:
            members = [Architecture.from_dict(one["arch"]) for one in goal["front"]["candidates"]]
            genes = space.encode(members) if members else known[:0]
            for arch in space.decode(lent_members(genes, known)):
                found.setdefault(arch, {"origin": f"front of {archive.path.name}", "within": []})
    archs = list(found)
    rows = np.unique(np.linspace(0, len(archs) - 1, n).astype(int)) if archs else []
    chosen = [archs[i] for i in rows]
    names = " and ".join(archive.path.name for archive in archives)
    report.say(f"  {len(chosen)} members of fronts of {names}")
    return Proposed(tuple(chosen), tuple(found[arch] for arch in chosen), 1.0)
