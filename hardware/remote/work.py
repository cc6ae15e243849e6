"""What is to be measured elsewhere, and where the sessions go."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from hardware.device import Device
from hardware.loop.session import Network
from hardware.loop.turns import Sampling
from hardware.store.store import Store

__all__ = ["Job", "Purpose", "Work", "WorkSource"]

Purpose = Literal["planned", "final"]


@dataclass(frozen=True)
class Job:
    """A network that a device is to measure."""

    key: str  # the id of an architecture
    resolution: int  # pixels
    macs: int  # multiply-accumulates of one image
    label: str = ""  # for people

    @property
    def name(self) -> Network:
        """Key and resolution."""
        return self.key, self.resolution


@dataclass(frozen=True)
class Work:
    """What a device is to measure next: the jobs, and the anchors that take part in every session beside them."""

    purpose: Purpose  # "final": all in one session
    anchors: tuple[Job, ...] = ()
    jobs: tuple[Job, ...] = ()  # an anchor is among them until it has been measured itself

    @property
    def beside(self) -> tuple[Job, ...]:
        """The jobs that are no anchors."""
        return tuple(job for job in self.jobs if job not in self.anchors)


class WorkSource(Protocol):
    """What a server of devices, or a kit, takes its work from. The methods may be called from any thread."""

    title: str
    sampling: Sampling

    def jobs(self, device: Device) -> Sequence[Job]:
        """Everything that is to be measured on the device, measured or not, in the order of its importance."""
        ...

    def anchors(self, device: Device) -> Sequence[Job]:
        """Those that take part in every session and tie sessions together; jobs as well."""
        ...

    def side_by_side(self, device: Device) -> Sequence[Job]:
        """Those that have still to be measured all in one session, of purpose "final"; empty if there are none."""
        ...

    def model(self, key: str, resolution: int, batch_size: int) -> bytes:
        """The ONNX file of a job."""
        ...

    def register(self, device: Device) -> Device:
        """The device under the name by which it is known from now on; equal devices have one name."""
        ...

    def store(self) -> AbstractContextManager[Store]:
        """Where the sessions go."""
        ...
