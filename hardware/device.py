"""Devices: what must be the same for two latencies to be comparable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import Any, Self

__all__ = ["Device"]


@dataclass(frozen=True)
class Device:
    """Hardware × runtime × provider × threads × precision × batch size × options. Equal devices: comparable numbers.

    `name` is a label for people and takes no part in equality or in the fingerprint.

    Raises:
        ValueError: a count below 1, or options that are empty or given twice.
    """

    name: str = field(compare=False)
    hardware: str  # the model of the CPU or GPU as the machine reports it
    runtime: str  # such as "onnxruntime", "torch" or "openvino"
    runtime_version: str
    provider: str  # where in the runtime: "CPUExecutionProvider", "cpu", "cuda"
    threads: int
    batch_size: int
    precision: str = "fp32"  # "fp32", "bf16", "fp16" or "int8"
    # What else decides which kernels run and is not the runtime's default: "compiled", "graph_optimization=basic". A
    # default is never listed, so a runtime that learns a new option keeps the fingerprints that it had.
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(sorted(self.options)))
        if len(set(self.options)) < len(self.options) or "" in self.options:
            raise ValueError(f"options {list(self.options)} of device {self.name!r} must be texts, each given once")
        for name in ("threads", "batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} {value} of device {self.name!r} must be at least 1")

    @cached_property
    def fingerprint(self) -> str:
        """A hash over everything but the name: twelve hexadecimal digits."""
        data = self.to_dict()
        del data["name"]
        if not self.options:
            del data["options"]
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "options": list(self.options)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is missing or unknown, or of another type than `to_dict` writes.
        """
        kinds = {"threads": int, "batch_size": int, "options": list}
        types = {f.name: kinds.get(f.name, str) for f in fields(cls)}
        if not isinstance(data, Mapping) or data.keys() != types.keys():
            raise ValueError(f"not a device: {str(data)[:80]!r}; its fields are {', '.join(types)}")
        for name, kind in types.items():
            if type(data[name]) is not kind:
                raise ValueError(f"not a device: {name} {data[name]!r} is not of type {kind.__name__}")
        if not all(type(option) is str for option in data["options"]):
            raise ValueError(f"not a device: options {data['options']!r} are not texts")
        return cls(**{**data, "options": tuple(data["options"])})

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        runtime = f"{self.runtime} {self.runtime_version} ({self.provider})"
        what = (threads, self.precision, *self.options, f"batch {self.batch_size}")
        return f"{self.name}: {self.hardware}, {runtime}, {', '.join(what)}"
