"""The tactics of this project, one function each; `pyproject.toml` registers them as any package would its own.

Every one takes `population`, the architectures of a generation. What is heavy comes in when a tactic is made.
"""

from __future__ import annotations

from search.tactic import POPULATION, Tactic
from supernet.space import SearchSpace

__all__ = [
    "age_moea", "age_moea2", "aging", "bandit", "c_taea", "generator", "guided_mcts", "linas", "local", "mcts",
    "moead", "nsga2", "nsga3", "ofa_evolution", "optuna", "pymoo", "qnehvi", "random", "sms_emoa", "stagewise",
    "u_nsga3",
]  # fmt: skip


def nsga2(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """NSGA-II (Deb et al. 2002), our own on arrays: the fastest, and good for two objectives."""
    from search.tactics.array_nsga2 import Nsga2

    return Nsga2(space, n_objectives, seed, population)


def random(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """Random architectures: the control."""
    from search.tactics.random_search import RandomTactic

    return RandomTactic(space, seed, population)


def linas(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, model_calls: int = 5_000
) -> Tactic:
    """LINAS (Cummings et al. 2022): between two populations, a search on models of what was told."""
    from search.tactics.linas import Linas

    return Linas(space, n_objectives, seed, population, model_calls)


def aging(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """Regularised evolution (Real et al. 2019): the oldest die, however good."""
    from search.tactics.evolution import Aging

    return Aging(space, n_objectives, seed, population)


def ofa_evolution(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """The evolution within a limit of once-for-all networks (Cai et al. 2020): the best quarter are parents."""
    from search.tactics.evolution import OnceForAll

    return OnceForAll(space, n_objectives, seed, population)


def local(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """Pareto local search (Paquete et al. 2004; White et al. 2021): what differs from the front in one gene.

    For up to three objectives.
    """
    _check_small_steps("local", n_objectives)
    from search.tactics.local_search import LocalSearch

    return LocalSearch(space, n_objectives, seed, population)


def mcts(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """Monte Carlo tree search (Kocsis & Szepesvári 2006) over genes, as in DeepArchitect."""
    from search.tactics.tree_search import TreeSearch

    return TreeSearch(space, n_objectives, seed, population)


def guided_mcts(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, walks: int = 300
) -> Tactic:
    """Tree search whose walks a model judges (SMBO with MCTS, Negrinho & Gordon 2017)."""
    from search.tactics.tree_search import GuidedTreeSearch

    return GuidedTreeSearch(space, n_objectives, seed, population, walks)


def stagewise(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, then: str = "nsga2"
) -> Tactic:
    """Divide and conquer (EMO-PMS): stages alone, then together; a start for the tactic `then`."""
    from search.tactics.stagewise import Stagewise

    return Stagewise(space, n_objectives, seed, population, then)


def bandit(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, learned: bool = True
) -> Tactic:
    """Small steps from the front, of the kind of gene that paid before (after AGNN, Zhou et al. 2022).

    For up to three objectives.
    """
    _check_small_steps("bandit", n_objectives)
    from search.tactics.bandit import BanditMutation

    return BanditMutation(space, n_objectives, seed, population, learned)


def generator(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION) -> Tactic:
    """A conditional generator distilled from the archive: networks for a cost at once (after NN-Factory, ShiftNAS)."""
    from search.tactics.generator import Generator

    return Generator(space, n_objectives, seed, population)


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


def optuna(
    space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, sampler: str = "tpe"
) -> Tactic:
    """Optuna's samplers (Akiba et al. 2019): "tpe" (Watanabe 2023), "gp" or "nsga2". Needs the extra ``optuna``."""
    from search.tactics.optuna_adapter import OptunaTactic

    return OptunaTactic(space, n_objectives, seed, population, sampler)


def qnehvi(space: SearchSpace, n_objectives: int, seed: int, population: int = POPULATION, pool: int = 500) -> Tactic:
    """BoTorch's noisy expected hypervolume improvement (Daulton et al. 2021). Needs the extra ``botorch``."""
    from search.tactics.botorch_adapter import Qnehvi

    return Qnehvi(space, n_objectives, seed, population, pool)


def _check_small_steps(name: str, n_objectives: int) -> None:
    if n_objectives > 3:
        raise ValueError(
            f"tactic {name!r} is for up to three objectives, not {n_objectives}: of so many nearly everything is on "
            "the front, and small steps from there lose to chance; take 'nsga3'"
        )


def _check_traded(name: str, n_objectives: int) -> None:
    if n_objectives < 2:
        raise ValueError(f"tactic {name!r} trades objectives against each other; take 'nsga2' for a single one")
