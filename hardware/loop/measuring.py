"""Measuring networks side by side: sessions as large as memory allows, each beside the same anchors."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from hardware.device import Device
from hardware.loop.cpu import cpu_description
from hardware.loop.process import quietest_cores, undisturbed
from hardware.loop.session import MeasuredNetwork, Network, Session, new_session_id
from hardware.loop.surroundings import Surroundings
from hardware.loop.turns import Course, DeviceGoneError, Sampling, Turn, check_others, one_line, take_turns
from hardware.profiling import Prepared, Profiler, Workload
from hardware.runtimes.gpu import gpu_state

__all__ = ["Watcher", "measure"]

_MEMORY_SHARE = 8  # files of a session fill at most one part in so many; what runs takes about twice as much as files
_LOOKED_EVERY = 1.0  # seconds between looks at the surroundings, and between reports
_PAUSES = 0.5, 8.0  # seconds: of the first wait in a row, and of the longest
_ADVICE = "it did not pass while there was patience to wait; mend that, and measure again (`supernet profile --again`)"


class Watcher:
    """Is told what happens while networks are measured; does nothing unless a subclass does."""

    def failed(self, workload: Workload, reason: str) -> None:
        """A network does not run on the device, why in one line. The others are measured, unless this raises."""
        raise ValueError(reason)

    def progressed(self, session: Session, share: float) -> None:
        """About every second: the session so far, and about which share of it is done. A kill loses what came later."""

    def waits(self, reason: str, seconds: float) -> None:
        """The machine is not what it usually is, and what was measured meanwhile is measured again."""


def measure(
    profiler: Profiler,
    workloads: Iterable[Workload],
    sampling: Sampling | None = None,
    *,
    anchors: Sequence[Workload] = (),
    purpose: str = "planned",
    watcher: Watcher | None = None,
    surroundings: Callable[[], list[str]] | None = None,
) -> Iterator[Session]:
    """Measure `workloads` in sessions: networks take turns in random order until relative latencies are known.

    What a machine does from second to second is common to the networks of a turn, so what is measured in one session
    compares to a percent where medians of different moments differ by twenty. Sessions are as large as `Sampling` and
    memory allow. Anchors take part in every one and tie them together (`tying`).

    The workloads are read one by one, as a session fills, so a generator may build them while it is asked for them.

    Args:
        sampling: how long; default `Sampling()`.
        anchors: networks of the same kind and size as those that are measured; those that fail are left out.
        purpose: of the sessions, see `Session`.
        surroundings: what was wrong with the device since the last question; default, what this machine tells.

    Raises:
        ValueError: a workload does not run on the device, and the watcher did not take it.
        DeviceGoneError: nothing runs there any more.
    """
    sessions = _Sessions(profiler, sampling or Sampling(), purpose, watcher or Watcher(), surroundings)
    sessions.add_anchors(anchors)
    for workload in workloads:
        sessions.add(workload)
        if sessions.is_full:
            yield from sessions.run()
    if sessions.has_work:
        yield from sessions.run()


class _Sessions:
    """The networks of the session that fills, and what all sessions of one call share."""

    def __init__(
        self,
        profiler: Profiler,
        sampling: Sampling,
        purpose: str,
        watcher: Watcher,
        surroundings: Callable[[], list[str]] | None,
    ) -> None:
        self.profiler, self.sampling, self.purpose, self.watcher = profiler, sampling, purpose, watcher
        self.device = profiler.device
        self.on_gpu = any(name in self.device.provider.lower() for name in ("cuda", "tensorrt"))
        self.is_here = self.on_gpu or self.device.hardware == cpu_description()
        if surroundings is None:
            state = gpu_state if self.on_gpu else None
            surroundings = Surroundings(self.device, state).disturbances if self.is_here else list
        self.disturbances = surroundings
        self.anchors: dict[Network, _Entrant] = {}
        self.entrants: dict[Network, _Entrant] = {}
        self.wanted: set[Network] = set()  # anchors that are also to be measured for themselves
        self.n_sessions = 0

    def add_anchors(self, workloads: Sequence[Workload]) -> None:
        for workload in workloads:
            with contextlib.suppress(ValueError):  # what does not run is told when it is its turn as a workload
                self.anchors[workload.name] = self._prepared(workload)

    def add(self, workload: Workload) -> None:
        if workload.name in self.anchors:
            if not self.n_sessions:  # else it was measured already
                self.wanted.add(workload.name)
        elif workload.name not in self.entrants:
            try:
                self.entrants[workload.name] = self._prepared(workload)
            except ValueError as error:
                self.watcher.failed(workload, one_line(error))

    def _prepared(self, workload: Workload) -> _Entrant:
        """Raises ValueError where it does not run."""
        self._check_memory(workload)
        try:
            prepared = self.profiler.prepare(workload)
        except (ValueError, OSError):
            raise
        except (
            Exception
        ) as error:  # no memory, or whatever a runtime raises: it is this network's failure and no other's
            self._check_others(error)
            raise ValueError(f"{workload.key!r} cannot be prepared: {one_line(error)}") from error
        entrant = _Entrant(workload, prepared, self.sampling)
        try:
            entrant.call_seconds = entrant.course.try_out()
        except Exception as error:
            self._check_others(error)
            raise ValueError(f"{workload.key!r} does not run: {one_line(error)}") from error
        return entrant

    def _check_memory(self, workload: Workload) -> None:
        """Raises ValueError where not even its images fit: a system may end the whole process that asks for so much."""
        n_bytes = 4.0 * self.device.batch_size * workload.channels * workload.resolution**2
        if self.is_here and not self.on_gpu and n_bytes > _memory():
            raise ValueError(
                f"{workload.key!r} takes images of {n_bytes / 1e9:.3g} GB at a time, and this machine has "
                f"{_memory() / 1e9:.3g} GB"
            )

    @property
    def has_work(self) -> bool:
        return bool(self.entrants or self.wanted)

    @property
    def taking_part(self) -> list[_Entrant]:
        return [*self.anchors.values(), *self.entrants.values()]

    @property
    def is_full(self) -> bool:
        sampling, taking_part = self.sampling, self.taking_part
        turn = sum(
            max(e.call_seconds, sampling.min_repeat_seconds) + max(e.call_seconds, sampling.settling_seconds)
            for e in taking_part
        )
        n_bytes = sum(entrant.prepared.extras.get("file_bytes", 0.0) for entrant in taking_part)
        return bool(self.entrants) and (
            len(taking_part) >= sampling.session_networks
            or turn >= sampling.turn_seconds
            or n_bytes * _MEMORY_SHARE >= _memory()
        )

    def run(self) -> Iterator[Session]:
        """Measure the session that has filled.

        Raises:
            DeviceGoneError: after what was measured before was handed out.
        """
        entrants, gone = self.taking_part, None
        self.n_sessions += 1
        draft = _Draft(self.device, self.purpose, entrants)
        cores = quietest_cores(self.device.threads) if self.is_here else ()
        before = gpu_state() if self.on_gpu else {}
        with undisturbed(cores, realtime=self.device.threads == 1):
            for entrant in entrants:
                self._warm_up(entrant.course)
            try:
                self._take_turns(draft)
            except DeviceGoneError as error:
                gone = error
        after = gpu_state() if self.on_gpu else {}
        draft.extras |= {f"{name}_before": value for name, value in before.items()}
        draft.extras |= {f"{name}_after": value for name, value in after.items()}
        asked_for = self.entrants.keys() | self.wanted
        errors = [(e.workload, e.course.error) for e in entrants if e.workload.name in asked_for]
        innocent = (None, gone, gone.__cause__) if gone else (None,)  # who was there when the device went away
        failed = [(workload, error) for workload, error in errors if error is not None and error not in innocent]
        self.entrants, self.wanted = {}, set()
        self.anchors = {name: anchor for name, anchor in self.anchors.items() if anchor.course.error is None}
        for anchor in self.anchors.values():
            anchor.course.spent = 0.0
        if draft.turns:
            yield draft.session()
        for workload, error in failed:  # last, since a watcher may raise
            self.watcher.failed(workload, f"{workload.key!r} does not run: {one_line(error)}")
        if gone is not None:
            raise self._gone(gone) from gone

    def _take_turns(self, draft: _Draft) -> None:
        """Until relative latencies are known; waits, while there is patience, where the machine is not itself."""
        patience, pause, n_judged = self.sampling.patience_seconds, _PAUSES[0], 0
        self.disturbances()  # what was before is no matter
        looked = time.perf_counter()
        seed = self.sampling.seed + self.n_sessions
        for turn in take_turns(draft.courses, self.sampling, draft.now, seed):
            draft.turns.append(turn)
            if time.perf_counter() - looked < _LOOKED_EVERY:
                continue
            reasons = self.disturbances()
            if reasons and patience > 0:
                for late in draft.turns[n_judged:]:
                    late.doubt = reasons[0]
                wait = min(pause, patience)
                self.watcher.waits(reasons[0], wait)
                time.sleep(wait)
                patience, pause = patience - wait, min(2 * pause, _PAUSES[1])
                self.disturbances()
            else:
                draft.note(reasons)
                pause = _PAUSES[0]
            n_judged = len(draft.turns)
            self.watcher.progressed(draft.session(), self._share(draft.turns))
            looked = time.perf_counter()
        # What was wrong in the last second costs the turns in it, where enough others are left.
        if n_judged < len(draft.turns) and (reasons := self.disturbances()):
            if sum(not turn.doubt for turn in draft.turns[:n_judged]) >= self.sampling.min_turns:
                for late in draft.turns[n_judged:]:
                    late.doubt = late.doubt or reasons[0]
            else:
                draft.note(reasons)

    def _share(self, turns: Sequence[Turn]) -> float:
        """About: most sessions need twice the least number of turns."""
        counted = sum(not turn.doubt for turn in turns)
        return min(0.95, counted / min(2 * self.sampling.min_turns, self.sampling.max_turns))

    def _warm_up(self, course: Course) -> None:
        if not course.calls:
            try:
                course.warm_up()
            except Exception as error:
                course.error = error
                self._check_others(error)

    def _check_others(self, error: Exception) -> None:
        try:
            check_others([entrant.course for entrant in self.taking_part], error)
        except DeviceGoneError as gone:
            raise self._gone(gone) from error

    def _gone(self, error: Exception) -> DeviceGoneError:
        return DeviceGoneError(
            f"device {self.device.name!r} stopped working: {one_line(error)}; bring it back and run the same command "
            "again, what was measured is kept"
        )


class _Entrant:
    """A workload on the device."""

    def __init__(self, workload: Workload, prepared: Prepared, sampling: Sampling) -> None:
        self.workload = workload
        self.prepared = prepared
        self.course = Course(workload.key, prepared.run, sampling)
        self.call_seconds = 0.0  # about

    @property
    def network(self) -> MeasuredNetwork:
        return MeasuredNetwork(*self.workload.name, max(1, self.course.calls), self.prepared.extras)


class _Draft:
    """A session while it is measured."""

    def __init__(self, device: Device, purpose: str, entrants: Sequence[_Entrant]) -> None:
        self.device, self.purpose, self.entrants = device, purpose, entrants
        self.courses = [entrant.course for entrant in entrants]
        self.id, self.began, self._start = new_session_id(), time.time(), time.perf_counter()
        self.turns: list[Turn] = []
        self.notes: dict[str, None] = {}
        self.extras: dict[str, float] = {}

    def now(self) -> float:
        """Seconds since the session began."""
        return time.perf_counter() - self._start

    def note(self, reasons: Sequence[str]) -> None:
        """Doubts about the session that could not be waited out."""
        self.notes |= dict.fromkeys(f"{reason}; {_ADVICE}" for reason in reasons)

    def session(self) -> Session:
        return Session.of_turns(
            self.device,
            [entrant.network for entrant in self.entrants],
            [(turn.started, turn.seconds, turn.doubt) for turn in self.turns],
            id=self.id,
            began=self.began,
            purpose=self.purpose,
            notes=tuple(self.notes),
            extras=self.extras,
        )


def _memory() -> float:
    """Bytes of this machine, as far as the platform tells."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError):  # Windows
        return 4e9
