"""The search again with other seeds: what of a comparison is the search, and what was luck."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.goals import Goal, goals
from experiments.plans import N_ANCHORS, initial_plan
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.volumes import noisy_points
from search.attainment import attained
from search.uncertainty import Noisy, over_repeats
from supernet.files import read_json, write_json
from supernet.registry import AnySupernet
from supernet.space.design import covering_design

__all__ = ["Repeat", "compare_repeats", "repeats_of"]

_OF_THE_RUN = ("data", "task", "n_outputs", "untrained_supernet", "supernet", "weights_digest", "provenance")


class Repeat(RunFolder):
    """A run whose search has another seed: trained weights, images, devices and the store are those of the run.

    So nothing is trained again, a score of the same network is the same, and a network that was measured is not
    measured again to propose others. All repeats share the anchors, which tie sessions. What is planned, learned and
    found is its own, in ``repeats/SEED``.
    """

    def __init__(self, run: RunFolder, seed: int) -> None:
        super().__init__(run.path)
        self.of = run
        self.recipe = run.recipe.model_copy(update={"seed": seed})
        self.held = run.held
        self.__dict__.update({name: getattr(run, name) for name in _OF_THE_RUN})

    @property
    def home(self) -> Path:
        """Where what is its own lies."""
        return self.path / "repeats" / str(self.recipe.seed)

    @property
    def plans(self) -> Path:
        return self.home / "plans"

    @property
    def predictors(self) -> Path:
        return self.home / "predictors"

    @property
    def front(self) -> Path:
        return self.home / "front.json"

    @property
    def comparison(self) -> Path:
        return self.home / "comparison.json"

    def new_supernet(self) -> AnySupernet:
        return self.of.new_supernet()

    def first_design(self) -> None:
        """Plan what its first predictors learn from: the anchors of the run, and a design of its own."""
        if self.plan("initial") is not None:
            return
        ours, space = initial_plan(self.of).archs, self.untrained_supernet.space
        n = len(ours)
        other = space.decode(covering_design(space, n, self.untrained_supernet.macs, self.recipe.seed))
        archs = list(dict.fromkeys([*ours[:N_ANCHORS], *other]))[:n]
        self.write_plan("initial", archs, [{"origin": "initial design"}] * len(archs))


def compare_repeats(
    run: RunFolder, n_seeds: int, search: Callable[[Repeat, Reporter], dict[str, Any]], report: Reporter
) -> dict[str, Any]:
    """What `n_seeds` searches say together, that of the run among them, which is compared already: plain data.

    Args:
        search: searches and compares a repeat, and returns its ``comparison.json``.
    """
    seeds = [run.recipe.seed + i for i in range(n_seeds)]
    comparisons = [read_json(run.comparison)]
    for i, seed in enumerate(seeds[1:], start=2):
        repeat = Repeat(run, seed)
        if not repeat.comparison.exists():
            report.say(f"search {i} of {n_seeds}, seed {seed}")
            repeat.first_design()
            write_json(repeat.comparison, search(repeat, report))
        comparisons.append(read_json(repeat.comparison))
    return {"seeds": seeds, "goals": [repeats_of(run, goal, comparisons) for goal in goals(run)]}


def repeats_of(run: RunFolder, goal: Goal, comparisons: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one goal: hypervolumes of every series over all searches, up to one reference point, and what is attained."""
    entries = [next(one for one in found["goals"] if one["name"] == goal.name) for found in comparisons]
    names = [row["series"] for row in entries[0]["hypervolume"]]
    good, costs = goal.roles
    traded = ([good] if good is not None else []) + costs
    corner = [max(one.axis.loss(entry["reference"][one.name]) for entry in entries) for one in traded]
    series: dict[str, list[Noisy]] = {}
    for name in names:
        points = [next(one["points"] for one in entry["series"] if one["name"] == name) for entry in entries]
        series[name] = [noisy_points(run, goal, one) for one in points]
    found = over_repeats(series, np.array(corner, dtype=float), seed=run.recipe.seed)
    reference = {one.name: float(one.axis.loss(value)) for one, value in zip(traded, corner, strict=True)}
    surfaces = []
    if len(traded) == 2:
        for name, repeats in series.items():
            for share in (0.0, 0.5, 1.0):
                points = attained([one.losses for one in repeats], share)
                rows = [
                    [float(axis.axis.loss(value)) for axis, value in zip(traded, row, strict=True)] for row in points
                ]
                surfaces.append({"series": name, "share": share, "points": rows})
    return {
        "name": goal.name,
        "traded": [one.name for one in traded],
        "reference": reference,
        "hypervolume": [{"series": name, **one.to_dict()} for name, one in found.items()],
        "attained": surfaces,
    }
