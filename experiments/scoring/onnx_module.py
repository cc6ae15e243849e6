"""A network in ONNX Runtime that is called like the torch module it was made from."""

from __future__ import annotations

import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from hardware.onnx.external import TooLargeError, packed
from hardware.onnx.graph import INPUT, OUTPUT
from hardware.onnx.recorder import UnsupportedError, record

__all__ = ["OnnxModule", "fast_evaluator"]

_PIXELS = 2**16  # of a call, so that activations stay in the caches of a core
_IMAGES = (4, 64)  # at least and at most in a call
_PARITY = 1e-3  # of the largest logit: folding BatchNorms and another order of sums change less


class OnnxModule(nn.Module):
    """Computes the outputs (n, ...) of float32 images (n, channels, height, width) on the CPU, such as logits.

    The file has BatchNorms folded into convolutions, and ONNX Runtime fuses what is left: two to five times as fast
    as the torch module.

    Raises:
        UnsupportedError: no such file can be written of the network in milliseconds, or it computes something else.
        TooLargeError: its weights do not fit into one file.
    """

    def __init__(self, module: nn.Module, channels: int, resolution: int) -> None:
        super().__init__()
        self.batch_size = min(max(_PIXELS // resolution**2, _IMAGES[0]), _IMAGES[1])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = packed(record(module, (self.batch_size, channels, resolution, resolution)))
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._check(module, channels, resolution)

    def _check(self, module: nn.Module, channels: int, resolution: int) -> None:
        """One image through both: a score must be of the network, however fast the file is."""
        image = torch.randn(1, channels, resolution, resolution, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, found = module(image), self(image)
        if not torch.allclose(found, expected, rtol=_PARITY, atol=_PARITY * float(expected.abs().max())):
            raise UnsupportedError(
                f"the file computes something else: off by {float((found - expected).abs().max()):.2g}"
            )

    def forward(self, images: Tensor) -> Tensor:
        outputs = []
        for chunk in images.split(self.batch_size):
            # The file has a fixed batch size, so a chunk that is smaller is filled up.
            filled = pad(chunk, (0,) * 7 + (self.batch_size - len(chunk),)).contiguous()
            (found,) = self._session.run([OUTPUT], {INPUT: filled.numpy()})
            outputs.append(torch.from_numpy(found)[: len(chunk)])
        return torch.cat(outputs)


def fast_evaluator(module: nn.Module, channels: int, resolution: int) -> nn.Module:
    """What evaluates `module`, which must be in eval mode, fastest: itself on a GPU, ONNX Runtime on a CPU."""
    if next((p.is_cuda for p in module.parameters()), False):
        return module
    try:
        return OnnxModule(module, channels, resolution)
    except (UnsupportedError, TooLargeError):
        return module
