"""How many rounds a search has and how many sub-networks are in each: by the budget, and by what a round costs."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from experiments.earlier import lent_by
from experiments.goals import Goal, goals
from experiments.plans import N_ANCHORS, search_plans
from experiments.progress import Reporter
from experiments.proposing import Proposed, propose_round
from experiments.quantities import Limit
from experiments.run_folder import Plan, RunFolder
from search.tactics.model_based import LENT

__all__ = ["LARGEST_BATCH", "Focus", "RoundCost", "Rounds", "within"]

FIRST_BATCH, LARGEST_BATCH = 4, 16
_NO_GAIN = 0.002  # of the hypervolume, predicted of a whole round


@dataclass(frozen=True)
class Focus:
    """What a search is asked for beside its fronts: the best within limits, with so many sub-networks."""

    limits: tuple[Limit, ...]
    evaluations: int
    device: str | None = None
    """Only for goals about this one."""


@dataclass
class RoundCost:
    """What a round of `n` sub-networks took, in seconds of the clock on the wall."""

    n: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Add what runs inside to that part of the round."""
        started = time.monotonic()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - started

    def batch(self) -> int:
        """How many sub-networks the next round should have.

        A round costs something however few there are in it: the anchors of its session, fitting and proposing. Smaller
        rounds choose better, since each knows what those before it found: of hypervolume at 50 evaluations, rounds of
        16 have one to two points less than rounds of one to four. So a round is as large as makes its sub-networks cost
        as much as all the rest, and no larger: then at most half the time goes into rounds.
        """
        measuring, scoring = self.seconds.get("profile", 0.0), self.seconds.get("score", 0.0)
        per_network = measuring / (self.n + N_ANCHORS)
        each = per_network + scoring / max(self.n, 1)
        rest = sum(self.seconds.values()) - measuring - scoring + N_ANCHORS * per_network
        return min(max(math.ceil(rest / each), 1), LARGEST_BATCH) if each > 0 else LARGEST_BATCH


class Rounds:
    """The rounds of a search, one after the other, until its budget is spent.

    What is planned already comes first, so a search that was killed goes on; `minutes` count from there.

    Args:
        focus: limits beyond those of the recipe, all of whose sub-networks are for the best within them.
        archives: earlier runs whose fronts the first round, if it was not planned yet, has members of.

    Raises:
        ValueError: a limit on something that is neither learned for a goal nor counted, or of no goal.
    """

    def __init__(
        self,
        run: RunFolder,
        report: Reporter,
        device: str | None = None,
        focus: Focus | None = None,
        archives: Sequence[RunFolder] = (),
    ) -> None:
        self._run, self._report, self._device, self._focus = run, report, device, focus
        self._archives = archives
        self._settings = run.recipe.search
        wanted = goals(run, device)
        self._goals = wanted if focus is None else within(wanted, focus.limits, focus.device)
        self._started = time.monotonic()
        self._number = 0
        # A person carries the rounds of a device elsewhere: each is as large as it may be.
        elsewhere = device is not None and device in run.added_devices()
        self._evaluations = self._settings.evaluations if focus is None else focus.evaluations
        self._batch = self._settings.batch or (LARGEST_BATCH if elsewhere else FIRST_BATCH)
        if focus is None and device is not None and run.plan("transfer", device=device) is not None:
            self._evaluations = self._batch = LARGEST_BATCH  # foretold from what others have, one round finds the front
        self._adapts = self._settings.batch is None and not elsewhere
        self._new = False  # whether the last round was proposed now: only of such a one the whole cost is seen
        self.cost = RoundCost(1)

    def next(self) -> Plan | None:
        """What is to be measured, scored and learned from next; None when the search is over."""
        if self._new and self._adapts:
            self._batch = self.cost.batch()
        self._number += 1
        self._new = False
        found = self._run.plan("round", number=self._number, device=self._device)
        if found is not None:
            self._report.say(f"search, round {self._number}")
            if self._number == 1 and self._archives and not any("front of" in note["origin"] for note in found.notes):
                self._report.say("  the search had begun already: nothing of the archives is added to it")
            self.cost = RoundCost(len(found.archs))
            return found
        return self._proposed()

    def _proposed(self) -> Plan | None:
        settings = self._settings
        left = self._evaluations - self._n_done()
        late = settings.minutes is not None and time.monotonic() - self._started > 60 * settings.minutes
        if left <= 0 or late:
            return None
        self._report.say(f"search, round {self._number}")
        at_the_end = settings.focused * sum(bool(goal.limits) for goal in self._goals)
        focused = self._focus is not None or left <= at_the_end
        n = min(self._batch, left if focused else left - at_the_end)
        self.cost = RoundCost(n)
        with self.cost.of("propose"):
            proposed = self._lent(min(LENT, left))
            if not proposed.archs:
                proposed = propose_round(self._run, self._goals, self._number, n, self._report, self._device, focused)
        if not proposed.archs:
            return None
        if settings.until == "no gain" and not focused and proposed.gain < _NO_GAIN:
            self._report.say(f"  the search ends: its next {n} are expected to add less than {_NO_GAIN:.1%}")
            return None
        self.cost.n = len(proposed.archs)
        self._new = True
        return self._run.write_plan("round", proposed.archs, proposed.notes, number=self._number, device=self._device)

    def _lent(self, n: int) -> Proposed:
        """What earlier runs lend to the first round."""
        if self._number > 1 or not self._archives:
            return Proposed((), (), 0.0)
        return lent_by(self._run, self._goals, self._archives, n, self._report)

    def _n_done(self) -> int:
        """Sub-networks in rounds of this search, those of other devices and for other limits aside."""
        plans = [plan for plan in search_plans(self._run, self._device) if plan.kind == "round"]
        notes = [note for plan in plans if plan.device == self._device for note in plan.notes]
        asked = set() if self._focus is None else {str(one) for one in self._focus.limits}
        return sum(asked <= set(note.get("within", ())) for note in notes)


def within(wanted: Sequence[Goal], limits: Sequence[Limit], device: str | None = None) -> list[Goal]:
    """The goals that limits are about, with these; with a device, only goals that are about it as well.

    Raises:
        ValueError: a limit on something that is neither learned for a goal nor counted, or limits of no goal.
    """
    found = []
    for goal in wanted:
        devices = {device, *(one.quantity.device for one in limits)} - {None}
        if devices <= set(goal.devices):
            found.append(replace(goal, limits=(*goal.limits, *limits)))
            for one in limits:
                if one.quantity not in goal.quantities and one.quantity.kind.count is None:
                    raise ValueError(
                        f"{one}: nothing learns {one.quantity} for {goal.name}; name it in search.constraints"
                    )
    if not found:
        raise ValueError(
            f"no goal is about {' and '.join(map(str, limits))}; goals are {'; '.join(g.name for g in wanted)}"
        )
    return found
