"""What stands in ``front.json``, field by field, for whoever reads it with a program of their own.

``python -m experiments.front_schema > docs/front.schema.json`` makes the JSON Schema again.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict

__all__ = ["FrontFile", "json_schema"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Believed(_Part):
    """A measured value and a prediction together."""

    value: float
    """The posterior mean, in the unit of the quantity."""
    deviation: float
    """Its standard deviation: of times as a share, else in the unit of the quantity."""


class Extras(_Part):
    """What is known of a candidate beside its values."""

    origin: str
    """How it came to be evaluated, such as 'initial design' or 'search round 2'."""
    intervals: dict[str, tuple[float, float]]
    """Of 95 %: per latency and per quantile of the slow calls in seconds, of the stability as a share."""
    deviations: dict[str, float]
    """Per latency the standard deviation of its logarithm."""
    quantiles: dict[str, list[float]]
    """Per latency 41 evenly spaced quantiles of the measured calls, in seconds."""
    predicted: dict[str, float]
    """What was predicted before it was known."""
    posterior: dict[str, Believed]
    """What is believed of objectives that are known with noise."""
    warnings: list[str]
    """Of its measuring."""


class Candidate(_Part):
    """A sub-network that was measured and scored."""

    id: str
    """Hash of its architecture."""
    arch: dict[str, Any]
    """Its architecture, as `supernet.Architecture.from_dict` reads it."""
    values: dict[str, float]
    """Per quantity its value as it was measured: shares, seconds, bytes, joules, counts."""
    extras: Extras


class Axis(_Part):
    """An objective."""

    name: str
    unit: str
    maximize: bool


class Front(_Part):
    """Candidates that no other one dominates, by their values, ordered by the last objective, its best first."""

    axes: list[Axis]
    candidates: list[Candidate]


class Posterior(_Part):
    """The front by what is believed, not by what was measured: the best of many noisy values is lucky."""

    front: list[str]
    """Ids, ordered by the last objective."""
    hypervolume: float
    """What it is believed to have in truth, up to the same reference."""
    interval: tuple[float, float]
    """In which that lies with 90 %."""
    weights: dict[str, float]
    """Per objective the weight of the measured value beside what others say, on average."""
    membership: dict[str, float]
    """Per id how often it would be on the front of all candidates if all were measured again; without those that never
    would."""


class Optima(_Part):
    """What the models say is best over the whole space, exactly: `search.optima.Optima` reads it."""

    space: dict[str, Any]
    """The space of the genes, as `supernet.space.SearchSpace.from_dict` reads it."""
    maximize: tuple[bool, bool]
    """Per objective, whether more is better."""
    scales: tuple[str, str]
    """Per objective the scale on which its model is a sum over stages: plain, log, or log error."""
    genes: list[str]
    """The front of the models, the best of the first objective first: genes with spaces between."""
    values: list[tuple[float, float]]
    """What the models say of it, in the units of the objectives."""
    corners: list[tuple[float, float]]
    """Of a convex line below which no network lies: losses on the scales, ordered by the second."""


class MeasuredOn(_Part):
    """A device of a goal."""

    device: dict[str, Any]
    """What makes it comparable: hardware, runtime, threads, precision, batch size."""
    fingerprint: str
    """Equal for equal devices."""
    session: str
    """The session on whose level the latencies are."""
    notes: list[str]
    """What is doubtful about its sessions."""


class Goal(_Part):
    """What was searched for, and what was found."""

    metric: dict[str, Any] | None
    """Of a task of one's own; none for accuracy."""
    objectives: list[str]
    """Names of quantities, such as 'accuracy' and 'latency@phone'."""
    limits: list[str]
    """What members of the front keep."""
    devices: dict[str, MeasuredOn]
    front: Front
    candidates: list[Candidate]
    """Everything that was measured and scored, baselines too once they were compared."""
    reference: dict[str, float]
    """Per objective the worst value of all candidates, up to which hypervolumes are."""
    hypervolume: float
    """Of the front by measured values, in the product of the units of the objectives."""
    posterior: Posterior
    optima: Optima | None
    """None where a model is no sum over stages, or there are not two objectives."""


class FrontFile(_Part):
    """The content of ``front.json``."""

    provenance: dict[str, Any]
    """Where the run comes from: recipe, seed, commit, versions, machine."""
    scores: str
    """Names weights, data and calibration: equal names, equal scores."""
    seed: int
    goals: dict[str, Goal]
    """By name: that of the device, or of the objectives."""


def json_schema() -> str:
    """The schema as text."""
    return json.dumps(FrontFile.model_json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
