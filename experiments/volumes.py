"""How much every series of a comparison dominates, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.goals import Goal
from experiments.run_folder import RunFolder
from search.uncertainty import Comparison, Noisy, compared

__all__ = ["hypervolumes"]

_SIGMAS = 1.96  # of an interval of 95 %


def hypervolumes(
    run: RunFolder, goal: Goal, series: Mapping[str, Sequence[Mapping[str, Any]]], reference: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Of series of points, up to the reference, as plain data; the first of them is the front that others are compared
    with. On test, where a goal is about quality."""
    good, costs = goal.roles
    corner = [float(one.axis.loss(reference[one.name])) for one in ([good] if good is not None else []) + costs]
    noisy = {name: _noisy(run, goal, points) for name, points in series.items()}
    first = next(iter(series))
    found = compared(noisy[first], noisy, np.array(corner), seed=run.recipe.seed)
    return [_volume(name, one, None if name == first else found[first]) for name, one in found.items()]


def _noisy(run: RunFolder, goal: Goal, points: Sequence[Mapping[str, Any]]) -> Noisy:
    """Losses of points and how unsure they are: an accuracy by the number of images, a latency by its interval; how
    unsure a metric of a task of one's own is, nobody knows."""
    good, costs = goal.roles
    n_images = run.data.n_images("test") if run.recipe.task is None else None
    losses, deviations = [], []
    for point in points:
        row, unsure = [], []
        if good is not None:
            tested = float(point["test"])
            row.append(float(good.axis.loss(tested)))
            unsure.append(0.0 if n_images is None else math.sqrt(max(tested * (1 - tested), 0.0) / n_images))
        for one in costs:
            low, high = point["intervals"].get(one.name, (0.0, 0.0))
            row.append(float(one.axis.loss(point["values"][one.name])))
            unsure.append((high - low) / (2 * _SIGMAS))
        losses.append(row)
        deviations.append(unsure)
    shape = len(points), len(costs) + (good is not None)
    return Noisy(np.reshape(losses, shape), np.reshape(deviations, shape))


def _volume(name: str, found: Comparison, front: Comparison | None) -> dict[str, Any]:
    return {
        "series": name,
        "value": found.value,
        "interval": list(found.interval),
        "relative": 1.0 if front is None else found.value / (front.value or 1.0),
        "relative_interval": None if front is None else list(found.share),
        "front_is_larger": None if front is None else found.probability,
    }
