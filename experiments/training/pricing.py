"""Budgets in what a device measures: some sub-networks are measured there before a training that has to keep one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.budgets import format_seconds
from experiments.measuring.measure import measure_architectures, measured_architectures, profilers
from experiments.progress import Reporter
from experiments.run_folder import RunFolder
from experiments.settings.training import PruningSettings
from predictors.cost_terms import CostTerms
from predictors.ridge import RidgePredictor
from supernet.architecture import Architecture
from supernet.families.traced import TracedSupernet
from supernet.files import read_json, write_json
from supernet.pruning.costs import Prices
from supernet.space.design import covering_design
from supernet.training import Phase, World

__all__ = ["fitted_prices", "priced", "prices_file"]

_FEWEST = 8  # architectures that a line is fitted to


def prices_file(run: RunFolder) -> Path:
    """Where it lies what a device asks for every operation."""
    return run.path / "prices.json"


def priced(run: RunFolder, phases: tuple[Phase, ...], report: Reporter, world: World) -> tuple[Phase, ...]:
    """The phases of a pruning with a budget of latency, with what the device has shown; others as they are.

    The first process of `world` measures; what was measured once is taken again.

    Raises:
        ValueError: too little could be measured, or the network is none that can be pruned.
    """
    training = run.recipe.training
    if not isinstance(training, PruningSettings) or training.aim.device is None:
        return phases
    device = training.aim.device
    content = world.share(lambda: json.dumps(_prices(run, device, report)).encode())
    assert content is not None
    prices = _read(json.loads(content))
    return tuple(
        phase if phase.pruning is None else replace(phase, pruning=replace(phase.pruning, prices=prices))
        for phase in phases
    )


def _prices(run: RunFolder, device: str, report: Reporter) -> dict[str, object]:
    path = prices_file(run)
    if path.exists():
        return read_json(path)["prices"]
    supernet, training = run.untrained_supernet, run.recipe.training
    assert isinstance(training, PruningSettings)
    training.how.removable(supernet)  # refuses before anything is measured
    assert isinstance(supernet, TracedSupernet)
    report.say(f"  for {training.aim}: what {device} takes for some sub-networks")
    plan = run.plan("initial")
    if plan is None:
        design = covering_design(supernet.space, run.recipe.measure.n_architectures, supernet.macs, run.recipe.seed)
        archs = supernet.space.decode(design)
        plan = run.write_plan("initial", archs, [{"origin": "budget"}] * len(archs))
    measure_architectures(run, plan.archs, report, device)
    (profiler,) = profilers(run, device)
    with run.store() as store:
        found = measured_architectures(store.measurements(profiler.device), plan.archs)
    if len(found) < _FEWEST:
        raise ValueError(
            f"{len(found)} sub-networks could be measured on {device}, and a latency is predicted from {_FEWEST} at "
            "least: give more choices, or take a target of macs"
        )
    y = np.array([one.latency for one in found.values()])
    learned, error = fitted_prices(supernet, list(found), y, run.recipe.seed)
    whole = float(learned.of(supernet)(supernet.graph.full))
    report.say(
        f"  {device}: {len(found)} sub-networks of {format_seconds(y.min())} to {format_seconds(y.max())}; a line in "
        f"their costs is {error:.1%} off on those it has not seen, and says {format_seconds(whole)} for the whole one"
    )
    write_json(path, {"provenance": run.provenance, "device": profiler.device.to_dict(), "error": error,
                      "n": len(found), "prices": asdict(learned)})  # fmt: skip
    return asdict(learned)


def fitted_prices(
    supernet: TracedSupernet, archs: Sequence[Architecture], latencies: NDArray[np.float64], seed: int = 0
) -> tuple[Prices, float]:
    """What a device asks for every operation, by `latencies` (n_archs,) in seconds; and the mean relative error of
    that line on sub-networks that it was not fitted to."""
    features = CostTerms(supernet.space, supernet.cost_table)
    ridge = RidgePredictor(features, "relative", seed=seed).fit(supernet.space.encode(list(archs)), latencies)
    tables, intercepts = [], []
    for coefficients, intercept in zip(ridge.coefficients_, ridge.intercepts_, strict=True):
        prices, of_resolution = features.prices(coefficients)
        tables.append(tuple(map(tuple, prices.tolist())))
        intercepts.append(float(intercept + of_resolution[-1]))
    error = float(np.abs(ridge.out_of_fold_ / latencies - 1).mean())
    return Prices(tuple(tables), tuple(intercepts)), error


def _read(content: dict[str, object]) -> Prices:
    """Prices as they were before they were text."""

    def tuples(value: object) -> object:
        return tuple(map(tuples, value)) if isinstance(value, list | tuple) else value

    return Prices(**{name: tuples(value) for name, value in content.items()})  # type: ignore[arg-type]
