"""The header of a safetensors file: parsed, and checked before a byte of data is trusted.

Format: 8 bytes, the length N of the header, little-endian; N bytes of JSON that name each tensor's
dtype, shape and place; then the tensors' bytes, without gaps.
Source: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from runai_model_streamer._errors import (
    SafetensorsHeaderError,
    StreamerError,
    StreamerShortReadError,
)
from runai_model_streamer._formats.safetensors.dtypes import (
    BITS,
    ELEMENT_BYTES,
    safetensors_to_torch_dtype,
    torch_shape,
)
from runai_model_streamer._gc import collection_paused
from runai_model_streamer._native_api import plain_header

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
_MAX_COUNT = (1 << 64) - 1


class Offsets:
    """Bytes [start, end) of the data section."""

    __slots__ = ("end", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end

    def get_diff(self) -> int:
        return self.end - self.start


class SafetensorMetadata:
    """One tensor: name, shape, dtype (the format's name), and place in the data section."""

    __slots__ = ("dtype", "end", "name", "shape", "start")

    def __init__(self, name: str, shape: Iterable[int], dtype: str, start: int, end: int) -> None:
        self.name = name
        self.shape = tuple(shape)
        self.dtype = dtype
        self.start = start
        self.end = end

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

    def get_torch_dtype(self) -> Any:
        dtype = safetensors_to_torch_dtype.get(self.dtype)
        if dtype is None:
            raise StreamerError(f"Unsupported dtype '{self.dtype}' of tensor '{self.name}'")
        return dtype

    def get_torch_shape(self) -> tuple[int, ...]:
        return torch_shape(self.dtype, self.shape)


def header_length(first_bytes: bytes, path: str, file_size: int) -> int:
    """N of a file of `file_size` bytes, from its first bytes."""
    if file_size < LENGTH_BYTES or len(first_bytes) < LENGTH_BYTES:
        raise StreamerShortReadError(
            f"{path}: the file is truncated: {file_size} bytes do not hold the length of a "
            "safetensors header. Download or copy the file again",
            code="short_read",
            path=path,
        )
    length = int.from_bytes(first_bytes[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise SafetensorsHeaderError(
            f"{path}: header length {length} exceeds limit of {MAX_HEADER_BYTES} bytes: this is "
            "not a safetensors file",
            path=path,
        )
    if LENGTH_BYTES + length > file_size:
        raise StreamerShortReadError(
            f"{path}: the file is truncated: its header has {length} bytes, the file {file_size}. "
            "Download or copy the file again",
            code="short_read",
            path=path,
        )
    return length


def parse_header(
    blob: bytes, path: str, data_size: int
) -> tuple[list[SafetensorMetadata], dict[str, str]]:
    """The tensors in order of their place, and ``__metadata__``.

    `blob` is the JSON, `data_size` the number of bytes behind it. Raises SafetensorsHeaderError,
    or StreamerShortReadError where bytes are missing at the end.
    """
    with collection_paused():
        plain = plain_header(blob, data_size, BITS, SafetensorMetadata)
        return parse_any_header(blob, path, data_size) if plain is None else plain


def parse_any_header(
    blob: bytes, path: str, data_size: int
) -> tuple[list[SafetensorMetadata], dict[str, str]]:
    """parse_header() of any header, also where something is uncommon or wrong."""

    def fail(message: str) -> NoReturn:
        raise SafetensorsHeaderError(f"{path}: {message}", path=path)

    try:
        text = blob.decode("utf-8")
    except UnicodeDecodeError as error:
        fail(f"the header is not valid UTF-8 (byte {error.start})")
    header = _parse_json(text, fail)
    metadata = _check_metadata(header.pop("__metadata__", None), fail)
    tensors = [_check_tensor(name, info, fail) for name, info in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _check_layout(tensors, path, data_size, fail)
    return tensors, metadata


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"duplicate name {name!r}")
            seen.add(name)
    return result


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _strict_integer(digits: str) -> int | float:
    # "-0" is a floating point number to the format's own implementation.
    return -0.0 if digits == "-0" else int(digits)


def _parse_json(text: str, fail: Any) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if "-0" in text:
        options["parse_int"] = _strict_integer
    try:
        header = json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, **options
        )
        if "\\u" in text:
            json.dumps(header, ensure_ascii=False).encode("utf-8")  # lone surrogates
    except (ValueError, RecursionError) as error:
        fail(f"the header is not valid JSON: {error}")
    if not isinstance(header, dict):
        fail("the header is not valid JSON of the format: not an object")
    return header


def _check_metadata(value: Any, fail: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        fail("__metadata__ is not a map of text to text")
    return value


def _check_tensor(name: str, info: Any, fail: Any) -> SafetensorMetadata:
    if not isinstance(info, dict):
        fail(f"tensor '{name}' is not described by an object")
    try:
        dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    except KeyError as error:
        fail(f"tensor '{name}' has no {error.args[0]}")
    if not isinstance(dtype, str) or dtype not in BITS:
        fail(f"Unsupported dtype '{dtype}' of tensor '{name}'")
    if type(shape) is not list or type(offsets) is not list or len(offsets) != 2:
        fail(f"tensor '{name}': shape and data_offsets must be lists, data_offsets of 2 numbers")
    count = 1
    for number in shape:
        if type(number) is not int or not 0 <= number <= _MAX_COUNT:
            fail(f"tensor '{name}': {number!r} in its shape is not a count")
        count *= number
        if count > _MAX_COUNT:
            fail(f"tensor '{name}': the product of its shape overflows")
    start, end = offsets
    for number in offsets:
        if type(number) is not int or not 0 <= number <= _MAX_COUNT:
            fail(f"tensor '{name}': {number!r} in data_offsets is not an offset")
    if end < start:
        fail(f"tensor '{name}': data_offsets [{start}, {end}] are reversed")
    bits = count * BITS[dtype]
    if bits > _MAX_COUNT:
        fail(f"tensor '{name}': the size of its shape overflows")
    if bits % 8 != 0:
        fail(f"tensor '{name}': {count} elements of {dtype} do not fill whole bytes")
    if bits // 8 != end - start:
        fail(
            f"tensor '{name}': Shape claims {bits // 8} bytes ({shape} of {dtype}) but offsets "
            f"reserve {end - start}"
        )
    return SafetensorMetadata(name, shape, dtype, start, end)


def _check_layout(tensors: list[SafetensorMetadata], path: str, data_size: int, fail: Any) -> None:
    if tensors and tensors[0].start != 0:
        fail(
            f"tensor '{tensors[0].name}' does not start at the beginning of the data: its offset "
            f"is {tensors[0].start}"
        )
    for last, tensor in itertools.pairwise(tensors):
        if tensor.start < last.end:
            fail(f"tensor '{last.name}' overlaps with next tensor '{tensor.name}'")
        if tensor.start > last.end:
            fail(
                f"Gaps between tensors are not allowed: {tensor.start - last.end} bytes between "
                f"'{last.name}' and '{tensor.name}'"
            )
    end = tensors[-1].end if tensors else 0
    if data_size < end:
        raise StreamerShortReadError(
            f"{path}: the file is truncated: its header describes {end} bytes of data, it has "
            f"{data_size}. Download or copy the file again",
            code="short_read",
            path=path,
        )
    if data_size > end:
        fail(f"the file has {data_size - end} extra trailing bytes behind its last tensor")
