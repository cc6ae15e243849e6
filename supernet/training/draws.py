"""Draws: how the random architectures of a step come about, for any sampler that has random ones."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.space import Genes, SearchSpace
from supernet.space.nested import NestedFamily
from supernet.space.sampling import CostBins, bins_of

__all__ = ["CountsMacs", "Cycles", "Draw", "Evenly", "MacBins", "Nested", "check_level_weights"]

_PER_BIN = 512
_STEPS_PER_POOL = 4096


class Draw(Protocol):
    """Draws architectures at random; it has no state."""

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        """`n` architectures of `space` for step `step` of the run, the same in every process."""
        ...


class CountsMacs(Protocol):
    """A supernet that counts multiply-accumulates, as `create_supernet` and `elastic` make them."""

    @property
    def space(self) -> SearchSpace:
        """The space whose genes are counted."""
        ...

    def macs(self, genes: Genes, /) -> NDArray[np.float64] | Genes:
        """Multiply-accumulates (n_archs,) of canonical genes (n_archs, n_genes)."""
        ...


@dataclass(frozen=True)
class Evenly:
    """Every choice of every gene alike, or every architecture alike; see `SearchSpace.sample_genes`.

    With `one_resolution` all architectures of a step have the resolution that was drawn for the first, as once-for-all
    networks were trained (Cai et al. 2020).
    """

    over: Literal["genes", "architectures"] = "genes"
    one_resolution: bool = False

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        archs = space.sample(n, np.random.default_rng((seed, step)), self.over)
        return [replace(arch, resolution=archs[0].resolution) for arch in archs] if self.one_resolution else archs


@dataclass(frozen=True)
class Cycles:
    """Every choice of a gene as often as the others among the architectures of a step, as nearly as their number allows
    (ViT-ResNAS, Liao et al. 2021).

    Every gene has an order of its own: its choices in a cycle, as often as needed, put in random order. All
    architectures of a step have one resolution.
    """

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        if space.relations:
            raise ValueError("cycles draw every gene alone, which relations do not allow; draw genes evenly")
        rng = np.random.default_rng((seed, step))
        genes = np.empty((n, len(space.genes)), dtype=np.int64)
        for i, n_choices in enumerate(space.n_choices):
            genes[:, i] = rng.permutation(np.tile(np.arange(n_choices), -(-n // int(n_choices))))[:n]
        genes[:, 0] = genes[0, 0]
        return space.decode(genes)


@dataclass(frozen=True)
class MacBins:
    """First a bin of the MAC range, then an architecture in it.

    Uniform genes starve the ends of the range; "even" bins train all of it alike (the premise of ShiftNAS, Zhang et al.
    2023). "natural" gives each bin the share that it has among uniform genes, from which attentive sampling starts
    (AttentiveNAS, Wang et al. 2021). Bins in which the space has nothing are warned of; the others share their part.

    Attributes:
        supernet: counts the MACs. It is no setting: two of these are equal if their bins and prior are.
        n_bins: bins of equal width between the smallest and the largest architecture of the space that is trained.
        prior: probability of the bins.
    """

    supernet: CountsMacs = field(compare=False, repr=False)
    n_bins: int = 10
    prior: Literal["even", "natural"] = "even"
    # The pool of the last call, which is drawn again every few thousand steps: nobody can tell it from a new one.
    _pool: dict[tuple[int, int], tuple[SearchSpace, CostBins]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.n_bins < 2:
            raise ValueError(f"{self.n_bins} MAC bins tell nothing apart; the least is 2")

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        return self.alike(space, n, 1, seed, step)[0]

    def alike(
        self,
        space: SearchSpace,
        n: int,
        n_each: int,
        seed: int,
        step: int,
        probabilities: NDArray[np.float64] | None = None,
    ) -> list[list[Architecture]]:
        """`n_each` lists of `n` architectures: those at the same place in every list come from the same bin.

        Args:
            probabilities: (n_bins,) of the bins instead of the prior's; 0 for empty bins.
        """
        bins = self.bins(space, seed, step)
        rng = np.random.default_rng((seed, step))
        if probabilities is None:
            probabilities = self.probabilities(bins)
        places = rng.choice(self.n_bins, size=n, p=probabilities)
        archs = space.decode(bins.draw(np.tile(places, n_each), rng))
        return [archs[i * n : (i + 1) * n] for i in range(n_each)]

    def probabilities(self, bins: CostBins) -> NDArray[np.float64]:
        """(n_bins,) by the prior."""
        return bins.natural if self.prior == "natural" else bins.filled / bins.filled.sum()

    def bins(self, space: SearchSpace, seed: int, step: int) -> CostBins:
        """The bins of `space`, with the architectures from which step `step` draws."""
        key = (seed, step // _STEPS_PER_POOL)
        if key not in self._pool or self._pool[key][0] != space:
            rng = np.random.default_rng((seed, key[1], 1))  # 1: not the random numbers of a step
            bins = CostBins.drawn(space, rng, lambda genes: self._macs(space, genes), self.n_bins, _PER_BIN)
            _warn_of_empty(bins)
            self._pool.clear()
            self._pool[key] = (space, bins)
        return self._pool[key][1]

    def bins_of(self, space: SearchSpace, archs: Sequence[Architecture]) -> NDArray[np.int64]:
        """The bin (n_archs,) of every architecture of `space`."""
        macs = self.supernet.macs(self.supernet.space.encode([space.smallest, space.largest, *archs]))
        return bins_of(macs[2:], np.linspace(macs[0], macs[1], self.n_bins + 1))

    def _macs(self, space: SearchSpace, genes: Genes) -> NDArray[np.float64] | Genes:
        if space != self.supernet.space:  # a phase may train a part of the space, whose genes are other indices
            genes = self.supernet.space.encode(space.decode(genes))
        return self.supernet.macs(genes)


@dataclass(frozen=True)
class Nested:
    """Members of a nested family (SortedNet, Valipour et al. 2023).

    Attributes:
        family: the members; all must be in the space that is trained.
        weights: probability of each level, up to a factor; () is all alike, which hardly trains the largest.
    """

    family: NestedFamily
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_level_weights(self.weights, len(self.family.levels))

    def __call__(self, space: SearchSpace, n: int, seed: int, step: int) -> list[Architecture]:
        weights = np.asarray(self.weights or (1,) * len(self.family.levels), dtype=float)
        chosen = np.random.default_rng((seed, step)).choice(len(weights), size=n, p=weights / weights.sum())
        return [self.family.levels[i] for i in chosen]


def check_level_weights(weights: Sequence[float], n_levels: int) -> None:
    """Raises ValueError where these are no weights of the levels of a nested family; () is all alike."""
    if weights and len(weights) != n_levels:
        raise ValueError(f"{len(weights)} weights of levels for a family of {n_levels}; give one for each")
    if weights and (min(weights) < 0 or sum(weights) <= 0):
        raise ValueError(f"weights {list(weights)} of levels must not be negative, nor all 0")


def _warn_of_empty(bins: CostBins) -> None:
    empty = np.flatnonzero(~bins.filled)
    if len(empty):
        ranges = ", ".join(f"{bins.edges[i]:.3g} to {bins.edges[i + 1]:.3g}" for i in empty)
        warnings.warn(
            f"{len(empty)} of {len(bins.pools)} MAC bins hold no architecture that was found ({ranges}); the others "
            "share their part",
            RuntimeWarning,
            stacklevel=2,
        )
