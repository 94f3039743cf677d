"""Tensors of safetensors files for every framework that takes DLPack. Needs no torch.

>>> from runai_model_streamer.dlpack import stream_files
>>> for name, tensor in stream_files(["model.safetensors"]):
...     array = jax.dlpack.from_dlpack(tensor)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from runai_model_streamer._arrays import stream
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device.dlpack_types import DLPACK_TYPES
from runai_model_streamer._errors import StreamerUnsupportedError
from runai_model_streamer._formats.safetensors.dtypes import TORCH_NAMES
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.selection import TensorNames
from runai_model_streamer._formats.safetensors.slices import SlicesOf
from runai_model_streamer._native_api import Buffer, TensorFactory
from runai_model_streamer._paths import Path

if TYPE_CHECKING:
    from typing_extensions import CapsuleType
else:
    CapsuleType = object  # Python has no name for it before 3.13

__all__ = ["HostTensor", "stream_files"]

_CPU = (1, 0)


class HostTensor:
    """A tensor in host memory that numpy, jax, torch and others can take: ``from_dlpack(tensor)``.

    ``name``, ``shape`` and ``dtype`` (BF16, F8_E4M3, ...) are those of the file. The memory is the
    caller's: it stays valid for as long as this object or an array that was made of it is held.
    Arrays that were made of one object share it. The strides are those of a contiguous tensor.
    """

    __slots__ = ("_memory", "_position", "dtype", "name", "shape")

    def __init__(self, tensor: SafetensorMetadata, memory: Buffer | None, position: int) -> None:
        """`memory` has the bytes of `tensor` from `position` on; None: there are none."""
        self.name = tensor.name
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        self._memory = Buffer.allocate([0]) if memory is None else memory
        self._position = position

    def __dlpack__(
        self,
        *,
        stream: None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> CapsuleType:
        """A capsule of the tensor, without a version, as every version of the protocol takes it.

        Raises BufferError for another device than the host, and for a copy.
        """
        if stream is not None or dl_device not in (None, _CPU):
            raise BufferError(f"{self.name}: the tensor is in host memory, which has no stream")
        if copy:
            raise BufferError(f"{self.name}: only the framework that takes the tensor can copy it")
        capsule: CapsuleType = _factory().tensor(
            self._memory, self._position, self.dtype, self.shape
        )
        return capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU

    def __repr__(self) -> str:
        return f"<HostTensor: {self.name!r}, {self.dtype}, {list(self.shape)}>"


def stream_files(
    paths: Sequence[Path],
    s3_credentials: S3Credentials | None = None,
    tensor_names: TensorNames | None = None,
    slices: SlicesOf[str] | None = None,
) -> Iterator[tuple[str, HostTensor]]:
    """(name, tensor) of the tensors of `paths`, in file order. Reading has begun when it returns.

    `paths`, `s3_credentials`, `tensor_names` and `slices` are those of
    SafetensorsStreamer.stream_files(); a function `slices` gets the name of the dtype in the file.
    An iterator that is dropped before its end ends the load. One thread at a time.

    Raises:
        StreamerError: a file is missing, can't be read, or is no valid safetensors file.
        RunaiStreamerInvalidInputException: an index of `slices` does not fit its tensor.
        StreamerUnsupportedError: DLPack has no type for such elements. Nothing was read then.
    """
    return stream(
        paths,
        s3_credentials,
        tensor_names,
        _check,
        HostTensor,
        lambda tensor: tensor.dtype,
        slices,
    )


def _check(tensor: SafetensorMetadata, path: str) -> None:
    if TORCH_NAMES.get(tensor.dtype) not in DLPACK_TYPES:
        raise StreamerUnsupportedError(
            f"{path}: DLPack has no {tensor.dtype}, the dtype of tensor '{tensor.name}'",
            code="unsupported",
            path=path,
        )


@functools.cache
def _factory() -> TensorFactory:
    factory = TensorFactory(lambda capsule: capsule, None)
    for name, common in TORCH_NAMES.items():
        factory.add_type(name, *DLPACK_TYPES[common], 2 if name == "F4" else 1)
    return factory
