"""The best within limits, with few evaluations: expected improvement times the probability of feasibility."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erfcx, log_ndtr

from search.front import Values
from search.proposing import Model, Proposal, among, one_gene_neighbours
from supernet.space import Genes, SearchSpace

__all__ = ["Bound", "focus", "log_expected_improvement", "surest"]

_BEST, _RANDOM, _CHILDREN, _GENERATIONS = 60, 100, 250, 10
_SWEEPS = 4  # of all one-gene neighbours of the best, until there is nothing better
_CHANGED = 1.5  # genes of a child that are drawn anew, on average
_FAR = -1e3  # standard deviations
_HOPELESS = -1e5  # log of an improvement that cannot be told from none
_BROKEN = -1e6  # log probability of what breaks an exact limit, times by how much: worse than hopeless

Bound = tuple[Model, float]
"""A model, and the largest loss of it that is allowed."""


def focus(space: SearchSpace, good: Model, bounds: Sequence[Bound], known: Genes, n: int, *, seed: int) -> Proposal:
    """Up to `n` new architectures where the best one within limits is most likely to be found.

    Each is the one of the largest ``log EI + log PF``: the expected improvement (Jones et al. 1998, as a logarithm that
    does not vanish, Ament et al. 2023) of the best feasible posterior mean known, and the probability that all limits
    hold (Gardner et al. 2014), found by crossing and changing the best candidates, and then by sweeps over all that
    differ in one gene. Of several at a time each is believed before the next is chosen.

    Args:
        good: what is to be best.
        bounds: what is to be kept.
        known: (n_known, n_genes) what was evaluated or is being evaluated, canonical.

    Returns:
        A proposal whose gains are the expected improvements.
    """
    started = time.process_time()
    rng = np.random.default_rng(seed)
    chosen: list[Genes] = []
    gains: list[float] = []
    n_predicted = 0
    for _ in range(n):
        there = np.concatenate([known, *chosen])
        best = _best_feasible(good, bounds, there)

        def score(genes: Genes, best: float = best) -> Values:
            value = log_feasibility(bounds, genes)
            if np.isfinite(best):
                value += np.maximum(log_expected_improvement(*_belief(good, genes), best), _HOPELESS)
            return value

        found, value, asked = _maximum(space, score, there, rng)
        n_predicted += asked
        if len(found) == 0:
            break  # nothing that is not known
        chosen.append(found)
        gains.append(float(np.exp(value)))
    genes = np.concatenate(chosen) if chosen else known[:0]
    return Proposal(genes, np.array(gains)[:, None], n_predicted, [genes], time.process_time() - started)


def surest(
    space: SearchSpace,
    loss: Callable[[Genes], Values],
    chance: Callable[[Genes], Values],
    known: Genes,
    n: int,
    probability: float,
    *,
    seed: int,
) -> Genes:
    """Up to `n` new architectures (n, n_genes) of the smallest loss among those that keep limits so surely, found as
    `focus` finds its own, the best first.

    Args:
        loss: genes to what is to be small (n_archs,).
        chance: genes to the probability (n_archs,) that they keep the limits.
        known: (n_known, n_genes) what is not to be among them, canonical.
        probability: the least chance.
    """

    def score(genes: Genes) -> Values:
        chances = chance(genes)
        return np.where(chances >= probability, -loss(genes), _BROKEN * (2 - chances))

    rng = np.random.default_rng(seed)
    found = known[:0]
    for _ in range(n):
        best, value, _ = _maximum(space, score, np.concatenate([known, found]), rng)
        if len(best) == 0 or value <= _BROKEN:
            break
        found = np.concatenate([found, best])
    return found[np.argsort(loss(found), kind="stable")] if len(found) else found


def log_expected_improvement(mean: Values, deviation: Values, best: float) -> Values:
    """(n,) log E max(best - y, 0) of losses y ~ Normal(mean, deviation²), both (n,)."""
    deviation = np.maximum(deviation, 1e-12 * max(abs(best), 1e-12))
    z = (best - mean) / deviation
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    low, high = np.minimum(z, 0.0), np.maximum(z, 0.0)
    # h(z) = phi(z) + z Phi(z) = phi(z) (1 + z Phi(z) / phi(z)); far below 0 the bracket, which cancels, is 1 / z².
    bracket = np.where(low < _FAR, 1 / np.maximum(low**2, 1.0), 1 + low * np.sqrt(np.pi / 2) * erfcx(-low / np.sqrt(2)))
    above = np.exp(-0.5 * high**2) / np.sqrt(2 * np.pi) + high * np.exp(log_ndtr(high))
    return np.log(deviation) + np.where(z > 0, np.log(above), log_density + np.log(np.maximum(bracket, 1e-300)))


def log_feasibility(bounds: Sequence[Bound], genes: Genes) -> Values:
    """(n,) log probability that all limits hold; below all others where one that is exact does not."""
    total = np.zeros(len(genes))
    for model, limit in bounds:
        mean, deviation = _belief(model, genes)
        beyond = (mean - limit) / max(abs(limit), 1e-12)
        exact = np.where(beyond > 0, _BROKEN * (1 + beyond), 0.0)
        z = (limit - mean) / np.where(deviation > 0, deviation, 1.0)
        total += np.where(deviation > 0, log_ndtr(z), exact)
    return total


def _belief(model: Model, genes: Genes) -> tuple[Values, Values]:
    """Means of the losses, and standard deviations."""
    return model.loss(model.values(genes)), model.deviations(genes)


def _best_feasible(good: Model, bounds: Sequence[Bound], known: Genes) -> float:
    """The best posterior mean of what is more likely within the limits than not; infinite if nothing is."""
    held = known[log_feasibility(bounds, known) >= np.log(0.5)]
    return float(good.loss(good.values(held)).min()) if len(held) else np.inf


def _maximum(
    space: SearchSpace, score: Callable[[Genes], Values], known: Genes, rng: np.random.Generator
) -> tuple[Genes, float, int]:
    """The row (1, n_genes) of the largest score of those that are not known, none if there is none; its score, and how
    many were looked at."""
    genes = np.unique(np.concatenate([known, space.sample_genes(_RANDOM, rng)]), axis=0)
    values = score(genes)
    asked = len(genes)
    for _ in range(_GENERATIONS):
        kept = np.argsort(-values, kind="stable")[:_BEST]
        children = _children(space, genes[kept], rng)
        children = np.unique(children[~among(children, genes)], axis=0)
        genes, values = np.concatenate([genes, children]), np.concatenate([values, score(children)])
        asked += len(children)
    best, value = known[:0], -np.inf
    for _ in range(_SWEEPS):
        new = ~among(genes, known)
        genes, values = genes[new], values[new]
        if not values.max(initial=-np.inf) > value:
            break
        best, value = genes[[np.argmax(values)]], float(values.max())
        genes = one_gene_neighbours(space, best)
        values = score(genes)
        asked += len(genes)
    return best, value, asked


def _children(space: SearchSpace, parents: Genes, rng: np.random.Generator) -> Genes:
    """(about 250, n_genes) genes of two parents each, some of them drawn anew."""
    pairs = parents[rng.integers(len(parents), size=(2, _CHILDREN))]
    children = np.where(rng.random(pairs[0].shape) < 0.5, pairs[0], pairs[1])
    drawn = rng.integers(0, space.n_choices, size=children.shape)
    children = np.where(rng.random(children.shape) < _CHANGED / children.shape[1], drawn, children)
    children = space.canonical(children)
    return children[space.holds(children)]
