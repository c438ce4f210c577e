"""Tensors that an ONNX file holds: their type and shape, and the values of small ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeseg.runtime.errors import EdgesegError

Array = NDArray[Any]

MAX_VALUES = 1 << 16
"""Constants of more elements are known by type and shape only: weights, never scales."""

_NARROW = {"INT4", "UINT4", "FLOAT4E2M1"}


@dataclass(frozen=True, slots=True)
class Constant:
    """Element type (`TensorProto` code), shape, and the values of a small one."""

    dtype: int
    shape: tuple[int, ...]
    values: Array | None


def element_type(code: int) -> str:
    """Return the name of a `TensorProto` element type, as "FLOAT16"; "type 99" for a code that has none."""
    return str(TensorProto.DataType.Name(code)) if code in TensorProto.DataType.values() else f"type {code}"


def read_constant(tensor: TensorProto, folder: Path) -> Constant:
    """Read a tensor whose external data, if any, lies in `folder` or below.

    Raises `EdgesegError` if it does not hold what its shape promises, or if its data lie elsewhere.
    """
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise EdgesegError(f"constant {tensor.name!r} has shape {shape}", expected="no negative size")
    count = math.prod(shape)
    size = _stored_bytes(tensor.data_type, count)
    if tensor.data_location == TensorProto.EXTERNAL:
        path, offset = _external_place(tensor, folder, size)
        if count > MAX_VALUES:
            return Constant(tensor.data_type, shape, None)
        with path.open("rb") as stream:
            stream.seek(offset)
            inside = TensorProto(data_type=tensor.data_type, dims=shape, raw_data=stream.read(size))
        return Constant(tensor.data_type, shape, numpy_helper.to_array(inside))
    _check_size(tensor, count, size)
    if count > MAX_VALUES or tensor.data_type == TensorProto.STRING:
        return Constant(tensor.data_type, shape, None)
    try:
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise EdgesegError(f"constant {tensor.name!r} cannot be read: {error}") from None
    return Constant(tensor.data_type, shape, values)


def _stored_bytes(dtype: int, count: int) -> int:
    name = element_type(dtype)
    if name in ("STRING", "UNDEFINED") or name.startswith("type "):
        return 0
    if name in _NARROW:
        return (count + 1) // 2
    try:
        return count * int(np.dtype(helper.tensor_dtype_to_np_dtype(dtype)).itemsize)
    except (KeyError, TypeError):
        return 0


def _check_size(tensor: TensorProto, count: int, size: int) -> None:
    if tensor.HasField("raw_data"):
        found, expected = len(tensor.raw_data), size
    else:
        lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        found, expected = max(len(values) for values in lists), count
        if tensor.data_type == TensorProto.STRING:
            found = len(tensor.string_data)
        elif size and size < count:
            found, expected = min(found, (count + 1) // 2), (count + 1) // 2
        if element_type(tensor.data_type).startswith("COMPLEX"):
            expected = 2 * count
    if found != expected and (size or tensor.data_type == TensorProto.STRING):
        raise EdgesegError(
            f"constant {tensor.name!r} of shape {tuple(tensor.dims)} holds {found} bytes or elements",
            expected=str(expected),
            fix="export or copy the file again",
        )


def _external_place(tensor: TensorProto, folder: Path, size: int) -> tuple[Path, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    parts = PurePosixPath(location).parts
    root = folder.resolve()
    path = (root / location).resolve() if location and "\0" not in location else root
    if not parts or ".." in parts or PurePosixPath(location).is_absolute() or root not in path.parents:
        raise EdgesegError(
            f"data of constant {tensor.name!r} lie at {location!r}, outside the model's folder",
            fix="export the model with its weights inside, or beside it",
        )
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or size)
    except ValueError:
        raise EdgesegError(f"data of constant {tensor.name!r} lie at an offset that is no number") from None
    if not path.is_file():
        raise EdgesegError(
            f"data of constant {tensor.name!r}: there is no file {location!r} beside the model",
            fix="copy the model together with its data file",
        )
    if offset < 0 or length != size or offset + length > path.stat().st_size:
        raise EdgesegError(
            f"data of constant {tensor.name!r}: {location!r} does not hold {size} bytes at {offset}",
            fix="export or copy the model again",
        )
    return path, offset
