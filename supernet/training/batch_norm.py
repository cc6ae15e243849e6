"""BatchNorm over the images of all processes, for networks that are put together anew for every call."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from supernet.training.distributed import World

__all__ = ["SynchronisedBatchNorm"]


class SynchronisedBatchNorm(TorchFunctionMode):
    """Inside, `F.batch_norm` in training normalises with the mean and variance of the images of all processes.

    torch's own `SyncBatchNorm` is a module that must replace others beforehand, and refuses the CPU. Sub-networks are
    put together from views for one call, so the function is replaced instead of the modules; that serves supernets of
    one's own as well, and teachers. Every process must have the same number of images.

    Attributes:
        seconds: time spent talking so far.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.seconds = 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
        return _Normalise.apply(input, weight, bias, running_mean, running_var, momentum, eps, self)  # type: ignore[no-any-return]

    def gather(self, tensor: Tensor) -> Tensor:
        started = time.perf_counter()
        parts = self.world.gather(tensor)
        self.seconds += time.perf_counter() - started
        return parts


class _Normalise(torch.autograd.Function):
    """The forward and backward of BatchNorm, each with one message of two numbers per channel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        mode: SynchronisedBatchNorm,
    ) -> Tensor:
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        dims = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(wide, dims, correction=0)
        # Means and variances are combined, and not sums of squares, whose difference loses half of the digits.
        means, variances = mode.gather(torch.stack((mean, variance))).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        n_values = x.numel() // x.shape[1] * mode.world.size
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((variance * (n_values / (n_values - 1))).to(running_var.dtype), momentum)
        scale = (variance + eps).rsqrt()
        normalised = (wide - _wide(mean, x)) * _wide(scale, x)
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.mode, ctx.n_values, ctx.dims = mode, n_values, dims
        if weight is not None:
            normalised = normalised * _wide(weight, x)
        if bias is not None:
            normalised = normalised + _wide(bias, x)
        return normalised.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, mean, scale, weight = ctx.saved_tensors
        gradient = gradients[0].to(mean.dtype)
        normalised = (x.to(mean.dtype) - _wide(mean, x)) * _wide(scale, x)
        own = torch.stack((gradient.sum(ctx.dims), (gradient * normalised).sum(ctx.dims)))
        total, product = (ctx.mode.gather(own).sum(0) / ctx.n_values).unbind(0)
        inner = gradient - _wide(total, x) - normalised * _wide(product, x)
        factor = scale if weight is None else scale * weight
        to_input = (inner * _wide(factor, x)).to(x.dtype)
        # Of this process's images alone: these are averaged with all other gradients.
        to_weight = own[1].to(weight.dtype) if weight is not None else None
        to_bias = own[0].to(weight.dtype) if weight is not None else None
        return to_input, to_weight, to_bias, None, None, None, None, None


def _wide(channels: Tensor, x: Tensor) -> Tensor:
    """(n_channels,) in the shape that goes with images (n, n_channels, ...)."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))
