"""Devices of which the latencies are known, and what they say about one of which nearly nothing is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from predictors.features import Features, Joined
from predictors.line import Groups, Line, Prior
from predictors.protocol import Values
from supernet.space import Genes, SearchSpace

__all__ = ["DeviceColumns", "KnownDevice", "KnownDevices"]

Columns = NDArray[np.float64]

_FREEDOM = 4.0  # degrees of the noise on a device of which little is measured
_SPREAD = 1.5  # at least, of the logarithms of variances over devices
_LEARN_FROM = 100  # measured networks of each device
_SEEN = 400  # networks of the space, by which a device's predictions are brought to one scale, and choices are judged
_LEAST = 0.05  # of its mean: no device is predicted to be faster
_FASTEST = 0.05  # of the networks, the fastest on any device, are not chosen: there, latency is not the network's


@dataclass(frozen=True)
class KnownDevice:
    """One whose latency is predicted well.

    Attributes:
        name: of the device.
        family: devices of one are alike, such as a machine with two batch sizes.
        genes: (n_archs, n_genes) what was measured there, ...
        seconds: (n_archs,) ... and how long it took.
        predict: genes to seconds (n,).
    """

    name: str
    family: str
    genes: Genes
    seconds: Values
    predict: Callable[[Genes], Values]


class DeviceColumns:
    """What networks take on devices that are known: on average, and how far each of these lies apart from it.

    Predictions are used and not measurements: they are there for every network, and have less noise.

    Args:
        space: the space of the genes.
        devices: at least one.
    """

    def __init__(self, space: SearchSpace, devices: Sequence[KnownDevice]) -> None:
        self.space = space
        self.devices = tuple(devices)
        probes = _sample(space, _SEEN, 0)
        self._scale = np.array([float(one.predict(probes).mean()) for one in devices])
        apart = [one.name for one in devices] if len(devices) > 1 else []
        self.names = ("mean of devices", *(f"{name} apart" for name in apart))
        self.groups = ("devices mean", *["devices apart"] * len(apart))
        text = json.dumps([space.to_dict(), self.names, [f"{x:.6g}" for x in self.relative(probes[:16]).ravel()]])
        self.digest = hashlib.sha256(f"DeviceColumns {text}".encode()).hexdigest()[:16]

    def __call__(self, genes: Genes) -> Columns:
        """(n_archs, n_features), about 1 and about 0."""
        found = self.relative(genes)
        mean = found.mean(axis=1, keepdims=True)
        return np.concatenate([mean, found - mean], axis=1) if len(self.devices) > 1 else mean

    def dot(self, genes: Genes, coefficients: Columns) -> Columns:
        """(n_archs,)."""
        return self(genes) @ coefficients

    def relative(self, genes: Genes) -> Columns:
        """(n_archs, n_devices) what each device takes, in units of what it takes on average."""
        genes = self.space.canonical(genes)
        found = np.stack([one.predict(genes) for one in self.devices], axis=1) / self._scale
        return np.maximum(found, _LEAST)


class KnownDevices:
    """Several devices, and what they have in common.

    Args:
        space: the space of the genes.
        devices: at least one.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, space: SearchSpace, devices: Sequence[KnownDevice]) -> None:
        if not devices:
            raise ValueError("no device is known; name one that was measured and fitted")
        self.space = space
        self.devices = tuple(devices)
        self._priors: dict[str, Prior] = {}

    @cached_property
    def columns(self) -> DeviceColumns:
        """Of all of them."""
        return DeviceColumns(self.space, self.devices)

    def prior(self, terms: Features) -> Prior:
        """What to expect of a new device, for `columns` joined with `terms`: how much it goes with the known ones, how
        much costs explain beside them, how noisy it is.

        Empirical Bayes (Morris 1983): every device in turn is taken for new, with those of its own family left out
        where others remain, and the variances are learned that explain it best by the rest. Their mean and spread over
        devices, with what is usual as one device more, are the prior.
        """
        if terms.digest not in self._priors:
            self._priors[terms.digest] = self._learned(terms)
        return self._priors[terms.digest]

    def informative(self, genes: Genes, n: int, terms: Features, seed: int = 0) -> NDArray[np.intp]:
        """Which `n` of genes (n_archs, n_genes) to measure on a new device: row numbers, the most telling first.

        Each is the one after which predictions over the space are surest on average, under the prior and by shares of
        the latency (I-optimal design, one at a time).
        """
        joined, prior = Joined(self.columns, terms), self.prior(terms)
        groups = Groups.of(joined.groups)
        space = _sample(self.space, _SEEN, 1)
        space = space[self._usual(space)]
        usual = self._usual(genes)
        rows = np.random.default_rng(seed).permutation(usual if len(usual) >= n else len(genes))
        aim = joined(space) / self.columns(space)[:, :1]
        sizes = np.maximum(groups.sums((aim**2).mean(axis=0)), 1e-12)
        deviations = np.exp(0.5 * prior.means[:-1])[groups.member] / np.sqrt(sizes[groups.member])

        def standard(of: Genes) -> Columns:
            shape = self.columns(of)[:, :1]
            # The last column is the constant, of which nothing is known: many times as unsure as all else.
            return np.concatenate([joined(of) * deviations, np.full((len(of), 1), 3.0)], axis=1) / shape

        ours, theirs = standard(genes[rows]), standard(space)
        own, across = ours @ ours.T, theirs @ ours.T
        noise = float(np.exp(prior.means[-1]))
        chosen: list[int] = []
        for _ in range(min(n, len(rows))):
            variance = np.diag(own) + noise
            gain = (across**2).sum(axis=0) / variance
            gain[chosen] = -np.inf
            best = int(np.argmax(gain))
            chosen.append(best)
            of_all, of_ours = across[:, best] / variance[best], own[:, best].copy()
            across = across - np.outer(of_all, of_ours)
            own = own - np.outer(of_ours, of_ours) / variance[best]
        return rows[chosen]

    def _usual(self, genes: Genes) -> NDArray[np.intp]:
        """Row numbers of those that are on no device among the fastest."""
        order = self.columns.relative(genes).argsort(axis=0).argsort(axis=0)
        return np.flatnonzero((order >= _FASTEST * len(genes)).all(axis=1))

    def _learned(self, terms: Features) -> Prior:
        groups = Groups.of(Joined(self.columns, terms).groups)
        usual = dict(zip((*groups.names, ""), groups.prior.means.tolist(), strict=True))
        found = [usual]
        for device in self.devices:
            others = [one for one in self.devices if one.family != device.family]
            others = others or [one for one in self.devices if one is not device]
            if others:
                found.append(usual | _variances(device, Joined(DeviceColumns(self.space, others), terms)))
        logs = np.array([[one[name] for name in usual] for one in found])
        return Prior(logs.mean(axis=0), np.maximum(logs.std(axis=0), _SPREAD), _FREEDOM)


def _variances(device: KnownDevice, features: Features) -> dict[str, float]:
    """By group, and by "" for the noise: the logarithms of the variances that explain a device by features."""
    rows = np.linspace(0, len(device.seconds) - 1, min(len(device.seconds), _LEARN_FROM)).astype(int)
    groups = Groups.of(features.groups)
    prior = replace(groups.prior, freedom=_FREEDOM)
    line = Line.fit(features(device.genes[rows]), device.seconds[rows], "relative", groups, prior=prior)
    return dict(zip((*groups.names, ""), line.logs.tolist(), strict=True))


def _sample(space: SearchSpace, n: int, seed: int) -> Genes:
    return space.canonical(space.sample_genes(n, np.random.default_rng(seed)))
