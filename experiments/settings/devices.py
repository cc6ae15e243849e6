"""The sections of a recipe about devices: what latency is measured on, and how well."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from experiments.settings.values import Count, Part, Section
from hardware.loop.turns import Sampling

__all__ = ["ENTRY_POINTS", "DeviceSettings", "MeasureSettings"]

ENTRY_POINTS = "supernet.profilers"  # the group in which packages, this one among them, register runtimes

_KEYS = {  # of ours; what those of other packages take are options
    "onnxruntime": {"graph_optimization"},
    "torch": {"compile", "channels_last", "cuda_graph", "flush_l2"},
    "openvino": set[str](),
}
_PROVIDERS = {"onnxruntime": ("cpu", "cuda", "tensorrt"), "torch": ("cpu", "cuda"), "openvino": ("cpu",)}
_PRECISIONS = {
    ("onnxruntime", "cpu"): ("fp32", "int8"),
    ("onnxruntime", "cuda"): ("fp32",),
    ("onnxruntime", "tensorrt"): ("fp32", "fp16"),
    ("torch", "cpu"): ("fp32", "bf16", "fp16"),
    ("torch", "cuda"): ("fp32", "bf16", "fp16"),
    ("openvino", "cpu"): ("fp32", "bf16", "fp16", "int8"),
}
_COSTS = {
    ("onnxruntime", "cpu"): ("memory", "energy"),
    ("torch", "cuda"): ("memory", "energy"),
}


def _file_name(name: str) -> str:
    if len(name) > 64:
        raise ValueError(f"{name[:20]}... has {len(name)} characters, and files are named after it; take up to 64")
    if name.lower().endswith(".card"):
        raise ValueError(f"{name!r} ends like the files of error cards; take another name")
    return name


def _known_runtime(name: str) -> str:
    names = entry_points(group=ENTRY_POINTS).names
    if name not in names:
        known = ", ".join(map(repr, sorted(names)))
        raise ValueError(f"{name!r} is not possible; choose {known}, or install the package that brings it")
    return name


class DeviceSettings(Section):
    """What latency is measured on: this machine with one runtime and one way of using it."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"), AfterValidator(_file_name)]
    """A name for commands: letters, digits, . _ -."""
    runtime: Annotated[str, AfterValidator(_known_runtime)] = "onnxruntime"
    """What runs the network: 'onnxruntime', 'torch', 'openvino', or one that an installed package brings."""
    provider: str = "cpu"
    """Where the runtime computes: 'cpu', 'cuda', and for onnxruntime 'tensorrt'."""
    batch_size: Count = 1
    """Images per run."""
    threads: Count = 1
    """Threads of the runtime."""
    precision: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """Of weights and activations; 'int8' quantises the ONNX file with calibration images."""
    graph_optimization: Literal["disabled", "basic", "extended", "all"] = "all"
    """Onnxruntime: how far it rewrites the graph."""
    compile: bool = False
    """Torch: compile the network."""
    channels_last: bool = False
    """Torch: keep images and weights with the channels innermost."""
    cuda_graph: bool = False
    """Torch on 'cuda': record the network once and replay it."""
    flush_l2: bool = False
    """Torch on 'cuda': empty the GPU's cache before every call."""
    costs: tuple[Literal["memory", "energy"], ...] = ()
    """What else to measure of every network: 'memory' (the peak), 'energy' (of one call)."""
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Whatever the runtime of an installed package understands beyond this."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.runtime not in _KEYS:
            return self  # what it can do, the package that brings it says
        if self.options:
            raise ValueError(f"options are for runtimes of other packages; {self.runtime} has keys of their own names")
        if self.provider not in _PROVIDERS[self.runtime]:
            raise ValueError(
                f"provider {self.provider!r} is not one of {self.runtime}'s: {', '.join(_PROVIDERS[self.runtime])}"
            )
        precisions = _PRECISIONS[self.runtime, self.provider]
        if self.precision not in precisions:
            raise ValueError(
                f"precision {self.precision!r} is not possible with {self.runtime} on {self.provider!r}; "
                f"choose {' or '.join(precisions)}"
            )
        possible = _COSTS.get((self.runtime, self.provider), ("energy",))
        for cost in self.costs:
            if cost not in possible:
                raise ValueError(
                    f"{cost} is not measured with {self.runtime} on {self.provider!r}, only {' and '.join(possible)}"
                )
        for runtime, names in _KEYS.items():
            foreign = sorted(names & self.model_fields_set) if runtime != self.runtime else []
            if foreign:
                raise ValueError(f"{foreign[0]} has no meaning for runtime {self.runtime!r}, only for {runtime!r}")
        if self.provider != "cuda" and (self.cuda_graph or self.flush_l2):
            raise ValueError("cuda_graph and flush_l2 need provider 'cuda'")
        return self


class MeasureSettings(Section):
    """How many sub-networks are measured per device, and how well."""

    n_architectures: Annotated[int, Field(ge=8)] = 100
    """Sub-networks that predictors learn from first. All are measured and scored, so the larger of this and
    score.n_architectures counts."""
    relative_half_width: Part = Sampling.relative_half_width
    """Networks take turns until the 95 % interval of every latency, relative to the others, is within this share."""
    max_turns: Annotated[int, Field(ge=Sampling.min_turns)] = Sampling.max_turns
    """Turns after which a session ends, however wide the intervals are."""
    quantization_images: Count = 256
    """Training images from which an exported int8 file takes the ranges of its activations."""
