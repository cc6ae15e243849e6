"""Campaigns: measure until so many are done or the time is up, never the same thing twice, and carry on later."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np

from experiments.known import Known
from experiments.measuring.measure import Setup, architectures, measure_missing, profilers, sampling
from experiments.measuring.remote import StoredProfiler
from experiments.plans import campaign_plan
from experiments.progress import Reporter
from experiments.quantities import Quantity, latency
from experiments.run_folder import RunFolder
from experiments.subjects import subject
from hardware.device import Device
from hardware.device_changes import explain_earlier
from hardware.loop.measurement import Measurement
from predictors.registry import suitable_predictors
from predictors.selection import fit_best
from predictors.stopping import Goal, Progress
from supernet.architecture import Architecture

__all__ = ["measure_again", "measured_values", "run_campaign"]

_STEP = 64  # architectures by which a plan without an end grows
_FEWEST = 10  # architectures from which a predictor is asked how good it is, ...
_GROWTH = 1.2  # ... and by how much more it is asked again
_WIDE = 1.5  # times the interval that the recipe wants


def run_campaign(
    run: RunFolder,
    report: Reporter,
    *,
    device: str | None = None,
    n: int | None = None,
    minutes: float | None = None,
    until: Goal | None = None,
) -> None:
    """Measure the first `n` architectures of the run's design, or for so many minutes, or until a predictor of the
    latency is good enough, on every device or on one.

    The design covers every choice at every position and spreads over the multiply-accumulates; see `covering_design`.
    With several limits, whichever comes first ends it. Latency does not depend on the weights: nothing need be trained.

    Raises:
        ValueError: no such device.
    """
    for profiler in profilers(run, device):
        name, deadline = profiler.device.name, None if minutes is None else time.monotonic() + 60 * minutes
        added = name if isinstance(profiler, StoredProfiler) else None
        most = math.inf if n is None else n
        wanted = int(min(most, _FEWEST if until is not None else _STEP if n is None else n))
        measured = failed = 0
        seconds = 0.0
        steps: list[Progress] = []
        while True:
            plan = campaign_plan(run, n if n is not None else max(wanted, _STEP), added)
            with run.store() as store:
                networks = architectures(run, plan.archs[:wanted])
                done = measure_missing(Setup.of(run), store, profiler, networks, report, deadline=deadline)
            measured, failed, seconds = measured + done.measured, failed + done.failed, seconds + done.seconds
            late = deadline is not None and time.monotonic() >= deadline
            if until is not None and (progress := _progress(run, profiler.device, until)) is not None:
                steps.append(progress)
                report.say(f"    {until.describe(progress)}")
                if until.met(progress):
                    break
            if done.left or late or len(plan.archs) < wanted or wanted >= most:
                break
            wanted = int(min(most, wanted + _STEP if until is None else math.ceil(_GROWTH * wanted)))
        left = f", {done.left} of {wanted if n is not None else len(plan.archs)} left" if done.left else ""
        report.say(f"  {name}: {measured} measured in {seconds / 60:.1f} min, {failed} failed{left}")
        if until is not None and not (steps and until.met(steps[-1])):
            report.say(f"    {until.verdict(steps)}")
        if done.left:
            limit = f"--n {n}" if n is not None else f"--minutes {minutes:g}"
            report.say(f"    go on with `supernet profile {run.path} --device {name} {limit}`")


def _progress(run: RunFolder, device: Device, until: Goal) -> Progress | None:
    """How good a predictor of everything that is measured on a device is; None where too little is."""
    with run.store() as store:
        found = store.measurements(device)
    archs = {(arch.id, arch.resolution): arch for plan in run.all_plans() for arch in plan.archs}
    known = [name for name in archs if name in found]
    if len(known) < _FEWEST:
        return None
    genes = run.untrained_supernet.space.encode([archs[name] for name in known])
    y = np.array([found[name].latency for name in known])
    about = subject(run, latency(device.name))
    names = run.recipe.fit.predictors or ("ridge",)  # what a fit chooses among more is not worse
    names = names if about.devices is None else (*names, "transfer")
    makers = suitable_predictors(about, "relative", run.recipe.seed, names)
    return until.progress(y, fit_best(makers, genes, y, target="relative").predictor.out_of_fold_)


def measure_again(run: RunFolder, archs: Sequence[Architecture], report: Reporter, device: str | None = None) -> None:
    """Measure anew, in a new session, those of `archs` about which there is a doubt; all of them where there is none.

    Raises:
        ValueError: no such device, or one that measures elsewhere.
    """
    for profiler in profilers(run, device):
        name = profiler.device.name
        if name in run.added_devices():
            raise ValueError(f"{name!r} measures elsewhere; have it measure again there, as a device of another name")
        with run.store() as store:
            measurements = store.measurements(profiler.device)
            known = [arch for arch in archs if (arch.id, arch.resolution) in measurements]
            doubtful = [arch for arch in known if _is_doubtful(run, measurements[arch.id, arch.resolution])]
            why = f"{len(doubtful)} with a doubt" if doubtful else f"all {len(known)}, since there is no doubt"
            report.say(f"  {name}: {why}")
            measure_missing(Setup.of(run), store, profiler, architectures(run, doubtful or known), report, again=True)


def _is_doubtful(run: RunFolder, measurement: Measurement) -> bool:
    low, high = measurement.interval
    wide = (high - low) / 2 / measurement.latency > _WIDE * sampling(run).relative_half_width
    return wide or bool(measurement.warnings)


def measured_values(
    run: RunFolder, known: Known, quantity: Quantity, archs: Sequence[Architecture], report: Reporter
) -> tuple[list[Architecture], list[float], str]:
    """Those of `archs` and of the run's campaign that a quantity was measured of, its values, and the session whose
    level they are on.

    Raises:
        ValueError: it was measured of none of `archs`; the message says what was measured before something changed.
    """
    name = quantity.device or run.recipe.devices[0].name
    device = known.device(name)
    n = int(np.isfinite(known.column(quantity, archs).values).sum())
    if n == 0:
        with run.store() as store:
            reasons = [f"{quantity} of nothing planned is measured on {device}", *explain_earlier(store, device)]
        raise ValueError("\n".join([*reasons, f"measure it with `supernet profile {run.path} --device {device.name}`"]))
    if n < len(archs):
        report.say(f"  {device.name}: measured {n} of {len(archs)} planned sub-networks so far")
    plans = [plan for device in (None, name) if (plan := run.plan("campaign", device=device)) is not None]
    everything = list(dict.fromkeys([*archs, *(arch for plan in plans for arch in plan.archs)]))
    values = known.column(quantity, everything).values
    found = [(arch, float(value)) for arch, value in zip(everything, values, strict=True) if np.isfinite(value)]
    return [arch for arch, _ in found], [value for _, value in found], known.measurements(name).at.id
