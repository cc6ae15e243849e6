"""Search over genes: objectives in, a Pareto front of architectures out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.archive import Archive
    from search.front import Axis, Candidate, ParetoFront, non_dominated
    from search.generations import Generational
    from search.objectives import Constraint, Objective
    from search.result import SearchResult
    from search.running import run_search
    from search.spread import select_spread
    from search.tactic import Tactic, check_tactic, create_tactic, register_tactic, tactic_names
    from search.unseen import Unseen

__all__ = [
    "Archive",
    "Axis",
    "Candidate",
    "Constraint",
    "Generational",
    "Objective",
    "ParetoFront",
    "SearchResult",
    "Tactic",
    "Unseen",
    "check_tactic",
    "create_tactic",
    "non_dominated",
    "register_tactic",
    "run_search",
    "select_spread",
    "tactic_names",
]

_HOME = {
    "Archive": "archive",
    "Axis": "front",
    "Candidate": "front",
    "Constraint": "objectives",
    "Generational": "generations",
    "Objective": "objectives",
    "ParetoFront": "front",
    "SearchResult": "result",
    "Tactic": "tactic",
    "Unseen": "unseen",
    "check_tactic": "tactic",
    "create_tactic": "tactic",
    "non_dominated": "front",
    "register_tactic": "tactic",
    "run_search": "running",
    "select_spread": "spread",
    "tactic_names": "tactic",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that reading a stored front needs no pymoo (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
