"""Verified budgets: the best candidates are measured again side by side, until one surely keeps its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.budgets import format_seconds
from experiments.measuring.measure import Setup, architectures, measure_anew, profilers
from experiments.measuring.remote import StoredProfiler
from experiments.progress import Reporter
from experiments.quantities import Limit
from experiments.querying import answer
from experiments.run_folder import RunFolder
from hardware.loop.measurement import Measurements
from hardware.store.store import Store
from supernet.architecture import Architecture

__all__ = ["Budget", "Evidence", "chances", "check_budget", "verified_answer"]

_AT_A_TIME = 8  # candidates that a session measures beside the anchors
_ROUNDS = 6  # sessions at most
_HOPELESS = 0.02  # probability of keeping a limit below which a candidate is not measured again
_LEVELS = 1.5  # how many times as slow as when it was measured a machine may be, or a candidate is not thought of


@dataclass(frozen=True)
class Budget:
    """What a latency may be.

    Attributes:
        seconds: at most.
        probability: with which that must hold.
        margin: share of it that must be left.
    """

    seconds: float
    probability: float = 0.95
    margin: float = 0.0

    def __post_init__(self) -> None:
        if not 0.5 <= self.probability < 1:
            raise ValueError(f"probability {self.probability:g} must be from 0.5 to below 1, such as 0.95")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin {self.margin:g} must be a share from 0 to below 1, such as 0.1")

    @property
    def aim(self) -> float:
        """Seconds that leave the margin."""
        return self.seconds * (1 - self.margin)

    def __str__(self) -> str:
        return format_seconds(self.seconds) + (f" less {self.margin:.0%}" if self.margin else "")


@dataclass(frozen=True)
class Evidence:
    """That a network keeps a limit on a latency, measured anew.

    Attributes:
        limit: seconds, as it was asked for.
        margin: share of it that was to be left.
        latency: seconds, on the level of the verifying session.
        interval: seconds, of 95 %.
        probability: that the latency keeps the limit and the margin, on that level, measured again in another session.
        session: the verifying session.
        turns: it had.
        moved: between which factors of its level the machine's speed moved within that session, in nine of ten turns.
        levels: between which factors of its level the sessions of this device lay, this one and all before; a limit
            that must hold in all of them needs a margin of so much.
        tried: networks that were measured anew, the best first; this one is the first that keeps the limit.
    """

    limit: float
    margin: float
    latency: float
    interval: tuple[float, float]
    probability: float
    session: str
    turns: int
    moved: tuple[float, float]
    levels: tuple[float, float]
    tried: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def verified_answer(
    run: RunFolder,
    results: Mapping[str, Any],
    limits: Sequence[Limit],
    report: Reporter,
    *,
    probability: float = 0.95,
    margin: float = 0.0,
) -> tuple[dict[str, Any], Evidence]:
    """The best measured sub-network of a goal that keeps all limits, with a probability, when it is measured again.

    Limits are meant on the level of the verifying session, whatever the machine's level was before. Candidates are
    measured side by side, the best first, until one keeps the limit on the latency and none that is better may.

    Args:
        results: of the goal, as `querying.goal_results` reads them.
        limits: one of them an upper limit on a latency; the others are answered from what is known.
        probability: with which it must keep the limit.
        margin: share of the limit that must be left, for machines whose level moves.

    Returns:
        A row of `querying.answer`, and the evidence.

    Raises:
        ValueError: not one limit on a latency, nothing keeps the limits, or a device elsewhere has first to measure;
            the message says how.
    """
    timed = [one for one in limits if one.quantity.kind.name == "latency" and one.upper]
    if len(timed) != 1 or timed[0].quantity.device is None:
        raise ValueError(f"verifying needs one upper limit on a latency, such as --latency 5ms; there are {len(timed)}")
    limit, others = timed[0], [one for one in limits if one is not timed[0]]
    near = Limit(limit.quantity, limit.value * _LEVELS, True)
    rows = {row["id"]: row for row in answer(results, [*others, near], top=10**9)}
    budget = Budget(limit.value, probability, margin)
    chosen = _Chosen(run, limit, budget, report, [Architecture.from_dict(row["architecture"]) for row in rows.values()])
    for _ in range(_ROUNDS):
        chosen.measure()
        if (arch := chosen.first()) is not None:
            return rows[arch.id], chosen.evidence(arch)
        if not chosen.may_hold():
            break
    raise ValueError(chosen.failure())


def chances(known: Measurements, archs: Sequence[Architecture], aim: float) -> NDArray[np.float64]:
    """(n_archs,) that each takes at most `aim` seconds on the level of `known`, measured in a session to come."""
    if not archs:
        return np.zeros(0)
    found = [known[arch.id, arch.resolution] for arch in archs]
    latencies = np.array([one.latency for one in found])
    # What changes between two sessions comes on top of how well this one knows.
    changes = known.tie.changes[~np.isnan(known.tie.changes)]
    deviations = np.hypot([one.deviation for one in found], float(np.median(changes)))
    away = np.log(aim / latencies) / np.maximum(deviations, 1e-4)
    return np.array([0.5 * math.erfc(-one / math.sqrt(2)) for one in away.tolist()])


def check_budget(budget: Budget, known: Measurements, arch: Architecture) -> dict[str, Any]:
    """What the latest session says of a budget, as plain data.

    Raises:
        ValueError: it is not kept as surely as was asked for.
    """
    at = Measurements(known.device, known.sessions, known.sessions[-1].id)
    measurement, (chance,) = at[arch.id, arch.resolution], chances(at, [arch], budget.aim).tolist()
    if chance < budget.probability:
        raise ValueError(
            f"the file of {arch.id} takes {format_seconds(measurement.latency)} and keeps {budget} with {chance:.0%}, "
            f"not {budget.probability:.0%}: ask for a larger limit or a smaller --probability"
        )
    interval = list(measurement.interval)
    return {
        "asked": str(budget),
        **asdict(budget),
        "latency": measurement.latency,
        "interval": interval,
        "kept_with": chance,
    }


class _Chosen:
    """The candidates in the order of their quality, and what verifying sessions have said of them."""

    def __init__(
        self, run: RunFolder, limit: Limit, budget: Budget, report: Reporter, archs: Sequence[Architecture]
    ) -> None:
        self.run, self.limit, self.budget, self.report = run, limit, budget, report
        assert limit.quantity.device is not None
        (self.profiler,) = profilers(run, limit.quantity.device)
        self.verified: dict[Architecture, float] = {}  # the probability of keeping the limit
        with run.store() as store:
            self.known = Measurements(self.profiler.device, store.sessions(self.profiler.device))
        self.archs = [arch for arch in archs if (arch.id, arch.resolution) in self.known]

    def measure(self) -> None:
        """Measure the best of those that may keep the limit side by side, with the best that were measured before."""
        waiting = self.may_hold() or self._fastest()
        wanted = [*waiting[:_AT_A_TIME], *[arch for arch, p in self.verified.items() if p > _HOPELESS][:_AT_A_TIME]]
        if isinstance(self.profiler, StoredProfiler):
            self.run.write_plan(
                "final", wanted, [{"origin": "verifying"}] * len(wanted), device=self.profiler.device.name
            )
        with self.run.store() as store:
            session = measure_anew(
                Setup.of(self.run), store, self.profiler, architectures(self.run, wanted), self.report
            )
            self.known = self._on_level(store, session.id)
        found = chances(self.known, wanted, self.budget.aim)
        self.verified |= dict(zip(wanted, found.tolist(), strict=True))

    def may_hold(self) -> list[Architecture]:
        """Those not yet measured anew that may keep the limit, by what is known of them, the best first."""
        waiting = [arch for arch in self.archs if arch not in self.verified]
        likely = chances(self.known, waiting, self.budget.aim) > _HOPELESS
        return [arch for arch, may in zip(waiting, likely, strict=True) if may]

    def _fastest(self) -> list[Architecture]:
        """Those not yet measured anew, the fastest first: they say on what level the machine is now."""
        waiting = [arch for arch in self.archs if arch not in self.verified]
        return sorted(waiting, key=lambda arch: self.known[arch.id, arch.resolution].latency)

    def first(self) -> Architecture | None:
        """The best that keeps the limit; None while one that is better has not been measured anew and may."""
        open_ones = set(self.may_hold())
        for arch in self.archs:
            if arch in open_ones:
                return None
            if self.verified.get(arch, 0.0) >= self.budget.probability:
                return arch
        return None

    def evidence(self, arch: Architecture) -> Evidence:
        session, measurement = self.known.at, self.known[arch.id, arch.resolution]
        shifts = self.known.tie.shifts[~np.isnan(self.known.tie.shifts)]
        return Evidence(
            limit=self.budget.seconds,
            margin=self.budget.margin,
            latency=measurement.latency,
            interval=measurement.interval,
            probability=self.verified[arch],
            session=session.id,
            turns=session.n_turns,
            moved=session.spread,
            levels=(float(np.exp(min(shifts.min(), 0.0))), float(np.exp(max(shifts.max(), 0.0)))),
            tried=tuple(one.id for one in self.archs if one in self.verified),
        )

    def failure(self) -> str:
        """Why there is no answer."""
        device, value = self.profiler.device.name, self.limit.quantity.format
        if not self.verified:
            return f"no measured sub-network may keep {self.budget} on {device}"
        best = max(self.verified, key=lambda arch: self.verified[arch])
        latency = self.known[best.id, best.resolution].latency
        return (
            f"of {len(self.verified)} sub-networks measured again on {device} none keeps {self.budget} with "
            f"{self.budget.probability:.0%}; nearest is {best.id} with {value(latency)}, {self.verified[best]:.0%}: "
            "ask for a larger limit, or search with it as a constraint"
        )

    def _on_level(self, store: Store, session: str) -> Measurements:
        return Measurements(self.profiler.device, store.sessions(self.profiler.device), session)
