"""Checkpoints that survive being killed: written atomically, verified when loaded, the last ones kept."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch

__all__ = ["CheckpointFolder", "as_plain", "first_difference"]

_NAME = re.compile(r"step-(\d{9})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class CheckpointFolder:
    """Checkpoints ``step-<step>-<first 16 digits of the SHA-256>.pt`` in a folder, of which the last `keep` stay.

    The name carries the check sum, so that one atomic rename publishes both, and ``torch.load`` reads the file as is.
    """

    folder: Path
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"{self.keep} checkpoints cannot be kept; the least is 1")

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write a checkpoint of tensors, numbers, strings, lists and dictionaries; it is on disk when this returns.

        Raises:
            OSError: the folder is full or cannot be written; the checkpoints before are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".step.tmp"  # one name, so that a killed run leaves at most one such file
        try:
            with temporary.open("wb") as file:
                writer = _HashingWriter(file)
                torch.save(dict(state), cast(Any, writer))
                file.flush()
                os.fsync(file.fileno())
            path = self.folder / f"step-{step:09d}-{writer.hash.hexdigest()[:16]}.pt"
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.folder)
        for old in self._newest_first()[self.keep :]:
            old.unlink()
        return path

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """The newest sound checkpoint; None where there is none.

        A damaged one is renamed to ``*.damaged``, with a warning, and the one before is taken.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        paths = self._newest_first()
        for path in paths:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found.startswith(path.stem.rsplit("-", 1)[1]):
                return torch.load(path, map_location=device, weights_only=True)
            path.rename(path.with_name(f"{path.name}.damaged"))
            warnings.warn(
                f"checkpoint {path} is damaged: its SHA-256 starts with {found[:16]}; falling back to the one before",
                RuntimeWarning,
                stacklevel=2,
            )
        if paths:
            raise ValueError(f"every checkpoint in {self.folder} is damaged; remove the folder to train from the start")
        return None

    def _newest_first(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True)


def as_plain(value: Any) -> Any:
    """Settings as data for JSON and for comparing: a dataclass becomes its fields and its name.

    Raises:
        TypeError: something that is no dataclass, mapping, sequence, number, string, boolean or None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__, **{f.name: as_plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {str(name): as_plain(item) for name, item in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    if isinstance(value, Sequence):
        return [as_plain(item) for item in value]
    raise TypeError(f"{value!r} cannot be part of a training configuration; use dataclasses, numbers and strings")


def first_difference(old: Any, new: Any, where: str = "") -> str | None:
    """Where two plain values differ first, such as ``phases.1.schedule.epochs was 4 and is 5``; None where equal.

    The order of the names of a dictionary counts: it is the order of the genes.
    """
    items: list[tuple[str, Any, Any]] = []
    if isinstance(old, dict) and isinstance(new, dict) and list(old) == list(new):
        items = [(name, old[name], new[name]) for name in old]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        items = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old != new or type(old) is not type(new) or isinstance(old, dict):
        return f"{where or 'it'} was {_short(old)} and is {_short(new)}"
    for name, a, b in items:
        if (difference := first_difference(a, b, f"{where}.{name}" if where else name)) is not None:
            return difference
    return None


class _HashingWriter:
    """Passes bytes on to a file and hashes them on the way, so that they are not read again."""

    def __init__(self, file: Any) -> None:
        self.hash = hashlib.sha256()
        self._file = file

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
