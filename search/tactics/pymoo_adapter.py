"""Any algorithm of pymoo as a tactic: it is told whole generations, and its children become genes."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from importlib import import_module
from math import comb
from typing import Any

import numpy as np
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.algorithms.moo.moead import MOEAD, ParallelMOEAD
from pymoo.config import Config
from pymoo.core.duplicate import NoDuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.util.ref_dirs import get_reference_directions
from scipy.optimize import linear_sum_assignment

from search.front import Values
from search.tactics.array_nsga2 import ETA, MUTATED
from search.tactics.generations import Generational
from supernet.space import Genes, SearchSpace

__all__ = ["PymooTactic", "reference_directions"]

Config.warnings["not_compiled"] = False  # pymoo would print it into whatever the caller prints


class PymooTactic(Generational):
    """A `Tactic` out of an algorithm of ``pymoo.algorithms.moo``, with the operators of `Nsga2`.

    The algorithm works on integers. Its children are rounded and compared with all that there was before, and its
    generator is made anew from the seed and the number of rows told, so that it has no state but its population.

    Values are scaled by their range in the first generation: what works with directions takes objectives as equally
    large, and NSGA-III takes differences below 0.001 for none, which is long for a latency in seconds.

    Args:
        space, n_objectives, seed, population: as for every tactic.
        algorithm: module and class, such as "nsga3.NSGA3".

    Raises:
        ValueError: there is no such algorithm, it needs a package that is missing, or it cannot do that number of
            objectives.
    """

    def __init__(self, space: SearchSpace, n_objectives: int, seed: int, population: int, algorithm: str) -> None:
        kind = _find(algorithm)
        parameters = _parameters(kind)
        given: dict[str, Any] = {}
        if "ref_dirs" in parameters:
            given["ref_dirs"] = reference_directions(n_objectives, population)
        if "pop_size" in parameters:
            given["pop_size"] = population
        elif "ref_dirs" in given:
            population = len(given["ref_dirs"])
        super().__init__(space, n_objectives, seed, population)
        problem = Problem(
            n_var=len(space.genes),
            n_obj=n_objectives,
            n_ieq_constr=0 if issubclass(kind, MOEAD) else 1,  # pymoo's refuses constraints; `_MoeaD` has them
            xl=np.zeros(len(space.genes)),
            xu=space.n_choices - 1,
        )
        try:
            # Its parts may be default arguments, which all algorithms share, and remember earlier searches.
            self._algorithm: Any = copy.deepcopy(kind(**given))
            self._algorithm.termination = NoTermination()
            self._algorithm.setup(problem)
        except Exception as error:  # pymoo raises them of all kinds
            raise ValueError(f"pymoo's {algorithm} is no tactic: {' '.join(str(error).split())}") from error
        mating = self._algorithm.mating
        if type(mating) is not Mating:
            raise ValueError(f"pymoo's {algorithm} is no tactic: it breeds in a way of its own; take another")
        mating.crossover = SBX(prob=1.0, eta=ETA, vtype=float)
        mating.mutation = PM(prob=1.0, prob_var=MUTATED, eta=ETA, vtype=float)
        mating.eliminate_duplicates = NoDuplicateElimination()  # `ask` compares with everything
        if hasattr(mating.selection, "func_comp"):
            mating.selection.func_comp = _seeded(mating.selection.func_comp)
        self._lowest, self._extent = np.zeros(n_objectives), np.ones(n_objectives)
        # AGE-MOEA-II divides by zero where all values of a front are equal.
        self._noise = 1e-9 if kind.__name__ == "AGEMOEA2" else 0.0

    def breed(self, n: int, rng: np.random.Generator) -> Genes:
        """About `n` children of the algorithm's population."""
        self._algorithm.random_state = rng
        self._algorithm.n_offsprings = n
        children = np.rint(np.array(self._algorithm.infill().get("X"), dtype=float))
        return np.clip(children, 0, self.space.n_choices - 1).astype(np.int64)

    def select(self, genes: Genes, values: Values, violations: Values, rng: np.random.Generator) -> None:
        """Advance the algorithm by a generation."""
        if not self._algorithm.is_initialized:
            self._lowest, extent = values.min(axis=0), np.ptp(values, axis=0)
            self._extent = np.where(extent > 0, extent, 1.0)
        scaled = (values - self._lowest) / self._extent + self._noise * rng.random(values.shape)
        told = Population.new(X=genes, F=scaled, G=violations[:, None], H=np.empty((len(genes), 0)))
        told.apply(lambda individual: individual.evaluated.update("FGH"))
        self._algorithm.random_state = rng
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # pymoo does so, for good
            self._algorithm.advance(infills=told)


