"""What devices elsewhere could not do, and what was not believed: one line each, never tried again after a restart."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Literal

from hardware.device import Device

__all__ = ["Journal"]

_MOST_REFUSALS = 1000  # a client must not be able to fill the disk


class Journal:
    """A file of JSON lines that only grows. A line that a kill cut off is left out.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._failed: dict[str, dict[tuple[str, int], str]] = defaultdict(dict)
        self._refusals = 0
        if path.exists():
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                self._read(line)

    def failed(self, fingerprint: str) -> set[tuple[str, int]]:
        """Key and resolution of everything that the device cannot run."""
        with self._lock:
            return set(self._failed[fingerprint])

    def reasons(self, fingerprint: str) -> dict[tuple[str, int], str]:
        """Why, by key and resolution."""
        with self._lock:
            return dict(self._failed[fingerprint])

    def write(
        self, event: Literal["failed", "refused"], device: Device, where: tuple[str, int] | None, reason: str
    ) -> None:
        """Add a line; of refusals only the first thousand."""
        key, resolution = where or (None, None)
        line = {
            "time": time.time(),
            "event": event,
            "device": device.name,
            "fingerprint": device.fingerprint,
            "key": key,
            "resolution": resolution,
            "reason": reason,
        }
        with self._lock:
            if event == "refused":
                self._refusals += 1
                if self._refusals > _MOST_REFUSALS:
                    return
            elif where is not None:
                self._failed[device.fingerprint][where] = reason
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A newline first, should a kill have cut off the last line.
            lead = "\n" if self.path.exists() and not _ends_well(self.path) else ""
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{lead}{json.dumps(line, ensure_ascii=False)}\n")

    def _read(self, line: str) -> None:
        try:
            row = json.loads(line)
            where = str(row["key"]), int(row["resolution"])
            if row["event"] == "failed":
                self._failed[str(row["fingerprint"])][where] = str(row["reason"])
            else:
                self._refusals += 1
        except (ValueError, TypeError, KeyError):  # cut off by a kill, or a refusal that is about no network
            self._refusals += 1


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
