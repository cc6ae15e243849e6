"""What a device elsewhere says that it measured: believed only as far as it can be checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware.device import Device
from hardware.loop.session import MeasuredNetwork, Network, Session
from hardware.remote.submission import Stretch, printable
from hardware.remote.work import Job

__all__ = ["Judged", "judge"]

_FEWEST_ANCHORS = 2  # less ties no session
_SHORTEST = 1e-6  # seconds: not even an empty network is called faster
_MACS_PER_SECOND = {"wasm": 1e12, "CPUExecutionProvider": 1e13}  # of one thread; far above every core there is
_MACS_PER_SECOND_OF_A_GPU = 1e16
_FASTER_THAN_ANCHORS = 1000  # in multiply-accumulates a second; small networks on a GPU come to some hundreds

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Judged:
    """A stretch of a session with what can be true of it, and why the rest cannot."""

    networks: tuple[MeasuredNetwork, ...]
    seconds: Array  # (n_networks, n_turns); NaN for a network that is not believed
    started: Array
    refused: Mapping[Network, str]  # reasons

    def session(self, device: Device, **described: Any) -> Session:
        """The session; see `Session` for what it is described by."""
        doubts = ("",) * self.seconds.shape[1]
        return Session(device=device, networks=self.networks, seconds=self.seconds, started=self.started,
                       doubts=doubts, **described)  # fmt: skip


def judge(
    posted: Stretch, device: Device, jobs: Mapping[Network, Job], anchors: Collection[Network], max_turns: int
) -> Judged:
    """Take each network on its own, so that a bad one does not cost the others.

    What was never asked for is left out. A network whose times cannot be true stays without repeats: a later part of
    the same session has the same networks.

    Args:
        jobs: everything that may be measured.
        anchors: those of the anchors that the device can run; no session is believed that cannot be tied.

    Raises:
        ValueError: too few anchors took part, or there are more turns than were asked for.
    """
    if len(posted.turns) > max_turns:
        raise ValueError(f"the session has {len(posted.turns)} turns; at most {max_turns} were asked for")
    known = [i for i, network in enumerate(posted.networks) if network.name in jobs]
    refused = {
        network.name: f"{printable(network.key)} at {network.resolution} px was never asked for"
        for network in posted.networks
        if network.name not in jobs
    }
    networks = [posted.networks[i] for i in known]
    shape = len(posted.turns), len(posted.networks)
    seconds = np.array([turn.seconds for turn in posted.turns], dtype=float).reshape(shape).T[known]
    started = np.array([turn.started for turn in posted.turns], dtype=float).reshape(shape).T[known]
    macs = np.array([jobs[network.name].macs for network in networks], dtype=float) * device.batch_size
    fastest = _MACS_PER_SECOND.get(device.provider, _MACS_PER_SECOND_OF_A_GPU / device.threads) * device.threads
    shortest = np.maximum(_SHORTEST, macs / fastest)
    middle = np.array([np.median(row[~np.isnan(row)]) if not np.isnan(row).all() else np.nan for row in seconds])
    for i in np.flatnonzero(middle < shortest):
        refused[networks[i].name] = (
            f"{networks[i].key} cannot take {middle[i]:.3g} s: no {device.provider} does {macs[i]:,.0f} "
            f"multiply-accumulates in less than {shortest[i]:.1g} s"
        )
    tying = [
        i
        for i, network in enumerate(networks)
        if network.name in anchors and network.name not in refused and not np.isnan(middle[i])
    ]
    if posted.networks and len(tying) < (wanted := min(_FEWEST_ANCHORS, len(anchors))):
        raise ValueError(
            f"the session has {len(tying)} of the anchors; it needs at least {wanted} to be tied to others"
        )
    if tying:
        pace = macs / middle
        usual = float(np.median(pace[tying]))
        for i in np.flatnonzero(pace > _FASTER_THAN_ANCHORS * usual):
            refused.setdefault(
                networks[i].name,
                f"{networks[i].key} cannot take {middle[i]:.3g} s: that is {pace[i] / usual:,.0f} times the pace of "
                "the anchors beside it",
            )
    gone = np.array([network.name in refused for network in networks], dtype=bool)[:, None] | (
        seconds < shortest[:, None]
    )
    return Judged(
        networks=tuple(MeasuredNetwork(n.key, n.resolution, n.calls_per_repeat) for n in networks),
        seconds=np.where(gone, np.nan, seconds),
        started=np.where(gone, np.nan, started),
        refused=refused,
    )
