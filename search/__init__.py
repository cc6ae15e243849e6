"""Search over genes: objectives in, a Pareto front of architectures out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.front import Axis, Candidate, ParetoFront, non_dominated
    from search.nsga2 import run_nsga2
    from search.objectives import Constraint, Objective
    from search.random_search import run_random
    from search.result import SearchResult
    from search.spread import select_spread

__all__ = [
    "Axis",
    "Candidate",
    "Constraint",
    "Objective",
    "ParetoFront",
    "SearchResult",
    "non_dominated",
    "run_nsga2",
    "run_random",
    "select_spread",
]

_HOME = {
    "Axis": "front",
    "Candidate": "front",
    "Constraint": "objectives",
    "Objective": "objectives",
    "ParetoFront": "front",
    "SearchResult": "result",
    "non_dominated": "front",
    "run_nsga2": "nsga2",
    "run_random": "random_search",
    "select_spread": "spread",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that reading a stored front needs no pymoo (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
