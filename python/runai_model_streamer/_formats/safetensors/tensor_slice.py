"""Parts of a tensor, reading only their bytes."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable
from types import EllipsisType
from typing import Any, Generic, SupportsIndex, TypeVar

import torch

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerChangedError,
    StreamerClosedError,
)
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.headers import SafetensorsMetadata
from runai_model_streamer._options import DEFAULTS, StreamOptions
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session

Index = (
    SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType | None, ...]
)


class SliceReader:
    """Reads ranges of files whose headers are known. Slices share it, and its open files.

    Thread-safe, and usable in a forked process: that opens the files again.
    """

    def __init__(
        self, credentials: S3Credentials | None = None, options: StreamOptions = DEFAULTS
    ) -> None:
        self._credentials = credentials
        self._options = options
        self._process = 0
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._closed = False

    def take(self, session: Session) -> None:
        """Reads by `session`, whose files are open, from now on. The reader closes it."""
        self._process, self._session = os.getpid(), session

    def close(self) -> None:
        """Closes the files. Slices can't be read any more."""
        self._closed = True
        if self._process != os.getpid():
            return  # what is open belongs to the parent
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def read(self, file: SafetensorsMetadata, offset: int, tensor: torch.Tensor) -> None:
        """Fills `tensor`, which is contiguous, with the bytes from `offset` of `file` on.

        Raises StreamerChangedError if the file is not the one whose header was read.
        """
        if self._process != os.getpid():
            self._process, self._lock, self._session = os.getpid(), threading.Lock(), None
        with self._lock:
            if self._closed:
                raise StreamerClosedError("the files were closed: open them again")
            if self._session is None:
                self._session = Session(
                    [file.path],
                    credentials=self._credentials,
                    options=self._options.to_native(),
                )
            try:
                _read(self._session, file, offset, tensor)
            except BaseException:
                session, self._session = self._session, None
                session.close()
                raise


def _read(session: Session, file: SafetensorsMetadata, offset: int, tensor: torch.Tensor) -> None:
    path = file.path
    if path not in session.files:
        session.open([path])
    size, version = session.sizes[path], session.versions[path]
    if size != file.size or (file.version and version != file.version):
        raise StreamerChangedError(
            f"{path}: the file changed after its header was read: it had {file.size} bytes, "
            f"{file.version!r}, now it has {size}, {version!r}",
            code="changed",
            path=path,
        )
    request = FileChunks(
        0, path, [offset], [tensor.nbytes], destinations=[tensor.data_ptr()], keep=tensor
    )
    session.submit([request])
    for _ in session.runs():
        pass
    session.stream.check(session.files[path])


T = TypeVar("T")


class TensorSlice(Generic[T]):
    """One tensor of a file, read on demand: ``slice[2:5]``, ``slice[7]``, ``slice[...]``.

    An index of the leading dimension limits the bytes that are read; an index of later dimensions
    is applied to the result. An index out of range raises IndexError, a step other than 1 on the
    leading dimension ValueError. If the file changed after its header was read, reading raises
    StreamerChangedError.
    """

    def __init__(
        self,
        reader: SliceReader,
        file: SafetensorsMetadata,
        tensor: SafetensorMetadata,
        convert: Callable[[torch.Tensor], T],
    ) -> None:
        """`convert` makes what an index returns."""
        self._convert = convert
        self._reader = reader
        self._file = file
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.get_torch_shape())

    def get_dtype(self) -> str:
        """The name of the dtype in the format: F32, BF16, ..."""
        return self._tensor.dtype

    def __getitem__(self, index: Index) -> T:
        return self._convert(self._at(index))

    def _at(self, index: Any) -> torch.Tensor:
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
        made = torch.empty(shape, dtype=dtype, device="cpu")
        if made.numel() > 0:
            offset = self._file.offset + tensor.start + start * row_bytes
            self._reader.read(self._file, offset, made)
        return made
