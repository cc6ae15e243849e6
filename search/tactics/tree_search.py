"""Monte Carlo tree search over genes, alone and with a model of what it draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.front import Values
from search.proposing import among
from search.tactics.ranking import best_spread, ranks
from search.tactics.remembering import Remembering
from search.tactics.surrogate import FEWEST_ROWS, Surrogate
from supernet.space import Genes, SearchSpace

__all__ = ["GuidedTreeSearch", "TreeSearch"]

_EXPLORED = 0.1  # weight of the bonus of what was rarely tried; rewards are from 0 to 1
_WARMTH = 0.05  # mean rewards that differ by so much make a choice e times as likely below the tree
_RANDOM = 0.1  # share of architectures that are drawn without the model


class TreeSearch(Remembering):
    """A `Tactic`: Monte Carlo tree search (UCT, Kocsis & Szepesvári 2006), as DeepArchitect walks spaces (Negrinho &
    Gordon 2017).

    Genes are set one by one, those of the network and depths first. On the way down the choice is taken that was never
    tried, else that of the largest mean reward and bonus; from the first that was never tried on, choices are drawn by
    the mean reward of all that have them, wherever in the tree (MAST, Björnsson & Finnsson 2009).
    The tree is nothing but the archive, read from its front: what lies below a node are the architectures told that
    begin like it. The reward of one is how far up it is among all of them.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int) -> None:
        super().__init__(space, n_objectives, seed, population, start=1)
        block = [i for i, gene in enumerate(space.genes) if gene.block is not None]
        self._first = [i for i in range(len(space.genes)) if i not in block]
        self._then = block

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` walks; each knows that those before it are under way."""
        return self.walks(n, rng)

    def walks(self, n: int, rng: np.random.Generator) -> Genes:
        """(n, n_genes), canonical."""
        order = ranks(self.values, self.violations)
        rewards = 1.0 - order / max(order.max(), 1)
        # What is not told yet counts as visited, and as worth what all are on average.
        genes = np.concatenate([self.genes, self.pending, np.empty((n, self.genes.shape[1]), dtype=np.int64)])
        rewards = np.concatenate([rewards, np.full(len(self.pending) + n, rewards.mean())])
        known = len(self.genes) + len(self.pending)
        below = self._drawn_below(n, 1.0 - order / max(order.max(), 1), rng)
        for i in range(known, known + n):
            genes[i] = self._walk(genes[:i], rewards[:i], below[i - known], rng)
        return genes[known:]

    def _walk(self, genes: Genes, rewards: Values, row: Genes, rng: np.random.Generator) -> Genes:
        """(n_genes,): `row` from where the tree ends."""
        left = np.arange(len(genes))
        active = self.space.n_choices > 1
        for part in (self._first, self._then):
            for gene in part:
                if active[gene]:
                    n_choices = int(self.space.n_choices[gene])
                    row[gene] = _best_choice(genes[left, gene], rewards[left], n_choices, rng)
                    left = left[genes[left, gene] == row[gene]]
                    if len(left) == 0:
                        return self.space.canonical(row[None])[0]
            active = active & self.space.active(row[None])[0]
        return self.space.canonical(row[None])[0]

    def _drawn_below(self, n: int, rewards: Values, rng: np.random.Generator) -> Genes:
        """(n, n_genes) choices by the mean reward of the architectures told that have them."""
        active = self.space.active(self.genes)
        drawn = np.empty((n, len(self.space.genes)), dtype=np.int64)
        for gene, n_choices in enumerate(self.space.n_choices.tolist()):
            there = active[:, gene]
            visits = np.bincount(self.genes[there, gene], minlength=n_choices)
            total = np.bincount(self.genes[there, gene], weights=rewards[there], minlength=n_choices)
            mean = (total + rewards.mean()) / (visits + 1)
            likely = np.exp((mean - mean.max()) / _WARMTH)
            drawn[:, gene] = rng.choice(n_choices, size=n, p=likely / likely.sum())
        return drawn


class GuidedTreeSearch(TreeSearch):
    """A `Tactic`: tree search whose walks a model judges before any is evaluated (SMBO with MCTS, Negrinho & Gordon
    2017).

    Of many walks those are asked for that are foretold to be dominated by none, far from each other; one in ten is
    drawn without the model.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        walks: that the model judges for every call.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, walks: int) -> None:
        super().__init__(space, n_objectives, seed, population)
        self.n_walks = walks
        self.start = FEWEST_ROWS

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """The best walks, some at random among them."""
        walks = np.unique(self.walks(self.n_walks, rng), axis=0)
        walks = walks[~among(walks, np.concatenate([self.genes, self.pending]))]
        models = Surrogate(self.space).fit(self.genes, self.values, self.violations)
        held = np.flatnonzero(models.violations(walks) <= 0)
        good = held if len(held) else np.arange(len(walks))
        best = good[best_spread(models.predict(walks[good]), n)]
        drawn = rng.permutation(len(walks))[:n]
        mixed = np.where(rng.random(len(best)) < _RANDOM, drawn[: len(best)], best)
        return walks[np.concatenate([mixed, drawn])]


def _best_choice(tried: Genes, rewards: Values, n_choices: int, rng: np.random.Generator) -> int:
    """That of the largest upper confidence bound; of those never tried, any."""
    visits: NDArray[np.int64] = np.bincount(tried, minlength=n_choices)
    if (visits == 0).any():
        return int(rng.choice(np.flatnonzero(visits == 0)))
    mean = np.bincount(tried, weights=rewards, minlength=n_choices) / visits
    bonus = _EXPLORED * np.sqrt(2 * np.log(visits.sum()) / visits)
    return int(np.argmax(mean + bonus + 1e-9 * rng.random(n_choices)))
