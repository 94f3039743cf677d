"""Tensors of files in host memory, without torch."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.headers import (
    SafetensorsMetadata,
    make_request,
    read_headers_in,
)
from runai_model_streamer._formats.safetensors.selection import TensorNames, select
from runai_model_streamer._formats.safetensors.slices import SlicesOf, take_slices
from runai_model_streamer._native_api import Buffer
from runai_model_streamer._paths import Path, to_texts
from runai_model_streamer._session import Ownership, Run, Session

T = TypeVar("T")
Make = Callable[[SafetensorMetadata, Buffer | None, int], T]
"""(tensor, memory, position of its first byte) -> the array. The memory is None without bytes."""


def stream(
    paths: Sequence[Path],
    credentials: S3Credentials | None,
    tensor_names: TensorNames | None,
    check: Callable[[SafetensorMetadata, str], None],
    make: Make[T],
    dtype_of: Callable[[SafetensorMetadata], object],
    slices: SlicesOf[Any] | None = None,
    ownership: Ownership = Ownership.OWNED,
) -> Iterator[tuple[str, T]]:
    """(name, what `make` returns) of the wanted tensors of `paths`, in file order.

    Reading has begun when this returns. `check` raises for a tensor, of the file at a path, that
    can't be made. If `slices` is a function, it gets the dtype as `dtype_of` gives it. Closing the
    iterator ends the load; memory of tensors stays valid.
    """
    names = to_texts(paths)
    session = Session(names, credentials=credentials)
    try:
        session.ownership = ownership
        chosen = _checked(select(read_headers_in(session, names), tensor_names), check)
        if slices is not None:  # every index is checked before a byte of data is read
            pairs = list(chosen)
            places = [file.path for file, _ in pairs]
            parts = take_slices([tensors for _, tensors in pairs], places, slices, dtype_of)
            chosen = zip((file for file, _ in pairs), parts, strict=True)
        wanted = []
        for index, (file, tensors) in enumerate(chosen):
            wanted.append(tensors)
            # The first file is read while the next header is parsed.
            session.submit([make_request(index, file.path, file.offset, tensors)])
    except BaseException:
        session.close()
        raise
    return _made(session, wanted, make)


def _checked(
    chosen: Iterable[tuple[SafetensorsMetadata, list[SafetensorMetadata]]],
    check: Callable[[SafetensorMetadata, str], None],
) -> Iterator[tuple[SafetensorsMetadata, list[SafetensorMetadata]]]:
    for file, tensors in chosen:
        for tensor in {tensor.dtype: tensor for tensor in tensors}.values():
            check(tensor, file.path)
        yield file, tensors


def _made(
    session: Session, wanted: Sequence[list[SafetensorMetadata]], make: Make[T]
) -> Generator[tuple[str, T], None, None]:
    try:
        for run in session.runs():
            made = _made_of(run, wanted[run.request_id], make)
            del run  # no frame holds memory that was yielded
            yield from made
    finally:
        session.close()


def _made_of(
    run: Run, tensors: Sequence[SafetensorMetadata], make: Make[T]
) -> Generator[tuple[str, T], None, None]:
    assert not isinstance(run.data, list)
    ranges = range(run.first, run.first + run.count)
    positions = run.positions if run.data is not None else [0] * run.count
    pairs = [
        (tensors[index].name, make(tensors[index], run.data, position))
        for index, position in zip(ranges, positions, strict=True)
    ][::-1]
    check = run.check
    del run
    while pairs:
        if check is not None:
            check()
        yield pairs.pop()
