"""Arrays of numpy of safetensors files, as torch's are streamed. Needs no torch.

>>> from runai_model_streamer.numpy import stream_files
>>> for name, array in stream_files(["s3://bucket/model.safetensors"]):
...     ...

Arrays are the caller's: they are writable, share no memory with each other, and stay valid for as
long as they are held. Dtypes that numpy lacks (BF16, the kinds of F8) need the package ml_dtypes.
F4 and F6 are in neither: see runai_model_streamer.dlpack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy

from runai_model_streamer._arrays import stream
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.numpy_arrays import Array, check_array, dtype_of
from runai_model_streamer._formats.safetensors.selection import TensorNames
from runai_model_streamer._formats.safetensors.slices import SlicesOf
from runai_model_streamer._native_api import Buffer
from runai_model_streamer._paths import Path
from runai_model_streamer._session import Ownership

__all__ = ["load_file", "stream_files"]


def load_file(filename: Path, s3_credentials: S3Credentials | None = None) -> dict[str, Array]:
    """All tensors of the file or object `filename`, by name, in memory of their own.

    Raises the errors of stream_files().
    """
    # Every array is kept: a view would be copied later anyway.
    made = stream(
        [filename],
        s3_credentials,
        None,
        check_array,
        _array_of,
        dtype_of,
        ownership=Ownership.COPIED,
    )
    return dict(made)


def stream_files(
    paths: Sequence[Path],
    s3_credentials: S3Credentials | None = None,
    tensor_names: TensorNames | None = None,
    slices: SlicesOf[numpy.dtype[numpy.generic]] | None = None,
) -> Iterator[tuple[str, Array]]:
    """(name, array) of the tensors of `paths`, in file order. Reading has begun when it returns.

    `paths`, `s3_credentials`, `tensor_names` and `slices` are those of
    SafetensorsStreamer.stream_files(); a function `slices` gets the dtype of numpy. An iterator
    that is dropped before its end ends the load. One thread at a time.

    Raises:
        StreamerError: a file is missing, can't be read, or is no valid safetensors file.
        RunaiStreamerInvalidInputException: an index of `slices` does not fit its tensor.
        StreamerUnsupportedError: numpy, and ml_dtypes if it is installed, have no such dtype.
            Nothing was read then.
    """
    return stream(paths, s3_credentials, tensor_names, check_array, _array_of, dtype_of, slices)


def _array_of(tensor: SafetensorMetadata, memory: Buffer | None, position: int) -> Array:
    dtype = dtype_of(tensor)
    if memory is None:
        return numpy.empty(tensor.shape, dtype)
    count = (tensor.end - tensor.start) // tensor.get_element_size()
    return numpy.frombuffer(memoryview(memory), dtype, count, position).reshape(tensor.shape)
