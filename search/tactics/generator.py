"""Networks for a cost, drawn from what good networks of that cost are like."""

from __future__ import annotations

import numpy as np

from search.front import Values
from search.tactics.ranking import leading, ranks
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["Generator"]

_RANDOM = 0.05  # share of children that come from nowhere, lest a choice that was never good is never seen again
_WIDTH = 0.08  # of the neighbourhood of a cost, as a share of the range of costs
_WORSE = 2.0  # fronts further back at which a network counts 1 / e
_SMOOTH = 0.3  # networks of evenly spread choices that are counted as well
_TRIES = 20  # draws for every network, before relations of the space are given up on


class Generator(Remembering):
    """A `Tactic` that asks a conditional generator, distilled from what was told, for networks of costs on the front.

    All objectives but the first are costs. For given ones, every gene has a distribution over its choices: how often
    networks had them, weighted by how near their costs are and how few fronts lie before them. Choices are drawn one by
    one from the networks that agree in the choice before, as far as there are any (a chain, as in MIMIC, De Bonet et
    al. 1996; conditioned on costs as the policies of NN-Factory and ShiftNAS are, without their training). Costs asked
    for lie anywhere between neighbours on the front, each step of it as likely as another.

    Args:
        space, n_objectives, seed, population: as for every tactic.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population, start=population)

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` networks for costs between neighbours on the front, some of them random."""
        costs = self.values[leading(self.values, self.violations), 1:]
        costs = costs[np.lexsort(costs.T)] if costs.shape[1] else costs
        step, part = rng.integers(max(len(costs) - 1, 1), size=n), rng.random((n, 1))
        asked = (1 - part) * costs[step] + part * costs[np.minimum(step + 1, len(costs) - 1)]
        found = self.networks_for(asked, rng)
        return np.where(rng.random((n, 1)) < _RANDOM, self.space.sample_genes(n, rng), found)

    def networks_for(self, costs: Values, rng: np.random.Generator) -> Genes:
        """(n, n_genes), canonical: one network for each row of costs (n, n_objectives - 1), at once.

        What it was told must have a row at least; costs are in the units of `values`.
        """
        weights = self._weights(costs)
        found = self._drawn(weights, rng)
        for _ in range(_TRIES):
            broken = np.flatnonzero(~self.space.holds(found))
            if len(broken) == 0:
                break
            found[broken] = self._drawn(weights[broken], rng)
        broken = ~self.space.holds(found)
        found[broken] = self.space.sample_genes(int(broken.sum()), rng)
        return found

    def _weights(self, costs: Values) -> Values:
        """(n, n_told) how much every network says about good ones of these costs."""
        theirs = self.values[:, 1:]
        width = _WIDTH * np.maximum(np.ptp(theirs, axis=0), 1e-300)
        away = np.square((costs[:, None] - theirs) / width).sum(axis=2)
        logs = -0.5 * away - ranks(self.values, self.violations) / _WORSE
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        return weights / weights.max(axis=1, keepdims=True)

    def _drawn(self, weights: Values, rng: np.random.Generator) -> Genes:
        n = len(weights)
        found = np.zeros((n, len(self.space.n_choices)), dtype=np.int64)
        there = self.space.active(self.genes)
        agree = np.ones_like(weights)
        for i, n_choices in enumerate(self.space.n_choices.tolist()):
            # What a gene would be in a network that does not have it says nothing.
            votes = weights * agree * there[:, i]
            counts = np.stack([votes[:, self.genes[:, i] == k].sum(axis=1) for k in range(n_choices)], axis=1)
            edges = np.cumsum(counts + _SMOOTH / n_choices, axis=1)
            found[:, i] = (rng.random((n, 1)) * edges[:, -1:] >= edges).sum(axis=1).clip(max=n_choices - 1)
            agree = np.where((self.genes[:, i] == found[:, [i]]) & there[:, i], 1.0, 0.25)
        return self.space.canonical(found)