def reference_directions(n_objectives: int, population: int) -> Values:
    """(n, n_objectives), at most `population` directions, evenly spread.

    A lattice (Das & Dennis 1998) where it has points inside; with few directions for many objectives it lies on the
    edges only, and directions that repel each other take its place (Blank et al. 2021).
    """
    parts = 1
    while n_objectives > 1 and comb(parts + n_objectives, n_objectives - 1) <= population:
        parts += 1
    if parts >= n_objectives:
        return get_reference_directions("das-dennis", n_objectives, n_partitions=parts)
    return get_reference_directions("energy", n_objectives, max(population, n_objectives))


class _MoeaD(ParallelMOEAD):
    """MOEA/D for children that may come from anywhere: each goes to the direction that it serves best.

    (Wang et al. 2016, "Adaptive replacement strategies for MOEA/D".) What violates the constraints less goes first.
    """

    pop: Any  # pymoo declares these as None
    ref_dirs: Any
    neighbors: Any
    decomposition: Any

    def _initialize_advance(self, infills: Any = None, **kwargs: Any) -> None:
        self.ideal = self.pop.get("F").min(axis=0)
        served = np.stack([self._served(individual) for individual in self.pop])
        rows, directions = linear_sum_assignment(served)
        self.pop = self.pop[rows[np.argsort(directions)]]

    def _advance(self, infills: Any = None, **kwargs: Any) -> None:
        self.ideal = np.minimum(self.ideal, infills.get("F").min(axis=0))
        for child in infills:
            near = self.neighbors[np.argmin(self._served(child))]
            before = [self.pop[k] for k in near]
            held = self.decomposition.do(
                np.array([individual.F for individual in before]), weights=self.ref_dirs[near], ideal_point=self.ideal
            )
            violations = np.array([individual.CV[0] for individual in before])
            served = self._served(child)[near]
            better = (child.CV[0] < violations) | ((child.CV[0] == violations) & (served < held))
            self.pop[near[better]] = child

    def _served(self, individual: Any) -> Values:
        """(n_directions,) how well it serves each, smaller is better."""
        return self.decomposition.do(individual.F[None], weights=self.ref_dirs, ideal_point=self.ideal)


def _find(algorithm: str) -> type[GeneticAlgorithm]:
    module, _, name = algorithm.rpartition(".")
    try:
        kind = getattr(import_module(f"pymoo.algorithms.moo.{module}"), name)
    except (ImportError, AttributeError) as error:
        message = f"pymoo.algorithms.moo has no {algorithm!r}; write module.Class, such as 'spea2.SPEA2'"
        raise ValueError(message) from error
    except Exception as error:  # what pymoo raises where numba is missing
        raise ValueError(f"{algorithm} cannot be used: {error}; or pip install 'supernet-nas[numba]'") from error
    if not (isinstance(kind, type) and issubclass(kind, GeneticAlgorithm)):
        raise ValueError(f"pymoo's {algorithm} is not an algorithm with a population; take another")
    return _MoeaD if issubclass(kind, MOEAD) else kind


def _parameters(kind: type[GeneticAlgorithm]) -> set[str]:
    """Of the constructor, and of the one that it passes the rest to."""
    names: set[str] = set()
    for base in kind.__mro__:
        if base is GeneticAlgorithm:
            break
        if "__init__" in vars(base):
            own = inspect.signature(base.__init__).parameters
            names |= own.keys()
    return names


def _seeded(compare: Callable[..., Any]) -> Callable[..., Any]:
    """pymoo decides between equal violations with a generator of no seed; this does it with that of the search."""

    def compared(pop: Population, pairs: Any, random_state: np.random.Generator, **kwargs: Any) -> Any:
        violations = np.array(pop.get("CV"))[:, 0]
        tied = (violations[pairs[:, 0]] == violations[pairs[:, 1]]) & (violations[pairs[:, 0]] > 0)
        chosen = pairs[np.arange(len(pairs)), random_state.integers(2, size=len(pairs))][:, None]
        if not tied.all():
            chosen[~tied] = compare(pop, pairs[~tied], random_state=random_state, **kwargs)
        return chosen

    return compared
