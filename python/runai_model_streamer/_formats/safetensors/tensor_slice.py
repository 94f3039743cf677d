"""Parts of a tensor, reading only their bytes. Needs no torch."""

from __future__ import annotations

import operator
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Generic, Protocol, SupportsIndex, TypeVar

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerClosedError,
    of_file,
    shown_path,
)
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata, check_tensors
from runai_model_streamer._formats.safetensors.headers import (
    SafetensorsMetadata,
    check_unchanged,
    make_request,
)
from runai_model_streamer._formats.safetensors.slices import part_of, whole_of
from runai_model_streamer._options import DEFAULTS, StreamOptions
from runai_model_streamer._session import Session
from runai_model_streamer._spans import Along

if TYPE_CHECKING:
    import torch
else:
    from runai_model_streamer._torch import torch

Index = (
    SupportsIndex | slice | EllipsisType | tuple[SupportsIndex | slice | EllipsisType | None, ...]
)

# Bytes that iteration over the rows of a slice reads at once.
_AHEAD = 1 << 20


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
            return  # open files belong to the parent
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def read(
        self, file: SafetensorsMetadata, part: SafetensorMetadata, address: int, owner: object
    ) -> None:
        """Fills the memory at `address`, which `owner` keeps, with `part` of `file`.

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
                _read(self._session, file, part, address, owner)
            except BaseException:
                session, self._session = self._session, None
                session.close()
                raise


def _read(
    session: Session,
    file: SafetensorsMetadata,
    part: SafetensorMetadata,
    address: int,
    owner: object,
) -> None:
    path = file.path
    if path not in session.files:
        session.open([path])
    check_unchanged(session, file)
    request = make_request(0, path, file.offset, [part])
    request.destinations = [address]
    request.keep = owner
    session.submit([request])
    for _ in session.runs():
        pass
    session.stream.check(session.files[path])


T = TypeVar("T")


class Library(Protocol[T]):
    """Makes the tensors of a library, in host memory."""

    def check(self, tensor: SafetensorMetadata, path: str) -> None:
        """Raises if the library has no such tensor; `path` is that of its file."""

    def empty(self, part: SafetensorMetadata, shape: tuple[int, ...]) -> T:
        """Contiguous memory for `part`, which has this `shape` in the library."""

    def address(self, made: T) -> int:
        """The address of the memory that empty() returned."""

    def select(self, made: T, index: tuple[Any, ...]) -> T:
        """The selection of `index` from `made`, for the caller."""

    def row(self, made: T, number: int) -> T:
        """One row of `made`, in memory of its own, for the caller."""


class TorchTensors:
    """A Library: tensors of torch, moved to `device` if there is one."""

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device

    def check(self, tensor: SafetensorMetadata, path: str) -> None:
        check_tensors([tensor], path)

    def empty(self, part: SafetensorMetadata, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.empty(shape, dtype=part.get_torch_dtype(), device="cpu")

    def address(self, made: torch.Tensor) -> int:
        return made.data_ptr()

    def select(self, made: torch.Tensor, index: tuple[Any, ...]) -> torch.Tensor:
        return self._moved(made[index] if index else made)

    def row(self, made: torch.Tensor, number: int) -> torch.Tensor:
        return self._moved(made[number].clone())

    def _moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor if self._device is None else tensor.to(self._device)


class TensorSlice(Generic[T]):
    """One tensor of a file, read on demand: ``slice[2:5]``, ``slice[7]``, ``slice[...]``.

    Only the bytes that numbers and slices select are read, in each dimension; those between two of
    them only if that costs less than another read. Indices of other kinds, and steps, are
    applied to what was read. An index out of range raises IndexError. If the file changed after its
    header was read, reading raises StreamerChangedError.
    """

    def __init__(
        self,
        reader: SliceReader,
        file: SafetensorsMetadata,
        tensor: SafetensorMetadata,
        library: Library[T],
    ) -> None:
        """`library` makes what an index returns. Raises if it has no such tensor."""
        library.check(tensor, file.path)
        self._library = library
        self._reader = reader
        self._file = file
        self._tensor = tensor

    def get_shape(self) -> list[int]:
        return list(self._tensor.get_torch_shape())

    def get_dtype(self) -> str:
        """The name of the dtype in the format: F32, BF16, ..."""
        return self._tensor.dtype

    def __len__(self) -> int:
        return self._leading()

    def __iter__(self) -> Iterator[T]:
        """The rows, read ahead a few at a time: each byte once."""
        rows = self._leading()
        row_bytes = (self._tensor.end - self._tensor.start) // rows if rows else 0
        at_once = max(1, _AHEAD // max(1, row_bytes))
        for start in range(0, rows, at_once):
            made, _ = self._read(slice(start, start + at_once))
            for number in range(min(at_once, rows - start)):
                yield self._library.row(made, number)  # a view would hold the other rows

    def __getitem__(self, index: Index) -> T:
        return self._library.select(*self._read(index))

    def _leading(self) -> int:
        shape = self._tensor.get_torch_shape()
        if not shape:
            raise TypeError(
                f"{shown_path(self._file.path)}: tensor {self._tensor.name!r} has no dimension"
            )
        return shape[0]

    def _read(self, index: Any) -> tuple[T, tuple[Any, ...]]:
        """The part to read for `index`, and the index of the selection in it."""
        try:
            part, rest = _split(self._tensor.name, self._tensor.get_torch_shape(), index)
        except RunaiStreamerInvalidInputException as error:
            raise of_file(error, self._file.path) from None
        except IndexError as error:
            raise IndexError(f"{shown_path(self._file.path)}: {error}") from None
        chosen = part_of(self._tensor, part)
        shape = tuple(along.size for along in part)
        made = self._library.empty(chosen, shape)
        if 0 not in shape:
            self._reader.read(self._file, chosen, self._library.address(made), made)
        return made, rest


def _split(name: str, shape: Sequence[int], index: Any) -> tuple[list[Along], tuple[Any, ...]]:
    """The part of each dimension to read for `index`, and the index of the selection in it."""
    items = list(index) if isinstance(index, tuple) else [index]
    plain = all(_is_plain(item) for item in items)
    if plain and sum(item is Ellipsis for item in items) == 1:
        taken = sum(item is not None and item is not Ellipsis for item in items)
        place = next(number for number, item in enumerate(items) if item is Ellipsis)
        items[place : place + 1] = [slice(None)] * max(0, len(shape) - taken)
    part = whole_of(shape)
    rest: list[Any] = []
    dimension = 0
    for number, item in enumerate(items):
        if item is None:
            rest.append(None)
            continue
        if not (_is_plain(item) or _is_advanced(item)):
            raise RunaiStreamerInvalidInputException(
                f"{type(item).__name__} can't index a tensor: use a number or a slice, for {name!r}"
            )
        if not _is_plain(item) or item is Ellipsis:
            rest += items[number:]  # torch finds its meaning and its dimensions
            break
        if dimension >= len(shape):
            raise IndexError(
                f"tensor {name!r} has {len(shape)} dimensions, the index at least {dimension + 1}"
            )
        size = shape[dimension]
        left: Any = 0
        if isinstance(item, slice):
            part[dimension], left = _of_slice(name, size, item)
        else:
            row = operator.index(item)
            if not -size <= row < size:
                raise IndexError(
                    f"tensor {name!r}: index {row} is out of range for dimension {dimension} with "
                    f"size {size}"
                )
            part[dimension] = Along(row % size, 1)
        rest.append(left)
        dimension += 1
    if all(isinstance(item, slice) and item == slice(None) for item in rest):
        rest = []
    return part, tuple(rest)


def _is_plain(item: Any) -> bool:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return True
    if _is_tensor(item):
        return item.dim() == 0 and not item.is_floating_point() and item.dtype != torch.bool
    if isinstance(item, bool):
        return False  # a mask
    return hasattr(item, "__index__") and not hasattr(item, "__len__")


def _is_advanced(item: Any) -> bool:
    return isinstance(item, list | tuple | bool) or hasattr(item, "__array__") or _is_tensor(item)


def _is_tensor(item: Any) -> bool:
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(item, loaded.Tensor)


def _of_slice(name: str, size: int, item: slice) -> tuple[Along, slice]:
    start, stop, step = item.indices(size)
    if step < 1:
        raise RunaiStreamerInvalidInputException(
            f"tensor {name!r}: a step of {step} is not supported: read the slice and flip it"
        )
    width = max(0, stop - start)
    return Along(start, width), slice(None) if step == 1 else slice(None, None, step)
