"""The ONNX file of a workload in the precision of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from torch import nn

from hardware.loop.turns import one_line
from hardware.onnx.export import export_onnx, export_onnx_of_any_size
from hardware.onnx.quantization import is_quantized, quantize_onnx
from hardware.profiling import Workload

__all__ = ["Calibration", "onnx_file"]

# Images of a workload in batches (n, channels, resolution, resolution).
Calibration = Callable[[Workload], Iterable[NDArray[np.float32]]]


def onnx_file(
    workload: Workload,
    input_shape: Sequence[int],
    int8: bool = False,
    calibration: Calibration | None = None,
    folder: Path | None = None,
) -> bytes | Path:
    """A module is exported, and quantised for `int8`; a file is what it is.

    Without calibration images a module is quantised with random ones. That is good for latency, which does not depend
    on the values, and for nothing else. One whose weights do not fit into a file is written into `folder`, with these
    beside it; without a folder it is refused.

    Raises:
        ValueError: a module that does not run on such images;
            a file that is quantised where it should not be, or the other way round; one that cannot be read.
    """
    if isinstance(workload.model, nn.Module):
        try:
            if folder is None:
                model: bytes | Path = export_onnx(workload.model, input_shape)
            else:
                model = export_onnx_of_any_size(workload.model, input_shape, folder / "model.onnx")
        except ValueError:
            raise
        except Exception as error:  # whatever the network itself raises
            raise ValueError(
                f"{workload.key!r} does not run on images {list(input_shape)}: {one_line(error)}"
            ) from error
        if not int8:
            return model
        random = np.random.default_rng(0).standard_normal(input_shape, dtype=np.float32)
        return quantize_onnx(model, calibration(workload) if calibration is not None else [random])
    try:
        quantized = is_quantized(workload.model)
    except (OSError, DecodeError) as error:
        raise ValueError(f"cannot load {workload.key!r}: {error}") from error
    if quantized != int8:
        raise ValueError(
            f"the file of {workload.key!r} is {'not ' if int8 else ''}quantised, the device is for "
            f"{'int8' if int8 else 'files that are not'}; give it the network, or quantise the file first"
        )
    return workload.model
