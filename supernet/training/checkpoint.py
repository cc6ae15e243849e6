"""Checkpoints that survive being killed: written atomically, verified when loaded, the last ones kept."""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch

from supernet.training.engine import KEEP

__all__ = ["CheckpointFolder", "as_plain", "first_difference", "load_checkpoint"]

_NAME = re.compile(r"step-(?P<step>\d{9})(-r(?P<rollbacks>\d+))?-(?P<digest>[0-9a-f]{16})(?P<good>-good)?\.pt")


@dataclass(frozen=True)
class CheckpointFolder:
    """Checkpoints of which the last `keep` stay, and the last good one in any case: what a collapse goes back to.

    They are called ``step-<step>[-r<rollbacks>]-<first 16 digits of the SHA-256>[-good].pt``. The name carries the
    check sum, so that one atomic rename publishes both, and ``torch.load`` reads the file as is. A run that was rolled
    back outranks what it was before, at whatever step that was.
    """

    folder: Path
    keep: int = KEEP

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"{self.keep} checkpoints cannot be kept; the least is 1")

    def save(self, step: int, state: Mapping[str, Any], rollbacks: int = 0, good: bool = False) -> Path:
        """Write a checkpoint of tensors, numbers, strings, lists and dictionaries; it is on disk when this returns.

        Raises:
            OSError: the folder is full or cannot be written; the checkpoints before are untouched.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / ".step.tmp"  # one name, so that a killed run leaves at most one such file
        generation = f"-r{rollbacks}" if rollbacks else ""
        try:
            with temporary.open("wb") as file:
                writer = _HashingWriter(file)
                torch.save(dict(state), cast(Any, writer))
                file.flush()
                os.fsync(file.fileno())
            digest = writer.hash.hexdigest()[:16]
            path = self.folder / f"step-{step:09d}{generation}-{digest}{'-good' if good else ''}.pt"
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(self.folder)
        for old in self._superfluous():
            old.unlink()
        return path

    def read(self, good: bool = False) -> bytes | None:
        """The newest sound checkpoint (or with `good` the newest of those) for `load_checkpoint`; None without any.

        A damaged one is renamed to ``*.damaged``, with a warning, and the one before is taken.

        Raises:
            ValueError: there are checkpoints, but all are damaged.
        """
        paths = [path for path in self._newest_first() if not good or _parts(path)["good"]]
        for path in paths:
            content = path.read_bytes()
            found = hashlib.sha256(content).hexdigest()
            if found.startswith(_parts(path)["digest"]):
                return content
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
        return sorted((p for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_rank, reverse=True)

    def _superfluous(self) -> list[Path]:
        paths = self._newest_first()
        # Of two at one step the good one comes first; the other was written before it had been validated.
        first_of_step = [path for i, path in enumerate(paths) if not i or _rank(path)[:2] != _rank(paths[i - 1])[:2]]
        newest_good = next((path for path in paths if _parts(path)["good"]), None)
        kept = {*first_of_step[: self.keep], newest_good}
        return [path for path in paths if path not in kept]


def load_checkpoint(content: bytes, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in a checkpoint; nothing in it is executed."""
    return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def as_plain(value: Any) -> Any:
    """Settings as data for JSON and for comparing: a dataclass becomes its fields and its name.

    Raises:
        TypeError: something that is no dataclass, mapping, sequence, number, string, boolean or None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        compared = (f.name for f in fields(value) if f.compare)  # a sampler's function of costs, say, is not
        return {"type": type(value).__name__, **{name: as_plain(getattr(value, name)) for name in compared}}
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
    if isinstance(old, dict) and isinstance(new, dict) and (set(old) != set(new) or list(old) == list(new)):
        items = [(name, old[name], new[name]) for name in old if name in new]
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        items = [(str(i), a, b) for i, (a, b) in enumerate(zip(old, new, strict=True))]
    elif old != new or type(old) is not type(new) or isinstance(old, dict):
        return f"{where or 'it'} was {_short(old)} and is {_short(new)}"
    for name, a, b in items:
        if (difference := first_difference(a, b, f"{where}.{name}" if where else name)) is not None:
            return difference
    if isinstance(old, dict) and (names := set(old) ^ set(new)):
        name = min(names)
        was, now = (_short(value[name]) if name in value else "not there" for value in (old, new))
        return f"{f'{where}.{name}' if where else name} was {was} and is {now}"
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


def _parts(path: Path) -> dict[str, Any]:
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return match.groupdict()


def _rank(path: Path) -> tuple[int, int, bool]:
    parts = _parts(path)
    return int(parts["rollbacks"] or 0), int(parts["step"]), bool(parts["good"])


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
