"""Adaptive samplers: what goes into the random places of a step is chosen by the losses of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from supernet.architecture import Architecture
from supernet.space import SearchSpace
from supernet.space.sampling import CostBins
from supernet.training.draws import MacBins, Nested
from supernet.training.samplers import Probe, Sandwich, State, Uniform

__all__ = ["Attentive", "Shift"]


@dataclass(frozen=True)
class Attentive:
    """Of several candidates of one MAC bin the best or the worst is trained (AttentiveNAS, Wang et al. 2021).

    For every random place a bin is drawn by the prior of the MAC bins (published: "natural") and `candidates`
    architectures from it; the one with the lowest training loss on the images of the step is trained ("best up"), or
    the one with the highest. Each candidate costs one forward pass.
    """

    places: Uniform | Sandwich
    candidates: int = 3
    train: Literal["best", "worst"] = "best"

    def __post_init__(self) -> None:
        _bins_of(self.places, "attentive sampling")
        if self.candidates < 2:
            raise ValueError(f"attentive sampling cannot choose among {self.candidates} candidates; the least is 2")

    @property
    def largest_first(self) -> bool:
        return self.places.largest_first

    def start(self, space: SearchSpace) -> State:
        return {}

    def choose(self, space: SearchSpace, seed: int, step: int, state: State, probe: Probe) -> list[Architecture]:
        n = self.places.n_random
        if n == 0:
            return self.places.around(space, [])
        lists = _bins_of(self.places, "attentive sampling").alike(space, n, self.candidates, seed, step)
        losses = probe([arch for archs in lists for arch in archs]).reshape(self.candidates, n)
        chosen = losses.argmin(axis=0) if self.train == "best" else losses.argmax(axis=0)
        return self.places.around(space, [lists[c][place] for place, c in enumerate(chosen)])

    def learn(
        self, space: SearchSpace, state: State, archs: Sequence[Architecture], losses: NDArray[np.float64]
    ) -> State:
        return state


@dataclass(frozen=True)
class Shift:
    """MAC bins that are behind are trained more often (ShiftNAS, Zhang et al. 2023; without its generator).

    A bin is as far behind as the losses of its architectures lie above those of the largest network of the same step
    (without a largest in every step: above the mean of the last steps), as a running mean. Every `every` steps the
    probabilities of the bins become (1 − `even_share`) · softmax(gap / `temperature`), and `even_share` goes to all
    alike, so no bin ever gets less than `even_share` / n_bins.

    Attributes:
        places: which places a step has; its draw must be `MacBins`, whose prior only serves until the first update.
        temperature: of the softmax, in units of the loss.
        even_share: share of the steps that is spread evenly.
        every: steps between two updates.
        momentum: of the running means, per architecture seen.
        wait: steps before the first update; the published schedule trains 50 epochs before shifting.
    """

    places: Uniform | Sandwich
    temperature: float = 0.25
    even_share: float = 0.2
    every: int = 100
    momentum: float = 0.9
    wait: int = 0

    def __post_init__(self) -> None:
        _bins_of(self.places, "complexity-shifted sampling")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature} of the bins is not above 0")
        if not 0 < self.even_share <= 1:
            raise ValueError(f"even_share {self.even_share} is not in (0, 1]; without it a bin could starve")
        if self.every < 1 or self.wait < 0:
            raise ValueError(f"every {self.every} must be at least 1 step, and wait {self.wait} at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum {self.momentum} of the running means is not in [0, 1)")

    @property
    def largest_first(self) -> bool:
        return self.places.largest_first

    def start(self, space: SearchSpace) -> State:
        n_bins = _bins_of(self.places, "").n_bins
        return {"steps": 0, "mean": None, "gaps": [None] * n_bins, "used_gaps": None}

    def choose(self, space: SearchSpace, seed: int, step: int, state: State, probe: Probe) -> list[Architecture]:
        draw = _bins_of(self.places, "")
        probabilities = self.probabilities(draw.bins(space, seed, step), state)
        drawn = draw.alike(space, self.places.n_random, 1, seed, step, probabilities)[0]
        return self.places.around(space, drawn)

    def learn(
        self, space: SearchSpace, state: State, archs: Sequence[Architecture], losses: NDArray[np.float64]
    ) -> State:
        draw = _bins_of(self.places, "")
        first = 1 if self.largest_first else 0
        mean = self._towards(state["mean"], float(losses.mean()))
        baseline = float(losses[0]) if self.largest_first else mean
        gaps = list(state["gaps"])
        for place, loss in zip(draw.bins_of(space, archs[first:]), losses[first:], strict=True):
            gaps[place] = self._towards(gaps[place], float(loss) - baseline)
        steps = state["steps"] + 1
        update = steps >= max(self.wait, 1) and steps % self.every == 0
        return {"steps": steps, "mean": mean, "gaps": gaps, "used_gaps": gaps if update else state["used_gaps"]}

    def probabilities(self, bins: CostBins, state: State) -> NDArray[np.float64]:
        """(n_bins,) of the bins as they are now; 0 for empty ones."""
        used = state["used_gaps"]
        if used is None or all(gap is None for gap in used):
            return _bins_of(self.places, "").probabilities(bins)
        known = np.array([np.nan if gap is None else gap for gap in used])
        gaps = np.where(np.isnan(known), np.nanmean(known), known)  # a bin that was never seen is taken for average
        weights = np.where(bins.filled, np.exp((gaps - gaps.max()) / self.temperature), 0)
        return (1 - self.even_share) * weights / weights.sum() + self.even_share * bins.filled / bins.filled.sum()

    def _towards(self, mean: float | None, value: float) -> float:
        return value if mean is None else self.momentum * mean + (1 - self.momentum) * value


def _bins_of(places: Uniform | Sandwich, what: str) -> MacBins:
    if isinstance(places.draw, Nested):
        raise ValueError(f"{what} and a nested family both decide what is trained how often; take one of them")
    if not isinstance(places.draw, MacBins):
        raise ValueError(f"{what} compares MAC bins; draw by these: `MacBins`, or draw = 'mac_bins' in a recipe")
    return cast(MacBins, places.draw)
