"""What is measured, and what a runtime must be able to do; `measuring` does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from hardware.device import Device
from hardware.loop.turns import DeviceGoneError, Runner, Sampling

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Cost", "DeviceGoneError", "Prepared", "Profiler", "Runner", "Sampling", "Workload"]

# What a device can be asked for beside the latency; each becomes an extra of the network.
Cost = Literal["memory", "energy"]


@dataclass(frozen=True)
class Workload:
    """What is measured: a torch module or an ONNX file (its bytes or path) on square images.

    `key` names it in the session: the id of an architecture or the name of a model.
    """

    key: str
    model: nn.Module | bytes | Path
    resolution: int  # pixels
    channels: int = 3

    @property
    def name(self) -> tuple[str, int]:
        """Key and resolution, by which it is known."""
        return self.key, self.resolution


@dataclass(frozen=True)
class Prepared:
    """A network ready to run on a device, and what is known of it without running it."""

    run: Runner
    extras: Mapping[str, float] = field(default_factory=dict)  # by name with its unit, such as file_bytes


class Profiler(Protocol):
    """A runtime on one device. Third parties bring a device on board by writing one of these."""

    @property
    def device(self) -> Device:
        """What its numbers hold for."""
        ...

    def prepare(self, workload: Workload) -> Prepared:
        """Make a network ready to run.

        Raises:
            ValueError: it does not run on the device; one line that says why.
        """
        ...
