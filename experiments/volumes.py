"""How much every series of a comparison dominates, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.goals import Goal
from experiments.quantities import Quantity
from experiments.run_folder import RunFolder
from search.uncertainty import Comparison, Noisy, compared

__all__ = ["hypervolumes", "noisy_points", "optimism"]

_SIGMAS = 1.96  # of an interval of 95 %
_NINETY = 1.645


def hypervolumes(
    run: RunFolder, goal: Goal, series: Mapping[str, Sequence[Mapping[str, Any]]], reference: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Of series of points, up to the reference, as plain data; the first of them is the front that others are compared
    with. On test, where a goal is about quality."""
    good, costs = goal.roles
    corner = [float(one.axis.loss(reference[one.name])) for one in ([good] if good is not None else []) + costs]
    noisy = {name: noisy_points(run, goal, points) for name, points in series.items()}
    first = next(iter(series))
    found = compared(noisy[first], noisy, np.array(corner), seed=run.recipe.seed)
    return [_volume(name, one, None if name == first else found[first]) for name, one in found.items()]


def optimism(run: RunFolder, good: Quantity, series: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """By how much the members of every series are worse on test than on validation, by which they were chosen.

    The interval of 90 % is that of a single network: networks err on the same images, so a mean of many is hardly
    better known.
    """
    found = []
    for name, points in series.items():
        pairs = [(float(p["validation"]), float(p["test"])) for p in points if p["test"] is not None]
        if not pairs:
            continue
        lost = float(np.mean([good.axis.loss(tested) - good.axis.loss(chosen) for chosen, tested in pairs]))
        interval = None
        if run.recipe.task is None:
            level = float(np.mean(pairs))
            n_images = [run.data.n_images(split) for split in ("validation", "test")]
            reach = _NINETY * math.sqrt(sum(max(level * (1 - level), 0.0) / n for n in n_images))
            interval = [lost - reach, lost + reach]
        found.append({"series": name, "n": len(pairs), "mean": lost, "interval": interval})
    return found


def noisy_points(run: RunFolder, goal: Goal, points: Sequence[Mapping[str, Any]]) -> Noisy:
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
