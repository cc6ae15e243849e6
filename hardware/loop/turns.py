"""The measuring loop: warmed up, in turns of random order, until relative latencies are known well enough.

It needs the standard library alone and Python 3.9, so that boards run this very file (`remote/kit.py`); the browser's
`measuring.js` is the same in JavaScript, and one set of tests holds both to the same laws.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["Course", "DeviceGoneError", "Sampling", "Turn", "check_others", "half_widths", "one_line", "take_turns"]

_IMPOSSIBLE_TIMES = 20  # in a row, after which the clock of a device is not believed any more
_LONGEST_REASON = 1000  # characters; what matters may be at the end
_CHECKED_EVERY = 5  # turns: looking at the intervals takes as long as some calls
_SMALLEST_SCALE = 0.003  # of a turn
_BORROWED = 8.0  # networks, for which the errors of all turns count in the scale of each


class DeviceGoneError(OSError):
    """A device stopped working in the middle of a session; what was handed out before is good."""


# Runs a prepared network so many times in a row and returns the seconds that this took.
Runner = Callable[[int], float]


@dataclass(frozen=True)
class Sampling:
    """How long to measure: until every network of a session is known well enough *relative to the others*.

    Raises:
        ValueError: limits that cannot be met.
    """

    relative_half_width: float = 0.015  # wanted: half the 95 % interval of the relative latency, as a share
    min_turns: int = 20
    max_turns: int = 100
    max_seconds: float = 10.0  # timed seconds of one network, after which it takes no more turns
    min_repeat_seconds: float = 2e-4  # shorter calls are timed several at a time: clocks and loops cost some 100 ns
    settling_seconds: float = 1e-3  # untimed calls at the start of a repeat: the caches hold what the others used
    session_networks: int = 256  # at most side by side, and fewer where memory is short
    turn_seconds: float = 2.0  # and fewer where a turn would take longer: the machine's state is one for each turn
    patience_seconds: float = 30.0  # of a session, to wait while the machine has less than its usual speed
    seed: int = 0  # of the order in which the networks take turns

    def __post_init__(self) -> None:
        if not 6 <= self.min_turns <= self.max_turns:
            raise ValueError(
                f"min_turns {self.min_turns} and max_turns {self.max_turns} must ascend and be at least 6, else there "
                "is no 95 % interval"
            )
        times = self.max_seconds, self.min_repeat_seconds, self.settling_seconds, self.turn_seconds
        if min(self.relative_half_width, *times) <= 0 or self.patience_seconds < 0:
            raise ValueError(f"limits of sampling must be positive; got {self}")
        if self.session_networks < 2:
            raise ValueError(f"session_networks {self.session_networks} must be at least 2")


@dataclass
class Turn:
    """One repeat of every network that took part: seconds of a call, and when the repeat began; None for the others."""

    started: list[float | None]  # seconds since the start of the session
    seconds: list[float | None]
    doubt: str = ""  # why it does not count, if it does not


@dataclass
class Course:
    """One network on its way: how often it is called in a repeat, and whether it failed."""

    name: str
    run: Runner
    sampling: Sampling
    calls: int = 0  # in a repeat; 0 until warmed up
    settling_calls: int = 0
    spent: float = 0.0  # timed seconds
    error: Exception | None = field(default=None, repr=False)

    def try_out(self) -> float:
        """Seconds of a call, about: of the second one, since the first may compile something."""
        self._timed(1)
        return self._timed(1)

    def warm_up(self) -> None:
        """Run until no call is faster than the fastest before by more than 2 %, three times in a row."""
        fastest, settled, spent, made = math.inf, 0, 0.0, 0
        # The first call may take as long as it likes: it may compile something, and says nothing of the others.
        while settled < 3 and (spent < self.sampling.max_seconds / 4 or made < 2):
            call = self._timed(1)
            made += 1
            settled = 0 if call < 0.98 * fastest else settled + 1
            fastest = min(fastest, call)
            spent += call
        self.calls = math.ceil(self.sampling.min_repeat_seconds / fastest)
        self.settling_calls = math.ceil(self.sampling.settling_seconds / fastest)

    def settle(self) -> None:
        """Bring its weights into the caches. Without it a call of 0.05 ms takes 2.5 times as long, one of 5 ms 1.03."""
        self.run(self.settling_calls)

    def repeat(self) -> float:
        """Seconds of one call, out of one repeat."""
        seconds = self._timed(self.calls)
        self.spent += seconds
        return seconds / self.calls

    def _timed(self, calls: int) -> float:
        seconds = 0.0
        for _ in range(_IMPOSSIBLE_TIMES):
            seconds = self.run(calls)
            if math.isfinite(seconds) and seconds > 0:
                return seconds
        raise ValueError(
            f"the clock gave {seconds} s for {self.name!r}, {_IMPOSSIBLE_TIMES} times in a row; see that nothing sets "
            "it while measuring"
        )


def take_turns(
    courses: Sequence[Course], sampling: Sampling, now: Callable[[], float], seed: int = 0
) -> Iterator[Turn]:
    """Let warmed-up networks take turns in random order; every turn is handed out when it is over.

    A session goes on for all until all are known well enough: those that were sure early make the effect of a turn
    surer for the others. Whoever takes the turns may set `Turn.doubt`; such a turn counts neither as measured nor
    towards `max_turns`, of which there are at most twice as many.

    Args:
        now: seconds since the start of the session.
        seed: of the order.

    Raises:
        DeviceGoneError: a network failed, and the one beside it does not run any more either. Else what a network
            raises is left in `Course.error`.
    """
    rng = random.Random(seed)
    turns: list[Turn] = []
    while True:
        active = [i for i, course in enumerate(courses) if course.error is None]
        counted = [turn for turn in turns if not turn.doubt]
        if len(counted) >= sampling.max_turns or len(turns) >= 2 * sampling.max_turns:
            return
        if len(counted) >= sampling.min_turns:
            active = [i for i in active if courses[i].spent < sampling.max_seconds]
            if len(counted) % _CHECKED_EVERY == 0:
                widths = half_widths([turn.seconds for turn in counted])
                if all(widths[i] <= sampling.relative_half_width for i in active):
                    return
        if not active:
            return
        turn = Turn([None] * len(courses), [None] * len(courses))
        rng.shuffle(active)
        for i in active:
            try:
                courses[i].settle()
                started = max(0.0, round(now(), 6))
                turn.seconds[i] = courses[i].repeat()
                turn.started[i] = started
            except Exception as error:  # whatever a runtime raises, it is this network's failure and no other's
                courses[i].error = error
                check_others(courses, error)
        turns.append(turn)
        yield turn


def check_others(courses: Sequence[Course], error: Exception) -> None:
    """Raise DeviceGoneError where that is the error, or where the network beside the one that failed fails as well."""
    if isinstance(error, DeviceGoneError):
        raise error
    other = next((course for course in courses if course.error is None), None)
    if other is not None:
        try:
            other.run(1)
        except Exception:
            raise DeviceGoneError(one_line(error)) from error


def half_widths(turns: Sequence[Sequence[float | None]]) -> list[float]:
    """Half the 95 % interval of every network's latency relative to the others, as a share.

    A quick look at whether it is enough. The analysis of a session (`two_way`) is the same model fitted with care.

    Args:
        turns: (n_turns) of (n_networks) seconds, None where one did not take part.
    """
    n = len(turns[0])
    logs = [[None if value is None else math.log(value) for value in turn] for turn in turns]
    levels = [_median([row[i] for row in logs]) for i in range(n)]
    found = [_residuals(row, levels) for row in logs]
    # Without the smallest, which is that of the network the turn's effect follows. One alone is not relative to any.
    rows = [(row, sorted(abs(value) for value in row.values())[1:]) for row in found if len(row) > 1]
    common = statistics.median([size for _, sizes in rows for size in sizes]) if rows else 0.0
    total, errors = [0.0] * n, [0.0] * n
    for row, sizes in rows:
        # A turn of few networks says little about how noisy it is, and borrows from all (`two_way` says why and how).
        few, own = len(row) - 2, max(statistics.median(sizes), 1e-6)
        logarithm = (few * math.log(own) + _BORROWED * math.log(max(common, 1e-6))) / (few + _BORROWED)
        scale = max(_SMALLEST_SCALE, 1.4826 * math.exp(logarithm))
        for i, value in row.items():
            weight = 4 / (3 + (value / scale) ** 2) / scale**2
            total[i] += 4 / 6 / scale**2
            errors[i] += (weight * value) ** 2 / (1 - 1 / len(row))
    quantile = 2.2 if len(turns) < 30 else 2.0  # of Student's t
    return [quantile * math.sqrt(errors[i]) / total[i] if total[i] else math.inf for i in range(n)]


def _residuals(row: Sequence[float | None], levels: Sequence[float]) -> dict[int, float]:
    """What is left of a turn's log seconds without the levels and without what all have in common, by network."""
    left = {i: value - levels[i] for i, value in enumerate(row) if value is not None}
    effect = statistics.median(left.values()) if left else 0.0
    return {i: value - effect for i, value in left.items()}


def _median(values: Sequence[float | None]) -> float:
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else 0.0


def one_line(error: Exception) -> str:
    """What an exception says, as one line of bounded length."""
    return " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
