"""What the rows of a store say: sessions, scores and failures, each checked when it is read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hardware.device import Device
from hardware.loop.session import MeasuredNetwork, Session
from hardware.store.schema import CHECKED, checksum

__all__ = [
    "DamagedError", "Failure", "Record", "Score",
    "check_row", "device_of", "numbers", "place", "score_of", "session_of",
]  # fmt: skip


@dataclass(frozen=True)
class Score:
    """How well one network does on one split: for example accuracy, loss and n_images.

    `digest` stands for everything else the numbers depend on: weights, calibration and data.
    """

    key: str
    digest: str
    split: str
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Record:
    """A session as it lies in the store."""

    session: Session
    added: float  # seconds since 1970, by the clock of the machine that added it
    origin: str  # "" where it was measured by the run itself, else the file it was imported from


@dataclass(frozen=True)
class Failure:
    """A network that a device could not run, so that it is not tried again and again."""

    device: Device
    key: str
    resolution: int  # pixels
    reason: str
    added: float  # seconds since 1970


class DamagedError(ValueError):
    """A row that does not say what was written."""


class Rows(Protocol):
    """Where rows come from."""

    def select(self, table: str, columns: str, where: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """These columns of every row with these values."""
        ...


def check_row(table: str, row: Mapping[str, Any]) -> None:
    """Raises ValueError where a row, which has every checked column and the checksum, is not as it was written."""
    if row["checksum"] != checksum(table, row):
        raise DamagedError(f"what is stored for {row[CHECKED[table][0]]!r} in {table} is not what was written there")


def score_of(row: Mapping[str, Any]) -> Score:
    check_row("scores", row)
    try:
        return Score(row["key"], row["digest"], row["split"], dict(json.loads(row["metrics"])))
    except (TypeError, ValueError) as error:
        raise DamagedError(f"the score of {row['key']!r} cannot be read ({error})") from error


def device_of(text: str) -> Device:
    try:
        return Device.from_dict(json.loads(text))
    except ValueError as error:
        raise DamagedError(f"a device cannot be read ({error})") from error


def numbers(values: np.ndarray) -> str:
    """As JSON, null where there is none."""
    return json.dumps([None if math.isnan(value) else value for value in values.tolist()])


def place(key: str, resolution: int, device: Device) -> dict[str, Any]:
    text = json.dumps(device.to_dict())
    return {"key": key, "resolution": resolution, "fingerprint": device.fingerprint, "device": text}


def session_of(row: Mapping[str, Any], file: Rows) -> Session:
    """The session of a row, with its networks and turns."""
    check_row("sessions", row)
    where, networks, turns = {"session": row["id"]}, [], []
    columns = (*CHECKED["networks"], "checksum")
    for values in sorted(file.select("networks", ", ".join(columns), where), key=lambda values: values[1]):
        check_row("networks", found := dict(zip(columns, values, strict=True)))
        networks.append(MeasuredNetwork(found["key"], found["resolution"], found["calls"], json.loads(found["extras"])))
    columns = (*CHECKED["turns"], "checksum")
    for values in sorted(file.select("turns", ", ".join(columns), where), key=lambda values: values[1]):
        check_row("turns", found := dict(zip(columns, values, strict=True)))
        turns.append((json.loads(found["started"]), json.loads(found["seconds"]), found["doubt"]))
    try:
        return Session.of_turns(
            device_of(row["device"]),
            networks,
            turns,
            id=row["id"],
            began=row["began"],
            purpose=row["purpose"],
            notes=json.loads(row["notes"]),
            extras=json.loads(row["extras"]),
        )
    except (TypeError, ValueError) as error:
        raise DamagedError(f"session {row['id']} cannot be read ({error})") from error
