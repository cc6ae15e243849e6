"""Sessions of one device tied by the networks they share: every latency on one level, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hardware.loop.session import Network, Session
from hardware.loop.two_way import student_quantile

__all__ = ["Tie", "tie_sessions"]

_DEGREES = 4.0  # of freedom of Student's t, between sessions
_ROUNDS = 30
_SLOPE = 0.05  # prior standard deviation of a session's slope in log size: a tie by few networks is a shift
# Prior scale of how much networks change relative to each other from session to session, as a part of the noise of one
# repeat: on one machine 0.13 and 0.18 of it, for networks of 0.05 and of 1 ms whose noise differed threefold.
_CHANGE = 0.16
_PRIOR_DEGREES = 4.0  # how much that prior weighs

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Tie:
    """Log latencies of all networks on the level of one session.

    Attributes:
        at: number of the session whose level it is.
        networks: all that were measured in a session which is tied to that one.
        levels: (n_networks,) log seconds of a call.
        deviations: (n_networks,) standard deviations of these relative to the other networks: of the measuring, of the
            tie, and of what changed between sessions.
        degrees: degrees of freedom with which the deviations are known.
        shifts: (n_sessions,) log of how much slower each session was; NaN for one that shares no network.
        shift_deviations: (n_sessions,) their standard deviations.
        slopes: (n_sessions,) how much more each session slowed a network that is e times as slow.
        center, reach: the log seconds from which sizes count, and how far below and above it a slope was seen; what is
            smaller or larger is shifted as the smallest or largest that sessions share.
        changes: (n_sessions,) by how much, as a share, networks changed relative to each other beside shift and slope:
            what no tie can mend.
    """

    at: int
    networks: tuple[Network, ...]
    levels: Array
    deviations: Array
    degrees: float
    shifts: Array
    shift_deviations: Array
    slopes: Array
    changes: Array
    center: float
    reach: tuple[float, float]

    def brought(self, levels: Array, session: int) -> Array:
        """Log seconds on the level of a session, brought to the common level; NaN where it is not tied."""
        size = np.clip(levels - self.shifts[session] - self.center, *self.reach)
        return levels - self.shifts[session] - self.slopes[session] * size

    def half_widths(self, coverage: float = 0.95) -> Array:
        """(n_networks,) half the interval of each relative latency, on the log scale."""
        return self.deviations * student_quantile(self.degrees, (1 + coverage) / 2)


def tie_sessions(sessions: Sequence[Session], at: int) -> Tie:
    """Estimate every session's effect at once, and bring all networks to the level of session number `at`.

    The model of a network's level in a session is ``network + shift(session) + slope(session) * size + change + error``
    with the errors' deviations from the sessions themselves. Changes are Student-t: a neighbour who uses the caches
    slows some networks more than others. Their scale is found from the networks that sessions share, each session's own
    drawn towards that of all (empirical Bayes), and becomes part of the deviation of whatever was not measured in
    session `at` itself. What was measured there stays close to what was seen there.

    Sessions that share no network with the others, not even through third ones, are left out.

    Raises:
        ValueError: there is no such session, or it measured nothing.
    """
    if not 0 <= at < len(sessions) or not sessions[at].measured:
        raise ValueError(f"no session {at} that measured something, of {len(sessions)}")
    tied = _connected(sessions, at)
    names = tuple(dict.fromkeys(name for s in tied for name in sessions[s].names))
    numbers = {name: i for i, name in enumerate(names)}
    network = np.concatenate([[numbers[name] for name in sessions[s].names] for s in tied]).astype(int)
    session = np.concatenate([np.full(len(sessions[s].names), k) for k, s in enumerate(tied)])
    level = np.concatenate([sessions[s].fit.levels for s in tied])
    own = np.concatenate([sessions[s].fit.deviations for s in tied]) ** 2
    prior = _CHANGE * float(np.median([np.nanmedian(sessions[s].fit.scales) for s in tied]))
    fit = _Fit(network, session, level, own, len(names), len(tied), tied.index(at), prior)
    fit.run()
    shifts, shift_deviations, slopes, changes = (np.full(len(sessions), np.nan) for _ in range(4))
    shifts[tied], slopes[tied], changes[tied] = fit.shifts, fit.slopes, fit.changes
    shift_deviations[tied] = fit.shift_deviations
    levels, deviations = fit.at_level()
    degrees = float(np.median(np.concatenate([sessions[s].fit.degrees for s in tied])))
    return Tie(at, names, levels, deviations, degrees, shifts, shift_deviations, slopes, changes, fit.center, fit.reach)


def _connected(sessions: Sequence[Session], at: int) -> list[int]:
    """The sessions that share networks with session `at`, directly or through others, in their order."""
    found, known = {at}, set(sessions[at].names)
    while True:
        more = {s for s, one in enumerate(sessions) if s not in found and known.intersection(one.names)}
        if not more:
            return sorted(found)
        found |= more
        known |= {name for s in more for name in sessions[s].names}


class _Fit:
    """The estimate, by iterated re-weighting; networks are eliminated, so a solve is as large as there are sessions."""

    def __init__(
        self,
        network: NDArray[np.int_],
        session: NDArray[np.int_],
        level: Array,
        own: Array,
        n_networks: int,
        n_sessions: int,
        at: int,
        prior: float,
    ) -> None:
        self.network, self.session, self.level, self.own = network, session, level, own
        self.n_networks, self.n_sessions, self.at = n_networks, n_sessions, at
        self.prior = prior
        self.variances = np.full(n_sessions, prior**2)  # of the changes
        self.robust = np.ones(len(level))
        counts = np.bincount(network, minlength=n_networks)
        mean = np.bincount(network, level, n_networks) / counts
        self.shared = counts[network] > 1
        tied = mean[counts > 1] if self.shared.any() else mean
        self.center = float(tied.mean())
        self.reach = float(tied.min()) - self.center, float(tied.max()) - self.center
        self.size = np.clip(mean - self.center, *self.reach)[network]
        rows = np.arange(len(level))
        design = np.zeros((len(level), 2 * n_sessions))
        design[rows, session] = 1.0
        design[rows, n_sessions + session] = self.size
        self.free = np.array([k for k in range(2 * n_sessions) if k % n_sessions != at], dtype=int)
        self.design = design[:, self.free]
        self.order = np.argsort(network, kind="stable")  # rows by network, for sums over each
        self.starts = np.searchsorted(network[self.order], np.arange(n_networks))

    def run(self) -> None:
        for _ in range(_ROUNDS):
            self._solve()
            if not self.shared.any():
                break
            self._reweigh()

    @property
    def changes(self) -> Array:
        """(n_sessions,) standard deviations of the changes, which for Student's t are larger than its scale."""
        return np.sqrt(self.variances * _DEGREES / (_DEGREES - 2))

    def _variance(self) -> Array:
        return self.own + self.variances[self.session]

    def _solve(self) -> None:
        weight = self.robust / self._variance()
        self.total = np.bincount(self.network, weight, self.n_networks)
        n, free = self.n_sessions, self.free
        # Weighted means of every network, taken away from the rows: what is left is about sessions alone, and of what
        # was measured in one of them only nothing is left.
        means = np.add.reduceat((self.design * weight[:, None])[self.order], self.starts, axis=0) / self.total[:, None]
        average = np.bincount(self.network, self.level * weight, self.n_networks) / self.total
        effects, covariance = np.zeros(0), np.zeros((0, 0))
        if len(free):
            network, some = self.network[self.shared], weight[self.shared, None]
            centred = self.design[self.shared] - means[network]
            prior = np.diag(np.where(free >= n, _SLOPE**-2, 0.0))
            covariance = np.linalg.inv((centred * some).T @ centred + prior)  # all sessions are connected
            effects = covariance @ ((centred * some).T @ (self.level[self.shared] - average[network]))
        self.effects, self.covariance, self.means = effects, covariance, means
        self.levels = average - means @ effects
        all_effects, variances = np.zeros(2 * n), np.zeros(2 * n)
        all_effects[free], variances[free] = effects, np.diag(covariance)
        self.shifts, self.slopes = all_effects[:n], all_effects[n:]
        self.shift_deviations = np.sqrt(variances[:n])
        self.residuals = self.level - (
            self.levels[self.network] + self.shifts[self.session] + self.slopes[self.session] * self.size
        )

    def _reweigh(self) -> None:
        variance = self._variance()
        ratio = self.residuals**2 / variance
        self.robust = (_DEGREES + 1) / (_DEGREES + ratio)
        # What is left of a row after its network and its session were fitted to it; a network in two sessions leaves
        # half of it. Sums of squares over that say how large changes are; where errors explain them, there are none.
        kept = 1 - self.robust / variance / self.total[self.network]
        squares = self.robust * self.residuals**2
        expected = np.clip(kept, 0.0, 1.0)
        n = np.bincount(self.session[self.shared], minlength=self.n_sessions)
        freedom = np.bincount(self.session, expected * self.shared, self.n_sessions)
        # Shift and slope take freedom, too: of all sessions but one.
        taken = np.where(n > 0, 2 * (self.n_sessions - 1) / self.n_sessions, 0.0)
        freedom = np.maximum(freedom - taken * np.minimum(1.0, freedom), 0.25 * freedom)
        found = np.bincount(self.session, squares * self.shared, self.n_sessions)
        noise = np.bincount(self.session, self.own * expected * self.shared, self.n_sessions)
        excess = np.maximum(found - noise, 0.0)  # this much of the squares is not noise
        common = (excess.sum() + _PRIOR_DEGREES * self.prior**2) / (freedom.sum() + _PRIOR_DEGREES)
        self.variances = (excess + _PRIOR_DEGREES * common) / (freedom + _PRIOR_DEGREES)

    def at_level(self) -> tuple[Array, Array]:
        """Levels and deviations of all networks in session `at`: as seen there, and for the others as expected."""
        spread = self.means @ self.covariance
        weight = self.robust / (self.own + self.changes[self.session] ** 2)
        total = np.bincount(self.network, weight, self.n_networks)
        variance = 1 / total + np.einsum("ij,ij->i", spread, self.means)
        # The best linear prediction of `network + change` there, from the network's own repeats there and the others.
        change = self.changes[self.at] ** 2
        levels, variances = self.levels.copy(), variance + change
        here = self.session == self.at
        i, own = self.network[here], self.own[here]
        alone = np.bincount(self.network, minlength=self.n_networks)[i] == 1
        share = np.where(alone, 1.0, change / (change + own))
        levels[i] += share * (self.level[here] - levels[i])
        variances[i] = np.where(alone, own, share**2 * own + (1 - share) ** 2 * variance[i])
        return levels, np.sqrt(variances)
