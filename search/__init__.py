"""Search over genes: objectives in, a Pareto front of architectures out."""

from typing import TYPE_CHECKING

from supernet.lazy import lazy

if TYPE_CHECKING:
    from search.archive import Archive
    from search.attainment import attained
    from search.exact import Points, StageSums
    from search.focusing import focus
    from search.front import Axis, Candidate, ParetoFront, non_dominated
    from search.gains import Standing, choose
    from search.objectives import Constraint, Objective
    from search.proposing import Aim, Model, Proposal, propose
    from search.result import SearchResult
    from search.running import run_search
    from search.tactic import Tactic, check_tactic, create_tactic, register_tactic, tactic_names
    from search.tactics.generations import Generational
    from search.tactics.model_based import ModelBased
    from search.tactics.remembering import Remembering
    from search.tactics.unseen import Unseen

__getattr__, __dir__ = lazy(__name__, __file__)
