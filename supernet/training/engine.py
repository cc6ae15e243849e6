"""How a training step is computed: precision, memory format, optimiser, averaging, mixing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from supernet.training.mixing import Mixing

if TYPE_CHECKING:
    import torch

__all__ = ["KEEP", "MOMENTUM", "WEIGHT_DECAY", "Engine"]

MOMENTUM, WEIGHT_DECAY = 0.9, 3e-5
KEEP = 2  # checkpoints, beside the last good one

_DTYPES = {"fp32": None, "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Engine:
    """What decides how a step is computed; all of it is part of the result.

    Attributes:
        optimizer: "sgd" (with Nesterov momentum), "adamw" or "lamb", timm's.
        precision: of activations. bf16 and fp16 are autocast, over weights that stay fp32; fp16 scales the loss.
        channels_last: memory format; on CPUs and on GPUs with half precision much faster for convolutions.
        accumulation: micro-batches per process and step. Their gradients are averaged; BatchNorm sees each alone.
        ema: decay of an exponential moving average of weights and statistics, which is what is then validated, taught
            from and kept; it starts afresh with every phase, with smaller decays first. None: no average.
        sync_batch_norm: BatchNorm over the images of all processes.
        compile: run every block through `torch.compile`; see `TimmSupernet.compile_blocks`.
        mixing: mixup and cutmix; None: neither.
    """

    optimizer: Literal["sgd", "adamw", "lamb"] = "sgd"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    accumulation: int = 1
    ema: float | None = None
    sync_batch_norm: bool = False
    compile: bool = False
    mixing: Mixing | None = None

    def __post_init__(self) -> None:
        if self.accumulation < 1:
            raise ValueError(f"a step cannot have {self.accumulation} micro-batches; the least is 1")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema {self.ema} is not between 0 and 1; take 0.999, or None for no average")
        if self.sync_batch_norm and self.compile:
            raise ValueError("compiled blocks keep BatchNorms of their own: switch off compile or sync_batch_norm")

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """The type of activations; None: that of the weights."""
        import torch

        name = _DTYPES[self.precision]
        return None if name is None else getattr(torch, name)
