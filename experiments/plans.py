"""Which architectures are to be measured and scored: the first ones, the rounds of search, and campaigns."""

from __future__ import annotations

from experiments.run_folder import Plan, RunFolder
from supernet.architecture import Architecture
from supernet.space.design import covering_design

__all__ = [
    "N_ANCHORS",
    "anchors",
    "baseline_plans",
    "campaign_plan",
    "device_plans",
    "initial_plan",
    "refuse_pruning",
    "search_plans",
]

N_ANCHORS = 8
"""Sub-networks in every session of a run: two leave 2 % between the levels of sessions, four 1.2 and eight 0.3 %."""


def initial_plan(run: RunFolder) -> Plan:
    """What the first predictors learn from: a design that shows every choice and spreads over the MACs.

    From 40 measured networks of the published space, the best latency predictor has an error of 4.9 % after it and of
    5.2 % after a random sample (`latency_predictors.py --sizes 40 --seeds 1`, with and without `--design`). Campaigns
    follow the same design, so they go on where this ends.
    """
    found = run.plan("initial")
    if found is not None:
        return found
    refuse_pruning(run)
    n = max(run.recipe.measure.n_architectures, run.recipe.score.n_architectures)
    supernet = run.untrained_supernet
    archs = supernet.space.decode(covering_design(supernet.space, n, supernet.macs, run.recipe.seed))
    return run.write_plan("initial", archs, [{"origin": "initial design"}] * len(archs))


def refuse_pruning(run: RunFolder) -> None:
    """Raises ValueError where a run ends with one network, whatever may have been measured for its budget."""
    if run.recipe.training.method == "pruning":
        raise ValueError(
            f"{run.path} prunes, so there is nothing to search in it: `supernet run {run.path}` trains it to the end "
            f"and writes {run.pruned}"
        )


def anchors(run: RunFolder) -> tuple[Architecture, ...]:
    """Sub-networks that take part in every session, so that sessions can be tied: the smallest, the largest, and some
    spread between them by MACs. The initial design begins with them."""
    return initial_plan(run).archs[:N_ANCHORS]


def search_plans(run: RunFolder, device: str | None = None) -> list[Plan]:
    """The initial plan and the rounds of search: what the search has seen, and nothing a baseline has.

    With an added device, its own rounds as well; with one that learns from others, only what is planned for itself.
    """
    plans = [plan for plan in run.all_plans() if plan.kind in ("initial", "transfer", "round")]
    own = [plan for plan in plans if plan.device == device]
    if device is not None and any(plan.kind == "transfer" for plan in own):
        return own
    return [plan for plan in plans if plan.device in (None, device) and plan.kind != "transfer"]


def device_plans(run: RunFolder, device: str) -> list[Plan]:
    """What an added device is to measure: what the search has planned, and its own campaign."""
    campaign = run.plan("campaign", device=device)
    return [*search_plans(run, device), *([campaign] if campaign else [])]


def baseline_plans(run: RunFolder) -> list[Plan]:
    """What `compare` has drawn and made beside the search, if it was there already."""
    return [plan for plan in run.all_plans() if plan.kind in ("random", "uniform", "filtered", "local")]


def campaign_plan(run: RunFolder, n: int, device: str | None = None) -> Plan:
    """The plan of a campaign, at least `n` architectures long where the space has as many; it only ever grows.

    An added device has one of its own, since it is asked for what its plans say.
    """
    found = run.plan("campaign", device=device)
    if found is not None and len(found.archs) >= n:
        return found
    supernet = run.untrained_supernet
    archs = supernet.space.decode(covering_design(supernet.space, n, supernet.macs, run.recipe.seed))
    if found is not None and len(archs) <= len(found.archs):  # the space has no more
        return found
    return run.write_plan("campaign", archs, [{"origin": "campaign"}] * len(archs), device=device)
