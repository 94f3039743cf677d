"""Parts of a tensor, reading only their bytes."""

from __future__ import annotations

import operator
from typing import Any

import torch

from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session, as_bytes


class TensorSlice:
    """One tensor of a file that was not read yet: ``slice[2:5]``, ``slice[7]``, ``slice[...]``.

    The leading dimension is cut before reading; an index of later dimensions is applied to what
    was read. Indices must be known to be valid: out of range raises IndexError, a step other than
    1 on the leading dimension a ValueError.
    """

    def __init__(
        self, path: str, data_start: int, tensor: SafetensorMetadata, credentials: Any
    ) -> None:
        self._path = path
        self._data_start = data_start
        self._tensor = tensor
        self._credentials = credentials

    def get_shape(self) -> list[int]:
        return list(self._tensor.get_torch_shape())

    def get_dtype(self) -> str:
        """The name of the dtype in the format: F32, BF16, ..."""
        return self._tensor.dtype

    def __getitem__(self, index: Any) -> torch.Tensor:
        shape = self._tensor.get_torch_shape()
        parts = index if isinstance(index, tuple) else (index,)
        if not parts or parts[0] is Ellipsis or parts[0] is None:
            return self._read(0, shape[0] if shape else 1, shape)[index]
        if not shape:
            raise IndexError(f"tensor {self._tensor.name!r} has no dimension to index")
        leading, rest = parts[0], parts[1:]
        if isinstance(leading, slice):
            start, stop, step = leading.indices(shape[0])
            if step != 1:
                raise RunaiStreamerInvalidInputException(
                    f"a step of {step} on the leading dimension is not supported: read the slice "
                    "and step over it"
                )
            rows = self._read(start, max(start, stop), (max(0, stop - start), *shape[1:]))
            cut: tuple[Any, ...] = (slice(None), *rest)
            return rows[cut] if rest else rows
        try:
            row = operator.index(leading)
        except TypeError:
            raise RunaiStreamerInvalidInputException(
                f"{type(leading).__name__} can't index the leading dimension: use a number or a "
                "slice"
            ) from None
        if not -shape[0] <= row < shape[0]:
            raise IndexError(f"index {row} is out of range for dimension 0 with size {shape[0]}")
        row %= shape[0]
        one = self._read(row, row + 1, (1, *shape[1:]))[0]
        return one[rest] if rest else one

    def _read(self, start: int, stop: int, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self._tensor
        dtype = tensor.get_torch_dtype()
        full = tensor.get_torch_shape()
        rows = full[0] if full else 1
        row_bytes = (tensor.end - tensor.start) // rows if rows else 0
        size = (stop - start) * row_bytes
        if size == 0:
            return torch.empty(shape, dtype=dtype, device="cpu")
        offset = self._data_start + tensor.start + start * row_bytes
        session = Session([self._path], credentials=self._credentials)
        try:
            request = FileChunks(
                0, self._path, [offset], [size], alignments=[tensor.get_element_size()]
            )
            session.submit([request])
            (run,) = session.runs()
            return as_bytes(run.data)[run.positions[0] :].view(dtype).view(shape)
        finally:
            session.close()
