"""ONNX Runtime sessions that run where they were asked to run, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as exceptions  # pyright: ignore[reportAttributeAccessIssue]

__all__ = ["GraphOptimization", "OnnxProvider", "SessionSettings"]

OnnxProvider = Literal["cpu", "cuda", "tensorrt"]
GraphOptimization = Literal["disabled", "basic", "extended", "all"]

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_LEVELS = {
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
# These are not derived from one another, nor from anything narrower than Exception.
_ERRORS = (
    exceptions.EPFail,
    exceptions.EngineError,
    exceptions.Fail,
    exceptions.InvalidArgument,
    exceptions.InvalidGraph,
    exceptions.InvalidProtobuf,
    exceptions.NoSuchFile,
    exceptions.NotImplemented,
    exceptions.RuntimeException,
)


@dataclass(frozen=True)
class SessionSettings:
    """How a session computes.

    Raises:
        ValueError: a value that ONNX Runtime does not know.
    """

    provider: OnnxProvider = "cpu"
    threads: int = 1  # within one operator; operators run one after the other
    graph_optimization: GraphOptimization = "all"
    fp16: bool = False  # TensorRT only: it may compute in half precision

    def __post_init__(self) -> None:
        for what, value, known in (
            ("provider", self.provider, _PROVIDERS),
            ("graph_optimization", self.graph_optimization, _LEVELS),
        ):
            if value not in known:
                raise ValueError(f"{what} {value!r} is not one of {', '.join(known)}")
        if self.fp16 and self.provider != "tensorrt":
            raise ValueError(f"provider {self.provider!r} runs a file in the precision it has; fp16 needs 'tensorrt'")

    @property
    def provider_name(self) -> str:
        """As ONNX Runtime calls it: "CPUExecutionProvider"."""
        return _PROVIDERS[self.provider]

    def require(self) -> None:
        """Raises ValueError where the installed package does not have the provider."""
        offered = onnxruntime.get_available_providers()
        if self.provider_name not in offered:
            raise ValueError(
                f"onnxruntime {onnxruntime.__version__} as it is installed here offers {', '.join(offered)}, not "
                f"{self.provider_name}; put onnxruntime-gpu in its place, on a machine with an NVIDIA GPU"
            )

    def open(self, model: bytes | Path, name: str, shape: Sequence[int]) -> onnxruntime.InferenceSession:
        """A session of a file that takes one batch of images of `shape`; `name` is for messages.

        A provider that cannot be had, or that would leave some nodes to the CPU, is an error: ONNX Runtime itself would
        fall back without a word.

        Raises:
            ValueError: the session cannot be had, or the file is made for another input shape.
        """
        self.require()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = _LEVELS[self.graph_optimization]
        options.log_severity_level = 3  # errors; they are raised as well
        # Threads of a session that has its turn behind it must not spin on the cores of the next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.provider != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider_options: dict[str, Any] = {"trt_fp16_enable": "True"} if self.fp16 else {}
        try:
            # A path, not the bytes, for a file on disk: its weights may lie in further files beside it.
            session = onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model),
                options,
                providers=[(self.provider_name, provider_options)],
            )
        except _ERRORS as error:
            raise ValueError(f"ONNX Runtime cannot load {name!r}: {str(error).splitlines()[0]}") from error
        # Asked for a GPU provider, the CPU provider is in the list as well; that it has no node was seen to above.
        if session.get_providers()[0] != self.provider_name:
            raise ValueError(
                f"{name!r} would run on {', '.join(session.get_providers())}, asked for was {self.provider_name}; "
                "see that CUDA, cuDNN and TensorRT are those that this onnxruntime needs"
            )
        inputs = session.get_inputs()
        if len(inputs) != 1 or not _fits(inputs[0].shape, shape):
            shapes = ", ".join(f"{given.name} {given.shape}" for given in inputs)
            raise ValueError(
                f"{name!r} takes {shapes}, but images {list(shape)} are to be run: "
                "export it for this batch size and resolution"
            )
        return session


def _fits(declared: Sequence[int | str | None], shape: Sequence[int]) -> bool:
    """Whether images of `shape` may be given; a name or None in `declared` stands for any size."""
    return len(declared) == len(shape) and all(
        size == wanted for size, wanted in zip(declared, shape, strict=True) if isinstance(size, int)
    )
