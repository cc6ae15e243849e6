"""A new device with ten measurements: what other devices know of the space is borrowed."""

from __future__ import annotations

from dataclasses import dataclass, replace

from experiments.measuring.remote import how_to_measure
from experiments.plans import baseline_plans, search_plans
from experiments.progress import Reporter
from experiments.quantities import latency
from experiments.run_folder import Plan, RunFolder
from experiments.subjects import forget_known_devices, keep_known_device, known_devices, subject
from hardware.device import Device
from hardware.loop.measurement import Measurements
from supernet.architecture import Architecture
from supernet.space.design import covering_design

__all__ = ["N_MEASURED", "Lenders", "borrow", "check_space"]

N_MEASURED = 10
"""Networks that a new device measures before its front is foretold."""
_FEWEST = 20  # measured networks without which a device has nothing to lend
_CHOSEN_FROM = 60  # networks at least


@dataclass(frozen=True)
class Lenders:
    """Devices that others learn from: by name, or all of them without names; of this run and of others."""

    names: tuple[str, ...] = ()
    archives: tuple[RunFolder, ...] = ()
    """Other runs of the same space; a device of theirs is named RUN-DEVICE."""


def borrow(run: RunFolder, device: str | None, lenders: Lenders, report: Reporter) -> None:
    """Write down what is known of other devices, for the predictors of a new one, and choose what this one measures.

    What is chosen is among the networks that the run has scored: their accuracy costs nothing, and each may be on the
    front of the new device. A plan that is there is kept; what is known of the lenders is brought up to date.

    Args:
        device: the new one, which may not have been added yet.

    Raises:
        ValueError: a lender that there is not, or that measured too little; an archive of another space; the new device
            is of the recipe, or was searched without others before; or it has not measured anything yet.
    """
    if device is None:
        raise ValueError("--from needs --device: the name of the new device")
    if device in {one.name for one in run.recipe.devices}:
        raise ValueError(f"{device!r} is measured with the run; --from is for a device that is added to it")
    plan = run.plan("transfer", device=device)
    if plan is None and any(one.device == device for one in run.all_plans()):
        raise ValueError(f"{device!r} has plans of its own already; --from is for a device that was not searched yet")
    found = _lenders(run, device, lenders)
    for known, archs, seconds in found:
        keep_known_device(run, device, known, archs, seconds)
    forget_known_devices(run, device, keep={known.name for known, _, _ in found})
    lent = ", ".join(f"{known.name} ({len(archs)} measured)" for known, archs, _ in found)
    report.say(f"  {device} learns from {lent}")
    plan = plan or _chosen(run, device)
    if device not in run.added_devices():
        raise ValueError(f"{device} has {len(plan.archs)} sub-networks to measure: {how_to_measure(run, device)}")


def _lenders(run: RunFolder, device: str, lenders: Lenders) -> list[tuple[Device, list[Architecture], list[float]]]:
    """Every device that lends, what was measured on it, and how long that took."""
    there: dict[str, tuple[RunFolder, Device]] = {}
    for one in (run, *lenders.archives):
        check_space(run, one)
        for name, known in _devices(one).items():
            if one is not run or name != device:
                there[name if one is run else f"{one.path.name}-{name}"] = one, known
    unknown = [name for name in lenders.names if name not in there]
    if unknown:
        raise ValueError(f"no device {unknown[0]!r} to learn from; there are {', '.join(there) or 'none'}")
    found = []
    for name in dict.fromkeys(lenders.names or there):
        one, known = there[name]
        archs, seconds = _measured(one, known)
        if len(archs) >= _FEWEST:
            found.append((replace(known, name=name), archs, seconds))
        elif lenders.names:
            raise ValueError(
                f"{name} has measured {len(archs)} networks; to be learned from it needs {_FEWEST}: "
                f"`supernet profile {one.path} --device {known.name} --n {_FEWEST}`"
            )
    if not found:
        raise ValueError(f"no device has measured {_FEWEST} networks of this space; search without --from")
    return found


def _devices(run: RunFolder) -> dict[str, Device]:
    """All of a run, by name, as they measured: of those of the recipe, the one that the store knows."""
    with run.store() as store:
        own = {one.name: found for one in run.recipe.devices for found in store.devices() if found.name == one.name}
    return own | run.added_devices()


def _measured(run: RunFolder, device: Device) -> tuple[list[Architecture], list[float]]:
    with run.store() as store:
        measurements: Measurements = store.measurements(device)
    baselines = {plan.kind for plan in baseline_plans(run)}  # which lend nothing
    plans = [plan for plan in run.all_plans() if plan.kind not in baselines]
    archs = {(arch.id, arch.resolution): arch for plan in plans for arch in plan.archs}
    names = [name for name in archs if name in measurements]
    return [archs[name] for name in names], [measurements[name].latency for name in names]


def check_space(run: RunFolder, other: RunFolder) -> None:
    """ValueError where another run is of another space."""
    if other is run:
        return
    ours, theirs = run.untrained_supernet, other.untrained_supernet
    ends = ours.space.encode([ours.space.smallest, ours.space.largest])
    if ours.space.to_dict() != theirs.space.to_dict() or (ours.macs(ends) != theirs.macs(ends)).any():
        raise ValueError(f"{other.path} is of another search space than {run.path}: it says nothing here")


def _chosen(run: RunFolder, device: str) -> Plan:
    supernet, devices = run.untrained_supernet, known_devices(run, device)
    assert devices is not None
    archs = list(dict.fromkeys(arch for plan in search_plans(run) for arch in plan.archs))
    if len(archs) < _CHOSEN_FROM:
        genes = covering_design(supernet.space, _CHOSEN_FROM, supernet.macs, run.recipe.seed)
        archs = list(dict.fromkeys([*archs, *supernet.space.decode(genes)]))
    terms = subject(run, latency(device)).terms
    rows = devices.informative(supernet.space.encode(archs), N_MEASURED, terms, run.recipe.seed)
    chosen = [archs[i] for i in rows]
    notes = [{"origin": "new device", "learns_from": [one.name for one in devices.devices]}] * len(chosen)
    return run.write_plan("transfer", chosen, notes, device=device)
