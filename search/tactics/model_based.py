"""Search with few evaluations: models of what was evaluated say what to evaluate next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from search.focusing import Bound, focus
from search.front import Values
from search.proposing import Aim, Model, among, propose
from search.tactics.unseen import Unseen
from supernet.space import Genes, SearchSpace

__all__ = ["LENT", "Learn", "ModelBased", "lent_members", "spread_start"]

Learn = Callable[[Genes, Values], Sequence[Model]]
"""From what was told, genes and losses in their order, a model of every objective. It is a function: what it says
follows from what it is given alone."""

START = 10  # architectures before there is a model
LENT = 6  # of an earlier front, that are evaluated at once
_POPULATION = 200  # of the search on the models: large generations cost less per call


class ModelBased:
    """A `Tactic` that begins with a few spread architectures, then asks for what its models say adds most.

    It is for objectives that cost minutes each: ask it for one to four at a time (16 cost one to two points of
    hypervolume at 50 evaluations). In the way of sequential model-based optimisation (ParEGO, Knowles 2006; LINAS,
    Cummings et al. 2022), with `search.propose` for what comes next. It does not learn constraints: its limits are of
    objectives.

    Args:
        space, n_objectives, seed: as for every tactic.
        learn: makes the models.
        start: how many architectures come before there is a model.
        calls: of the models for every call of `ask`.
        limits: the largest loss of an objective, by its place, that a network to be used may have; the first objective
            is what is to be best within them.
        fronts: of which objectives, by their places, there are to be fronts; default: one of all. What is evaluated
            serves all of them, such as the accuracy of a network and its latency on several devices.
        focus_from: with limits, how many architectures are told before the rest is chosen for what can be best within
            them (`search.focus`) and not for the front.
        earlier: (n, n_genes), canonical, the front of an earlier search of the same space, ordered along one objective:
            a few members that lie evenly on it come after the start. They are evaluated like all others, so that what
            misleads costs no more than these.
    """

    def __init__(
        self,
        space: SearchSpace,
        n_objectives: int,
        seed: int,
        learn: Learn,
        start: int = START,
        calls: int = 3_000,
        limits: Mapping[int, float] | None = None,
        focus_from: int | None = None,
        fronts: Sequence[Sequence[int]] | None = None,
        earlier: Genes | None = None,
    ) -> None:
        if (limits is None) != (focus_from is None):
            raise ValueError("limits and focus_from go together: what to keep, and from when on it is what counts")
        self.space = space
        self.n_objectives = n_objectives
        self.seed = seed
        self.learn = learn
        self.calls = calls
        self.limits = dict(limits or {})
        self.focus_from = focus_from
        self.fronts = [range(n_objectives)] if fronts is None else fronts
        self._start = spread_start(space, start, seed)
        if earlier is not None:
            lent = lent_members(earlier, self._start)
            self._start = np.concatenate([self._start, lent])
        self._unseen = Unseen(space)
        self._pending = np.empty((0, len(space.genes)), dtype=np.int64)
        self._genes = self._pending
        self._values = np.empty((0, n_objectives))

    def ask(self, n: int) -> Genes:
        """Up to `n` rows: of the start as long as there are any, then of a proposal."""
        rng = np.random.default_rng([self.seed, len(self._genes), self._unseen.n_taken])
        asked = self._unseen.take(self._left_of_start()[:n])
        if len(asked) == 0 and len(self._genes) > 0:
            asked = self._unseen.take(self._proposed(n, int(rng.integers(2**31))))
        if len(asked) == 0:  # the models know of nothing better
            asked = self._unseen.take_random(n, rng)
        self._pending = np.concatenate([self._pending, asked])
        return asked

    def tell(self, genes: Genes, values: Values, violations: Values) -> None:
        """See `Tactic`; violations are not learned from."""
        self._unseen.take(genes)
        self._pending = self._pending[~among(self._pending, genes)]
        self._genes = np.concatenate([self._genes, genes])
        self._values = np.concatenate([self._values, values])

    def aims(self, models: Sequence[Model]) -> list[Aim]:
        """What is searched for, of models of all objectives."""
        return [Aim([models[i] for i in front]) for front in self.fronts]

    def _proposed(self, n: int, seed: int) -> Genes:
        models = self.learn(self._genes, self._values)
        known = np.concatenate([self._genes, self._pending])
        if self.focus_from is not None and len(self._genes) >= self.focus_from:
            bounds: list[Bound] = [(models[i], limit) for i, limit in self.limits.items()]
            return focus(self.space, models[0], bounds, known, n, seed=seed).genes
        options = {"population": _POPULATION}
        return propose(self.space, self.aims(models), known, n, calls=self.calls, seed=seed, options=options).genes

    def _left_of_start(self) -> Genes:
        return self._start[~among(self._start, np.concatenate([self._genes, self._pending]))]


def lent_members(earlier: Genes, known: Genes) -> Genes:
    """Up to 6 of the rows (n, n_genes) of an earlier front, evenly spread over their order, that are not known."""
    new = earlier[~among(earlier, known)]
    return new[np.unique(np.linspace(0, len(new) - 1, LENT).astype(int))] if len(new) else new


def spread_start(space: SearchSpace, n: int, seed: int) -> Genes:
    """Canonical genes (n, n_genes), fewer where the space has no more: the smallest, the largest, and levels between.

    Every architecture has a level of its own, spread evenly from low to high, and each of its genes is as many choices
    up as there are successes of that probability. Architectures of uniformly drawn genes are all of middle size, and
    what is learned from them says little about the ends of a front.
    """
    rng = np.random.default_rng([seed, 0])
    highest = space.n_choices - 1
    unseen = Unseen(space)
    rows = [unseen.take(np.stack([np.zeros_like(highest), highest]))]
    levels = (np.arange(n - 2) + 0.5) / max(n - 2, 1)
    for level in levels:
        for _ in range(100):  # of a small space most are seen, and relations may not hold
            if len(found := unseen.take(rng.binomial(highest, level)[None])):
                rows.append(found)
                break
    return np.concatenate(rows)[:n]
