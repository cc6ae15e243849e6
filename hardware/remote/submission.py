"""What a device elsewhere says that it measured: believed only as far as it can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hardware.device import Device
from hardware.disturbance import disturbed_turns, quiet_level
from hardware.measurement import Measurement, median_interval
from hardware.profiling import Sampling
from hardware.remote.campaign import Job

__all__ = ["Failure", "Group", "Key", "Resolution", "Result", "Strict", "believed", "one_line", "parse", "printable"]

_MOST_REPEATS = 10_000
_MOST_RESULTS = 64  # in one group
_SHORTEST = 1e-6  # seconds: not even an empty network is called faster
_MACS_PER_SECOND = {"wasm": 1e12, "CPUExecutionProvider": 1e13}  # of one thread; far above every core there is
_MACS_PER_SECOND_OF_A_GPU = 1e16
_REFERENCE_MACS = 16_000_000  # see `hardware.reference`
_FASTER_THAN_REFERENCE = 10_000  # in multiply-accumulates a second; small networks on a GPU come to some hundreds

Seconds = Annotated[float, Field(gt=0, le=600)]
Repeats = Annotated[list[Seconds], Field(min_length=6, max_length=_MOST_REPEATS)]
Starts = Annotated[list[Annotated[float, Field(ge=0, le=1e8)]], Field(max_length=_MOST_REPEATS)]  # in seconds
Key = Annotated[str, Field(min_length=1, max_length=64)]
Resolution = Annotated[int, Field(ge=1, le=100_000)]
Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Exactly the fields that are named, each of exactly its type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Result(Strict):
    """The repeats of one network."""

    key: Key
    resolution: Resolution
    seconds: Repeats
    started: Starts = []  # since the start of the campaign; older clients do not tell
    calls_per_repeat: Annotated[int, Field(ge=1, le=1_000_000)]


class Failure(Strict):
    """A network that the device cannot run."""

    key: Key
    resolution: Resolution
    reason: Annotated[str, Field(max_length=2000)]


class Group(Strict):
    """Networks that were measured side by side, and the repeats of the reference network in between."""

    reference_seconds: Repeats | None = None
    reference_started: Starts | None = None
    results: Annotated[list[Result], Field(max_length=_MOST_RESULTS)] = []
    failures: Annotated[list[Failure], Field(max_length=_MOST_RESULTS)] = []


def parse(model: type[Model], text: str | bytes) -> Model:
    """What a client posted, or a line of a file, if it is exactly what it has to be.

    Raises:
        ValueError: it is not; one line that names the first field that is wrong, and its value.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the text"
        given = first["input"]
        value = "" if isinstance(given, dict | list | bytes) else f", not {str(given)[:40]!r}"
        raise ValueError(one_line(f"{where}: {first['msg']}{value}")) from None


def believed(
    result: Result,
    job: Job,
    device: Device,
    reference_seconds: Sequence[float],
    reference_started: Sequence[float],
    level: float | None,
    sampling: Sampling,
) -> Measurement:
    """The measurement that a result stands for, with what is doubtful about it as warnings.

    The networks of a group take turns, so the i-th repeats of all of them, and of the reference network, belong to one
    turn. Those of turns in which the reference network was slow are marked, and take no part in the median where enough
    others are left.

    Args:
        reference_started: seconds at which its repeats began, or none.
        level: median seconds of the reference network on this device so far; None at first.

    Raises:
        ValueError: it cannot be true; the message says why.
    """
    if not reference_seconds:
        raise ValueError(f"{job.key} was measured without the reference network")
    if len(result.seconds) > sampling.max_repeats:
        raise ValueError(f"{job.key} has {len(result.seconds)} repeats; at most {sampling.max_repeats} were asked for")
    middle, macs = median(result.seconds), job.macs * device.batch_size
    fastest = _MACS_PER_SECOND.get(device.provider, _MACS_PER_SECOND_OF_A_GPU / device.threads) * device.threads
    shortest = max(_SHORTEST, macs / fastest)
    if middle < shortest:
        raise ValueError(
            f"{job.key} cannot take {middle:.3g} s: no {device.provider} does {macs:,} multiply-accumulates in less "
            f"than {shortest:.1g} s"
        )
    pace, reference_pace = macs / middle, _REFERENCE_MACS * device.batch_size / median(reference_seconds)
    if pace > _FASTER_THAN_REFERENCE * reference_pace:
        raise ValueError(
            f"{job.key} cannot take {middle:.3g} s: that is {pace / reference_pace:,.0f} times the pace of the "
            f"reference network beside it ({median(reference_seconds):.3g} s)"
        )
    n = len(result.seconds)
    if n > len(reference_seconds):
        raise ValueError(f"{job.key} has {n} repeats, the reference network beside it {len(reference_seconds)}")
    timed = bool(result.started)
    if timed and (len(result.started), len(reference_started)) != (n, len(reference_seconds)):
        raise ValueError(f"{job.key} has {n} repeats, {len(result.started)} with a start, or its reference lacks some")
    slow = disturbed_turns(reference_seconds, quiet_level(reference_seconds), sampling.drift)
    quiet = [i for i in range(n) if not slow[i]]
    counted = quiet if timed and len(quiet) >= sampling.min_repeats else list(range(n))
    beside = [i for i in range(len(slow)) if len(counted) == n or not slow[i]]
    seconds = [result.seconds[i] for i in counted]
    return Measurement(
        device=device,
        key=job.key,
        resolution=job.resolution,
        seconds=tuple(seconds),
        calls_per_repeat=result.calls_per_repeat,
        reference_seconds=tuple(reference_seconds[i] for i in beside),
        warnings=tuple(_doubts(seconds, reference_seconds, level, sampling)),
        started=tuple(result.started[i] for i in counted) if timed else (),
        reference_started=tuple(reference_started[i] for i in beside) if timed else (),
        disturbed=tuple((result.started[i], result.seconds[i]) for i in sorted(set(range(n)) - set(counted))),
    )


def _doubts(
    seconds: Sequence[float], reference_seconds: Sequence[float], level: float | None, sampling: Sampling
) -> list[str]:
    doubts = []
    low, high = median_interval(seconds)
    half_width = (high - low) / 2 / median(seconds)
    if half_width > sampling.relative_half_width:
        doubts.append(
            f"the median is known to ±{half_width:.1%} only, wanted was ±{sampling.relative_half_width:.1%} "
            f"({len(seconds)} repeats); close other programs on the device or allow more repeats"
        )
    drift = 0.0 if level is None else median(reference_seconds) / level - 1
    if abs(drift) > sampling.drift:
        doubts.append(
            f"the reference network ran {abs(drift):.0%} {'slower' if drift > 0 else 'faster'} than on this device "
            "before; let it cool down and plug it in, or give another device a name of its own"
        )
    return doubts


def printable(text: str, length: int = 120) -> str:
    """Text from a stranger as one line that can do nothing but be read."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:length]


def one_line(text: str) -> str:
    """A message as one line of bounded length."""
    return printable(text, 300)
