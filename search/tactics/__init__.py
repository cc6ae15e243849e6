"""The tactics of this project, one function each; `pyproject.toml` registers them as any package would its own.

Every one takes `population`, the architectures of a generation. What is heavy comes in when a tactic is made.
"""

from __future__ import annotations

from search.tactic import POPULATION, Tactic
from supernet.space import SearchSpace

__all__ = ["age_moea", "age_moea2", "c_taea", "moead", "nsga2", "nsga3", "pymoo", "random", "sms_emoa", "u_nsga3"]


def nsga2(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """NSGA-II (Deb et al. 2002), our own on arrays: the fastest, and good for two objectives."""
    from search.tactics.array_nsga2 import Nsga2

    return Nsga2(space, n_objectives, seed, population)


def random(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """Random architectures: the control."""
    from search.tactics.random_search import RandomTactic

    return RandomTactic(space, seed, population)


def nsga3(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """NSGA-III (Deb & Jain 2014): reference directions, for three objectives and more."""
    return pymoo(space, n_objectives, seed, population, "nsga3.NSGA3")


def u_nsga3(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """U-NSGA-III (Seada & Deb 2016): NSGA-III that selects parents, for any number of objectives."""
    return pymoo(space, n_objectives, seed, population, "unsga3.UNSGA3")


def age_moea(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """AGE-MOEA (Panichella 2019): estimates the shape of the front. Needs numba."""
    return pymoo(space, n_objectives, seed, population, "age.AGEMOEA")


def age_moea2(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """AGE-MOEA-II (Panichella 2022): measures distances along the front. From two objectives on. Needs numba."""
    _check_traded("age_moea2", n_objectives)
    return pymoo(space, n_objectives, seed, population, "age2.AGEMOEA2")


def c_taea(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """C-TAEA (Li et al. 2019): a second population that ignores the constraints. From two objectives on."""
    _check_traded("c_taea", n_objectives)
    return pymoo(space, n_objectives, seed, population, "ctaea.CTAEA")


def moead(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """MOEA/D (Zhang & Li 2007): one weighted problem per direction. From two objectives on."""
    _check_traded("moead", n_objectives)
    return pymoo(space, n_objectives, seed, population, "moead.ParallelMOEAD")


def sms_emoa(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """SMS-EMOA (Beume et al. 2007): what adds most to the hypervolume survives; slow from four objectives on."""
    return pymoo(space, n_objectives, seed, population, "sms.SMSEMOA")


def pymoo(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, algorithm: str = "nsga2.NSGA2"
) -> Tactic:
    """Any other algorithm of ``pymoo.algorithms.moo``, by module and class."""
    from search.tactics.pymoo_adapter import PymooTactic

    return PymooTactic(space, n_objectives, seed, population, algorithm)


def _check_traded(name: str, n_objectives: int) -> None:
    if n_objectives < 2:
        raise ValueError(f"tactic {name!r} trades objectives against each other; take 'nsga2' for a single one")
