"""What earlier runs of the same space found and scored, as the beginning of a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.borrowing import check_space
from experiments.goals import Goal
from experiments.plans import search_plans
from experiments.progress import Reporter
from experiments.proposing import Proposed
from experiments.quantities import quality
from experiments.run_folder import RunFolder
from experiments.scoring.scorer import Scorer
from experiments.subjects import EARLIER, keep_earlier
from search.tactics.model_based import lent_members
from supernet.architecture import Architecture
from supernet.files import read_json, write_json

__all__ = ["learn_from", "lent_by", "lent_scores"]

_SCORED = "scored.json"


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


def learn_from(run: RunFolder, archives: Sequence[RunFolder], report: Reporter) -> None:
    """Have the predictors of a run learn from what earlier runs have scored: ``earlier/`` of the run.

    Where weights, data and calibration are the same, a score is a score. Else what their predictor says of a network is
    a prior mean for ours, whose scale is learned from what is scored here (`predictors.earlier`).

    Raises:
        ValueError: a run of another space.
    """
    scorer, shown = Scorer(run), quality(run.recipe.kinds)
    for archive in archives:
        check_space(run, archive)
        name = archive.path.name
        if archive.weights.exists() and Scorer(archive).digest == scorer.digest:
            plans = [plan for plan in archive.all_plans() if plan.kind != "final"]
            archs = {arch.id: arch for plan in plans for arch in plan.archs}
            with archive.store() as theirs, run.store() as ours:
                scores = [one for one in theirs.scores(scorer.digest, "validation") if one.key in archs]
                for one in scores:
                    ours.add_score(one)
            (run.path / EARLIER / name).mkdir(parents=True, exist_ok=True)
            told = {"scores": scorer.digest, "architectures": [archs[one.key].to_dict() for one in scores]}
            write_json(run.path / EARLIER / name / _SCORED, told)
            report.say(f"  {len(scores)} scores of {name}, whose weights are the same, are learned from")
            continue
        try:
            found = keep_earlier(run, archive, shown)
        except ValueError as error:
            report.say(f"  nothing is learned from the scores of {name}: {error}")
            continue
        if found:
            report.say(f"  what {name}, with other weights, predicts of {shown} is a prior mean here")


def lent_scores(run: RunFolder) -> list[Architecture]:
    """Architectures that earlier runs have scored with the weights that the run has now."""
    digest, found = Scorer(run).digest, []
    for path in sorted((run.path / EARLIER).glob(f"*/{_SCORED}")):
        told = read_json(path)
        if told["scores"] == digest:
            found += [Architecture.from_dict(one) for one in told["architectures"]]
    return list(dict.fromkeys(found))
