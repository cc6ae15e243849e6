"""What devices elsewhere post, field by field: a session, or a stretch of one, with every repeat."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hardware.loop.session import FEWEST_TURNS, Network
from hardware.remote.work import Purpose

__all__ = [
    "LONGEST_HARDWARE",
    "Key",
    "Part",
    "Participant",
    "Posted",
    "PostedFailure",
    "Resolution",
    "Stretch",
    "Strict",
    "Submission",
    "TurnTaken",
    "joined",
    "one_line",
    "parse",
    "printable",
]  # fmt: skip

LONGEST_HARDWARE = 500  # characters: what is cut off could be what makes two devices two
_LONGEST_LINE = 1000  # of a reason: onnxruntime's begin with half a page about itself
_MOST_NETWORKS = 300  # in one session
_MOST_TURNS = 2000
_LONGEST_AGO = 366 * 86_400.0  # seconds

Seconds = Annotated[float, Field(gt=0, le=600)]
Start = Annotated[float, Field(ge=0, le=1e8)]  # in seconds
Key = Annotated[str, Field(min_length=1, max_length=64)]
Resolution = Annotated[int, Field(ge=1, le=100_000)]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Exactly the fields that are named, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Participant(Strict):
    """A network that took part."""

    key: Key
    resolution: Resolution
    calls_per_repeat: Annotated[int, Field(ge=1, le=1_000_000)]

    @property
    def name(self) -> Network:
        """Key and resolution."""
        return self.key, self.resolution


class TurnTaken(Strict):
    """One repeat of every network, in their order; null where one did not take part."""

    started: Annotated[list[Start | None], Field(max_length=_MOST_NETWORKS)]  # since the session began
    seconds: Annotated[list[Seconds | None], Field(max_length=_MOST_NETWORKS)]  # of a call


class PostedFailure(Strict):
    """A network that the device cannot run."""

    key: Key
    resolution: Resolution
    reason: Annotated[str, Field(max_length=2000)]

    @property
    def name(self) -> Network:
        """Key and resolution."""
        return self.key, self.resolution


class Stretch(Strict):
    """Networks that took turns, however few, and those that could not."""

    purpose: Purpose = "planned"
    networks: Annotated[list[Participant], Field(max_length=_MOST_NETWORKS)] = []
    turns: Annotated[list[TurnTaken], Field(max_length=_MOST_TURNS)] = []
    failures: Annotated[list[PostedFailure], Field(max_length=_MOST_NETWORKS)] = []

    @model_validator(mode="after")
    def _fits(self) -> Self:
        n = len(self.networks)
        for number, turn in enumerate(self.turns):
            if (len(turn.started), len(turn.seconds)) != (n, n):
                raise ValueError(f"turn {number} has {len(turn.seconds)} repeats of {n} networks")
            for started, seconds in zip(turn.started, turn.seconds, strict=True):
                if started is not None and seconds is None:
                    raise ValueError(f"turn {number} has a start without a repeat")
        twice = [name for name, count in Counter(network.name for network in self.networks).items() if count > 1]
        if twice:
            raise ValueError(f"{printable(twice[0][0])} is in it twice")
        return self


class Submission(Stretch):
    """A session."""

    @model_validator(mode="after")
    def _is_enough(self) -> Self:
        if self.networks and len(self.turns) < FEWEST_TURNS:
            raise ValueError(f"there are {len(self.turns)} turns; at least {FEWEST_TURNS} are needed")
        return self


class Posted(Strict):
    """What a client posts."""

    session: Submission
    ago: Annotated[float, Field(ge=0, le=_LONGEST_AGO)] = 0.0  # seconds since the last turn, by the client's clock


class Part(Stretch):
    """A line of a result file: a stretch of a session, which the next line may carry on."""

    session: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    began: Annotated[float, Field(ge=-1e12, le=1e12)]  # by the clock of the device


def joined(parts: Sequence[Part]) -> Stretch:
    """The parts of one session as one.

    Raises:
        ValueError: they are not of one session, or of too many turns.
    """
    first = parts[0]
    for part in parts:
        if (part.networks, part.purpose, part.began) != (first.networks, first.purpose, first.began):
            raise ValueError(f"session {first.session} goes on with other networks than it began with")
    turns = [turn for part in parts for turn in part.turns]
    if len(turns) > _MOST_TURNS:
        raise ValueError(f"session {first.session} has {len(turns)} turns; at most {_MOST_TURNS} are taken")
    failures = [failure for part in parts for failure in part.failures]
    return Stretch.model_construct(
        purpose=first.purpose, networks=first.networks, turns=turns, failures=failures
    )  # every part of it was checked


def parse(model: type[Model], text: str | bytes) -> Model:
    """What a client posted, or a line of a file, if it is exactly what it has to be.

    Raises:
        ValueError: it is not; one line that names the first field that is wrong, and its value.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("float", "list")) or "the text"
        given = first["input"]
        value = "" if isinstance(given, dict | list | bytes | BaseModel) else f", not {str(given)[:40]!r}"
        raise ValueError(one_line(f"{where}: {first['msg']}{value}")) from None


def printable(text: str, length: int = 120) -> str:
    """Text from a stranger as one line that can do nothing but be read."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:length]


def one_line(text: str) -> str:
    """A message as one line of bounded length."""
    return printable(text, _LONGEST_LINE)
