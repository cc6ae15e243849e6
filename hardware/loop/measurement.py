"""What is known of a network's latency on a device, out of all sessions that it took part in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hardware.device import Device
from hardware.loop.session import Network, Session
from hardware.loop.tying import Tie, tie_sessions

__all__ = ["Measurement", "Measurements"]

_MUCH_CHANGE = 0.015  # by which networks changed relative to each other before it is said
_NEW_LEVEL = 1.25  # how many times as slow or fast a session is, before it is said


@dataclass(frozen=True)
class Measurement:
    """How long one forward call of one batch takes, on the common level of the measurements it comes with."""

    device: Device
    key: str  # the id of an architecture, or the name of a model
    resolution: int  # pixels
    latency: float  # seconds
    interval: tuple[float, float]  # seconds; holds the latency relative to the others with 95 %
    deviation: float  # standard deviation of the log latency relative to the others
    repeats: NDArray[np.float64] = field(repr=False, compare=False)  # seconds of all of them, on the common level
    sessions: tuple[str, ...] = ()  # ids of those it took part in
    extras: Mapping[str, float] = field(default_factory=dict, hash=False)  # see `MeasuredNetwork`
    warnings: tuple[str, ...] = ()  # what is doubtful, and what to do about it

    @property
    def network(self) -> Network:
        """Key and resolution."""
        return self.key, self.resolution

    def __str__(self) -> str:
        low, high = self.interval
        milliseconds = f"{self.latency * 1e3:.3f} ms [{low * 1e3:.3f}, {high * 1e3:.3f}]"
        return f"{self.key} at {self.resolution} px: {milliseconds} on {self.device.name}, {len(self.repeats)} repeats"


class Measurements(Mapping[Network, Measurement]):
    """All that was measured on one device, on one level: the only way from repeats to latencies.

    Args:
        device: which all sessions are of.
        sessions: in the order in which they began.
        at: id of the session whose level it is; default, the last one that measured what is compared ("final"), else
            the largest one, of several the last.
    """

    def __init__(self, device: Device, sessions: Sequence[Session], at: str | None = None) -> None:
        self.device = device
        self.sessions = [session for session in sessions if session.measured]
        self._at = at

    @cached_property
    def at(self) -> Session:
        """The session whose level it is.

        Raises:
            KeyError: nothing was measured, or there is no such session.
        """
        if self._at is not None:
            found = [session for session in self.sessions if session.id == self._at]
            if not found:
                raise KeyError(f"no session {self._at} measured something on {self.device}")
        else:
            final = [session for session in self.sessions if session.purpose == "final"]
            found = final or sorted(self.sessions, key=lambda session: len(session.measured))
        if not found:
            raise KeyError(f"nothing was measured on {self.device}")
        return found[-1]

    @cached_property
    def tie(self) -> Tie:
        """All sessions tied to that one."""
        return tie_sessions(self.sessions, self.sessions.index(self.at))

    @cached_property
    def notes(self) -> list[str]:
        """What a person should know about the sessions, one line each: a device that has changed, what tying cannot
        mend, and what could not be waited out."""
        return list(self._notes()) if self.sessions else []

    def _notes(self) -> Iterator[str]:
        tie, level = self.tie, self.at.spread
        most, changed_since = 0.0, ""
        for session, shift, change in zip(self.sessions, tie.shifts, tie.changes, strict=True):
            when = _when(session.began)
            for note in session.notes:
                yield f"{self.device.name}, {when}: {note}"
            if np.isnan(shift):
                yield (
                    f"{self.device.name}: what was measured on {when} shares no network with the rest and takes no "
                    "part; `supernet profile --again` ties it"
                )
                continue
            low, high = np.array(session.spread) * np.exp(shift)
            factor = float(np.exp(abs(shift)))
            # A mood comes and goes within a session; what has changed for good is outside of all moods seen.
            if factor >= _NEW_LEVEL and (low > level[1] or high < level[0]):
                slower = "slower" if shift < 0 else "faster"
                yield (
                    f"{self.device.name}: everything is {factor:.1f} times {slower} on {_when(self.at.began)} than on "
                    f"{when}; latencies are on the later level"
                    if self.at.began >= session.began
                    else f"{self.device.name}: everything was {factor:.1f} times {slower} on {_when(self.at.began)} "
                    f"than on {when}; latencies are on the earlier level"
                )
            if session is not self.at and change > max(_MUCH_CHANGE, most):
                most, changed_since = change, when
        if most:
            yield (
                f"{self.device.name}: since {changed_since} networks have changed relative to each other by {most:.1%} "
                "(the machine was used otherwise); intervals say so, `supernet profile --again` measures anew"
            )

    def brought(self, seconds: float, session: str) -> float:
        """Seconds that were meant on the level of a session, such as a prediction made then, on the common level.

        As they are where the session is not known, or not tied.
        """
        for number, one in enumerate(self.sessions):
            if one.id == session and not np.isnan(self.tie.shifts[number]):
                return float(np.exp(self.tie.brought(np.log([seconds]), number)[0]))
        return seconds

    # -- a mapping ----------------------------------------------------------------------------------------------------

    @cached_property
    def _numbers(self) -> dict[Network, int]:
        return {name: i for i, name in enumerate(self.tie.networks)} if self.sessions else {}

    @cached_property
    def _half_widths(self) -> NDArray[np.float64]:
        return self.tie.half_widths()

    @cached_property
    def _taking_part(self) -> dict[Network, list[int]]:
        found: dict[Network, list[int]] = {}
        for number, session in enumerate(self.sessions):
            if not np.isnan(self.tie.shifts[number]):
                for name in session.names:
                    found.setdefault(name, []).append(number)
        return found

    def __getitem__(self, network: Network) -> Measurement:
        i = self._numbers[network]
        level, half = self.tie.levels[i], self._half_widths[i]
        numbers = self._taking_part[network]
        extras: dict[str, float] = {}
        repeats = []
        for number in numbers:
            session = self.sessions[number]
            place = session.places[network]
            own_extras = {**session.extras, **session.networks[session.measured[place]].extras}
            # A file that was exported has metadata, or its weights elsewhere: another size than the network's own.
            extras = {**own_extras, **extras} if session.purpose == "export" else {**extras, **own_extras}
            own = session.fit.levels[place]
            repeats.append(session.repeats(network) * np.exp(level - own))
        return Measurement(
            self.device,
            *network,
            latency=float(np.exp(level)),
            interval=(float(np.exp(level - half)), float(np.exp(level + half))),
            deviation=float(self.tie.deviations[i]),
            repeats=np.concatenate(repeats),
            sessions=tuple(self.sessions[number].id for number in numbers),
            extras=extras,
            warnings=tuple(dict.fromkeys(note for number in numbers for note in self.sessions[number].notes)),
        )

    def __iter__(self) -> Iterator[Network]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def __contains__(self, network: object) -> bool:
        return network in self._numbers


def _when(began: float) -> str:
    date = datetime.fromtimestamp(began, UTC).astimezone()
    return f"{date.day} {date:%B %Y %H:%M}"
