"""The description of a tensor in the header of a safetensors file. The native module parses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from runai_model_streamer._errors import StreamerUnsupportedError
from runai_model_streamer._formats.safetensors.dtypes import (
    ELEMENT_BYTES,
    TORCH_NAMES,
    torch_dtype,
    torch_shape,
)
from runai_model_streamer._native_api import TensorDescription

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch


_LEAVE_OUT = (
    "To load the others, leave it out: with tensor_names of stream_files(), or with key_map of "
    "load_model()"
)


class Offsets:
    """Bytes [start, end) of the data section."""

    __slots__ = ("end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end

    def get_diff(self) -> int:
        return self.end - self.start


class SafetensorMetadata(TensorDescription):
    """One tensor: name, shape, dtype (the format's name), and [start, end) in the data section."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., SafetensorMetadata], tuple[object, ...]]:
        return SafetensorMetadata, (self.name, self.shape, self.dtype, self.start, self.end)

    def __repr__(self) -> str:
        return f"SafetensorMetadata({self.name!r}, {list(self.shape)}, {self.dtype})"

    @property
    def offsets(self) -> Offsets:
        return Offsets(self.start, self.end)

    def get_bytesize(self) -> int:
        return self.end - self.start

    def get_item_count(self) -> int:
        count = 1
        for dimension in self.shape:
            count *= dimension
        return count

    def get_element_size(self) -> int:
        """Bytes of one element of the torch dtype."""
        return ELEMENT_BYTES[self.dtype]

    def get_torch_dtype(self) -> torch.dtype:
        dtype = torch_dtype(self.dtype)
        if dtype is None:
            raise StreamerUnsupportedError(_unsupported(self), code="unsupported")
        return dtype

    def get_torch_shape(self) -> tuple[int, ...]:
        return torch_shape(self.dtype, self.shape)


def unaligned(tensors: Iterable[SafetensorMetadata], data_offset: int) -> list[SafetensorMetadata]:
    """Those of `tensors` that are not aligned to their elements in a file whose data section begins
    at `data_offset`. They can't be views of it."""
    return [
        tensor for tensor in tensors if (data_offset + tensor.start) % ELEMENT_BYTES[tensor.dtype]
    ]


def check_tensors(tensors: Sequence[SafetensorMetadata], path: str) -> None:
    """Raises if this version of torch has no tensor for one of `tensors` of the file at `path`."""
    for tensor in {tensor.dtype: tensor for tensor in tensors}.values():
        if torch_dtype(tensor.dtype) is None:
            raise StreamerUnsupportedError(
                f"{path}: {_unsupported(tensor)}",
                code="unsupported",
                path=path,
            )
        if tensor.dtype == "F4":
            _check_pairs(tensors, path)


def _unsupported(tensor: SafetensorMetadata) -> str:
    text = f"Unsupported dtype '{tensor.dtype}' of tensor '{tensor.name}'"
    name = TORCH_NAMES.get(tensor.dtype)
    if name is None:
        return f"{text}: torch has no such dtype. {_LEAVE_OUT}"
    return (
        f"{text}: torch {torch.version.__version__} has no {name}. "
        f"Install a newer torch. {_LEAVE_OUT}"
    )


def _check_pairs(tensors: Sequence[SafetensorMetadata], path: str) -> None:
    for tensor in tensors:
        if tensor.dtype == "F4" and (not tensor.shape or tensor.shape[-1] % 2 != 0):
            raise StreamerUnsupportedError(
                f"{path}: tensor '{tensor.name}' of F4 has the shape {list(tensor.shape)}: torch "
                f"holds pairs of F4, so that its last dimension must be even. {_LEAVE_OUT}",
                code="unsupported",
                path=path,
            )
