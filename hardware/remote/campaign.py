"""What is to be measured elsewhere, and where the results go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hardware.device import Device
from hardware.profiling import Sampling
from hardware.store import Store

__all__ = ["REFERENCE", "Campaign", "Job"]

REFERENCE = "reference"  # the name of the reference network where the networks go by their keys


@dataclass(frozen=True)
class Job:
    """A network that a device is to measure."""

    key: str  # the id of an architecture
    resolution: int  # pixels
    macs: int  # multiply-accumulates of one image
    label: str = ""  # for people


class Campaign(Protocol):
    """What a server of devices, or a bundle, takes its work from. The methods may be called from any thread."""

    title: str
    sampling: Sampling

    def jobs(self, device: Device) -> Sequence[Job]:
        """Everything that is to be measured on the device, measured or not, in the order of its importance."""
        ...

    def model(self, key: str, resolution: int, batch_size: int) -> bytes:
        """The ONNX file of a job; with the key `REFERENCE`, of the reference network."""
        ...

    def register(self, device: Device) -> Device:
        """The device under the name by which it is known from now on; equal devices have one name."""
        ...

    def store(self) -> AbstractContextManager[Store]:
        """Where the measurements go."""
        ...
