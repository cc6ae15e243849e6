"""ONNX models of any size: as bytes, or as a file with the weights beside it where protobuf cannot hold them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import onnx
from onnx import ModelProto

__all__ = ["LARGEST", "TooLargeError", "data_file", "file_bytes", "opened", "packed", "rewritten", "written"]

LARGEST = 2**31 - 2**20
"""Bytes of weights in one file: messages of protobuf are below 2 GiB, and nodes need some of it."""

_INLINE = 1024  # bytes; smaller constants stay in the file, where runtimes look at shapes and axes before they load


class TooLargeError(ValueError):
    """The weights of a network are more than one file can hold."""


def data_file(path: Path) -> Path:
    """Where the weights of the ONNX file `path` lie if they are not in it."""
    return path.with_name(f"{path.name}.data")


def packed(model: ModelProto, at_most: int = LARGEST) -> bytes:
    """The model as the bytes of one file.

    Raises:
        TooLargeError: its weights have more than `at_most` bytes.
    """
    if (n_bytes := _weight_bytes(model)) > at_most:
        raise TooLargeError(
            f"weights of {n_bytes / 1e9:.3g} GB do not fit into one ONNX file, which holds {at_most / 1e9:.3g} GB"
        )
    return model.SerializeToString()


def written(model: ModelProto, path: Path, at_most: int = LARGEST) -> bytes | Path:
    """The model as bytes; with weights of more than `at_most` bytes as the file `path`, these in `data_file` beside it.

    The two may be moved together: the file knows the other by its name alone.

    The model loses the weights that are written.

    Raises:
        OSError: the files cannot be written.
    """
    if _weight_bytes(model) <= at_most:
        return model.SerializeToString()
    data = data_file(path)
    data.unlink(missing_ok=True)  # or the weights are appended to what is there
    onnx.save_model(model, path, save_as_external_data=True, location=data.name, size_threshold=_INLINE)
    shutil.copymode(path, data)  # which onnx makes for its owner alone
    return path


def opened(model: bytes | Path) -> ModelProto:
    """The model, without weights that lie beside it."""
    return ModelProto.FromString(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)


def rewritten(model: bytes | Path, changed: ModelProto) -> bytes | Path:
    """`changed`, which was made of what `opened` gave, in the place of `model`; weights beside a file stay there."""
    if isinstance(model, bytes):
        return changed.SerializeToString()
    model.write_bytes(changed.SerializeToString())
    return model


def file_bytes(model: bytes | Path) -> int:
    """How large it is, with the weights beside it."""
    if isinstance(model, bytes):
        return len(model)
    named = {
        entry.value
        for tensor in opened(model).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return sum((model.parent / name).stat().st_size for name in (model.name, *named))


def _weight_bytes(model: ModelProto) -> int:
    size = onnx.helper.tensor_dtype_to_np_dtype
    return sum(math.prod(tensor.dims) * size(tensor.data_type).itemsize for tensor in model.graph.initializer)
