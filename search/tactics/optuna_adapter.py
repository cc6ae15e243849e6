"""Optuna's samplers as tactics, and an archive as an Optuna study; needs the extra ``optuna``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from search.front import Values
from search.tactics.remembering import Remembering
from supernet.space import Genes, SearchSpace

__all__ = ["SAMPLERS", "OptunaTactic", "trials"]

_CONSTRAINTS = "constraints"  # where Optuna's samplers look for violations: `optuna.study._constrained_optimization`


class OptunaTactic(Remembering):
    """A `Tactic` out of one of Optuna's samplers (Akiba et al. 2019).

    The study is made anew whenever it is asked, of all that was told, and the sampler with a seed that follows from how
    much that is: so it has no state of its own. Every gene is a categorical parameter, absent ones left out.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        sampler: a key of `SAMPLERS`.

    Raises:
        ValueError: there is no such sampler, or Optuna is not installed.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, sampler: str) -> None:
        optuna = _optuna()
        if sampler not in SAMPLERS:
            raise ValueError(f"optuna has no sampler {sampler!r} here; there are {', '.join(SAMPLERS)}")
        if sampler == "gp" and n_objectives > 4:
            raise ValueError(f"optuna's 'gp' is for up to four objectives, not {n_objectives}; take 'tpe'")
        super().__init__(space, n_objectives, seed, population, start=1)
        self._optuna, self._sampler = optuna, SAMPLERS[sampler]
        self._first, self._then = _in_order(space)

    def suggest(self, n: int, rng: np.random.Generator) -> Genes:
        """`n` trials of the study; each knows that those before it are under way."""
        optuna = self._optuna
        before = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                warnings.simplefilter("ignore", FutureWarning)  # of `constraints_func`, which older ones need
                sampler = self._sampler(optuna.samplers, int(rng.integers(2**31)), self.population)
                study = optuna.create_study(directions=["minimize"] * self.n_objectives, sampler=sampler)
                study.add_trials(trials(self.space, self.genes, self.values, self.violations))
                return np.array([self._asked(study.ask()) for _ in range(n)], dtype=np.int64)
        finally:
            optuna.logging.set_verbosity(before)

    def _asked(self, trial: Any) -> Genes:
        row = np.zeros((1, len(self.space.genes)), dtype=np.int64)
        for part in (self._first, self._then):
            active = self.space.active(row)[0]
            for i in part:
                if active[i] and self.space.n_choices[i] > 1:
                    gene = self.space.genes[i]
                    choices = list(gene.choices)
                    row[0, i] = choices.index(trial.suggest_categorical(gene.label, choices))
        return self.space.canonical(row)[0]


def trials(space: SearchSpace, genes: Genes, values: Values, violations: Values) -> Sequence[Any]:
    """Complete trials of an Optuna study: parameters are the choices of the genes that an architecture has.

    Args:
        genes, values, violations: (n, n_genes), (n, n_objectives) and (n,).
    """
    optuna = _optuna()
    found = []
    kinds = [optuna.distributions.CategoricalDistribution(list(gene.choices)) for gene in space.genes]
    for row, active, value, violation in zip(genes, space.active(genes), values, violations, strict=True):
        there = [i for i in np.flatnonzero(active) if space.n_choices[i] > 1]
        found.append(
            optuna.trial.create_trial(
                params={space.genes[i].label: space.genes[i].choices[row[i]] for i in there},
                distributions={space.genes[i].label: kinds[i] for i in there},
                values=[float(one) for one in value],
                system_attrs={_CONSTRAINTS: [float(violation)]},
            )
        )
    return found


def _in_order(space: SearchSpace) -> tuple[list[int], list[int]]:
    """Genes that others depend on, and all others."""
    first = [i for i, gene in enumerate(space.genes) if gene.block is None]
    return first, [i for i in range(len(space.genes)) if i not in first]


def _optuna() -> Any:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise ValueError(f"optuna cannot be used: {error}; pip install 'supernet-nas[optuna]'") from error


def _violations(trial: Any) -> Sequence[float]:
    return trial.system_attrs.get(_CONSTRAINTS, [0.0])


def _tpe(samplers: Any, seed: int, population: int) -> Any:
    return samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=10, constraints_func=_violations
    )


def _gp(samplers: Any, seed: int, population: int) -> Any:
    return samplers.GPSampler(seed=seed, n_startup_trials=10, constraints_func=_violations)


def _nsga2(samplers: Any, seed: int, population: int) -> Any:
    return samplers.NSGAIISampler(seed=seed, population_size=population, constraints_func=_violations)


SAMPLERS: dict[str, Callable[[Any, int, int], Any]] = {"tpe": _tpe, "gp": _gp, "nsga2": _nsga2}
"""From Optuna's module of samplers, a seed and a population, those that can be told what was evaluated elsewhere."""
