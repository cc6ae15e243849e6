"""A session: one stretch of measuring on one device, with every repeat; and what it says of networks and machine."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hardware.device import Device
from hardware.loop.two_way import TwoWay, fit_two_way

__all__ = ["FEWEST_TURNS", "MeasuredNetwork", "Network", "Session", "new_session_id"]

Network = tuple[str, int]  # the id of an architecture or the name of a model, and the resolution in pixels
Array = NDArray[np.float64]

FEWEST_TURNS = 6  # of a network, before a session says anything about it


def new_session_id() -> str:
    """Sixteen hexadecimal digits that no other session has."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network as it took part in a session."""

    key: str  # the id of an architecture, or the name of a model
    resolution: int  # pixels
    calls_per_repeat: int = 1  # very short calls are timed several at a time; a repeat is their mean
    # What else was found out, by name with its unit: peak_memory_bytes, file_bytes, energy_joules (of one call).
    extras: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> Network:
        """Key and resolution."""
        return self.key, self.resolution


@dataclass(frozen=True, eq=False)
class Session:
    """Networks that took turns on one device, and every repeat they made.

    Attributes:
        id: no other session has it.
        device: what the repeats hold for.
        began: seconds since 1970.
        networks: those that took part.
        seconds: (n_networks, n_turns) of one call; NaN where a network did not take part in a turn.
        started: (n_networks, n_turns) when each repeat began, in seconds since the session began; NaN likewise, and
            everywhere for a device that does not tell.
        doubts: (n_turns) texts: why a turn does not count, or "" where it does.
        purpose: "planned", "final" (what is compared, side by side), "again" or "export".
        notes: what is doubtful about the session as a whole, and what can be done about it.
        extras: clocks and the like, before and after.

    Raises:
        ValueError: shapes that do not fit, a repeat that is not a positive number of seconds, or a network twice.
    """

    id: str
    device: Device
    began: float
    networks: tuple[MeasuredNetwork, ...]
    seconds: Array
    started: Array
    doubts: tuple[str, ...] = ()
    purpose: str = "planned"
    notes: tuple[str, ...] = ()
    extras: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = len(self.networks), len(self.doubts)
        if self.seconds.shape != shape or self.started.shape != shape:
            raise ValueError(
                f"session {self.id} has {shape[0]} networks and {shape[1]} turns, but seconds {self.seconds.shape} and "
                f"starts {self.started.shape}"
            )
        if len({network.name for network in self.networks}) < len(self.networks):
            raise ValueError(f"session {self.id} has a network twice")
        values = self.seconds[~np.isnan(self.seconds)]
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"session {self.id} has a repeat that is not a positive number of seconds")
        if (self.started < 0).any() or np.isinf(self.started).any():
            raise ValueError(f"session {self.id} has a repeat that began before it")
        if (np.isnan(self.seconds) & ~np.isnan(self.started)).any():
            raise ValueError(f"session {self.id} has a repeat that began and took no time")

    @property
    def n_turns(self) -> int:
        return len(self.doubts)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """(n_turns,) which turns count: those without a doubt, or all where these are too few."""
        clear = np.array([not doubt for doubt in self.doubts], dtype=bool)
        return clear if clear.sum() >= FEWEST_TURNS else np.ones(self.n_turns, dtype=bool)

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """Numbers of the networks that took enough turns to say something."""
        turns = (~np.isnan(self.seconds[:, self.counted])).sum(axis=1)
        return tuple(np.flatnonzero(turns >= FEWEST_TURNS).tolist())

    @cached_property
    def names(self) -> tuple[Network, ...]:
        """Key and resolution of the measured networks."""
        return tuple(self.networks[i].name for i in self.measured)

    @cached_property
    def places(self) -> Mapping[Network, int]:
        """Where each measured network stands in `names`, `measured` and the levels of `fit`."""
        return {name: place for place, name in enumerate(self.names)}

    def holds(self, networks: Iterable[Network], at_least: int = FEWEST_TURNS) -> bool:
        """Whether all of these took so many turns in it."""
        n_repeats = (~np.isnan(self.seconds[:, self.counted])).sum(axis=1).tolist()
        enough = {network.name for network, n in zip(self.networks, n_repeats, strict=True) if n >= at_least}
        return enough.issuperset(networks)

    @cached_property
    def fit(self) -> TwoWay:
        """Machine and networks apart; levels are those of the measured networks, turns those that count.

        Raises:
            ValueError: nothing was measured.
        """
        return fit_two_way(self.seconds[list(self.measured)][:, self.counted])

    def repeats(self, network: Network) -> Array:
        """(n,) seconds of the repeats that count of a measured network, in the order of the turns.

        Raises:
            KeyError: it was not measured in this session.
        """
        row = self.seconds[self.measured[self.places[network]], self.counted]
        return row[~np.isnan(row)]

    @cached_property
    def spread(self) -> tuple[float, float]:
        """Between which factors of its level the machine's speed moved in nine of ten turns."""
        low, high = np.nanquantile(self.fit.turns, [0.05, 0.95])
        return float(np.exp(low)), float(np.exp(high))

    @classmethod
    def of_turns(
        cls,
        device: Device,
        networks: Sequence[MeasuredNetwork],
        turns: Sequence[tuple[Sequence[float | None], Sequence[float | None], str]],
        *,
        id: str,
        began: float,
        purpose: str = "planned",
        notes: Sequence[str] = (),
        extras: Mapping[str, float] | None = None,
    ) -> Session:
        """From one (started, seconds, doubt) for every turn; None where a network did not take part."""
        shape = len(turns), len(networks)
        started = np.array([turn[0] for turn in turns], dtype=float).reshape(shape).T
        seconds = np.array([turn[1] for turn in turns], dtype=float).reshape(shape).T
        doubts = tuple(turn[2] for turn in turns)
        return cls(
            id, device, began, tuple(networks), seconds, started, doubts, purpose, tuple(notes), dict(extras or {})
        )
