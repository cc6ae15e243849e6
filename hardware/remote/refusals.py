"""What devices elsewhere sent and was not believed: one line each, for people to read."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from hardware.device import Device
from hardware.loop.session import Network

__all__ = ["Refusals"]

_MOST = 1000  # a client must not be able to fill the disk


class Refusals:
    """A file of JSON lines that only grows, up to a thousand.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._n = path.read_bytes().count(b"\n") if path.exists() else 0

    def add(self, device: Device, network: Network | None, reason: str) -> None:
        """What a device sent of a network, or None where it is about no network, was refused."""
        key, resolution = network or (None, None)
        line = {
            "time": time.time(),
            "device": device.name,
            "fingerprint": device.fingerprint,
            "key": key,
            "resolution": resolution,
            "reason": reason,
        }
        with self._lock:
            if self._n >= _MOST:
                return
            self._n += 1
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line, ensure_ascii=False)}\n")
