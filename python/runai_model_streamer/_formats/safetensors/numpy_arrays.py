"""Arrays of numpy of tensors of the format. Needs no torch."""

from __future__ import annotations

import functools
from typing import Any

import numpy
from numpy.typing import NDArray

from runai_model_streamer._errors import StreamerUnsupportedError
from runai_model_streamer._formats.safetensors.dtypes import TORCH_NAMES
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata

Array = NDArray[numpy.generic]


@functools.cache
def _dtype_of(name: str) -> numpy.dtype[numpy.generic] | None:
    common = TORCH_NAMES.get(name, "")
    try:
        return numpy.dtype(common)
    except TypeError:
        pass
    try:
        import ml_dtypes
    except ImportError:
        return None
    kind = getattr(ml_dtypes, common, None)
    return None if kind is None else numpy.dtype(kind)


def check_array(tensor: SafetensorMetadata, path: str) -> None:
    """Raises if numpy has no array for `tensor` of the file at `path`."""
    if _dtype_of(tensor.dtype) is None:
        raise StreamerUnsupportedError(
            f"{path}: numpy has no {TORCH_NAMES.get(tensor.dtype, tensor.dtype)}, the dtype of "
            f"tensor '{tensor.name}'",
            code="unsupported",
            path=path,
            hint="Install ml_dtypes, or use runai_model_streamer.dlpack",
        )


def dtype_of(tensor: SafetensorMetadata) -> numpy.dtype[numpy.generic]:
    """The dtype of a tensor that check_array() accepts."""
    dtype = _dtype_of(tensor.dtype)
    assert dtype is not None
    return dtype


class NumpyArrays:
    """Parts of tensors as arrays: a Library of tensor_slice."""

    def check(self, tensor: SafetensorMetadata, path: str) -> None:
        check_array(tensor, path)

    def empty(self, part: SafetensorMetadata, shape: tuple[int, ...]) -> Array:
        return numpy.empty(shape, dtype_of(part))

    def address(self, made: Array) -> int:
        return made.ctypes.data

    def select(self, made: Array, index: tuple[Any, ...]) -> Array:
        return numpy.asarray(made[index])  # not a scalar

    def row(self, made: Array, number: int) -> Array:
        return numpy.array(made[number])
