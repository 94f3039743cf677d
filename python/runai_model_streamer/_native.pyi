"""Native engine of runai_model_streamer. Use runai_model_streamer._native_api."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

# submission, entry, file, first range, count of ranges, memory, position of each range, error
_Ready = tuple[int, int, int, int, int, Buffer | None, list[int], Exception | None]
# file, offsets, sizes, alignments, destinations (addresses), what owns them
_Entry = tuple[int, Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, Any]
# (kind, container, refresh) -> values, expiry in seconds since the epoch (0: never), identity
_Provider = Callable[[str, str, bool], tuple[dict[str, str], int, str] | None]

_Tensor = TypeVar("_Tensor")

class Buffer:
    """Writable memory that holds ready ranges; alive until the last view dies."""

    view: bool
    """Whether it is the file's own pages."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class Stream:
    """One load. open(), submit() and next() belong to one thread at a time."""

    def __init__(
        self, options: dict[str, Any] = ..., credentials: _Provider | None = None
    ) -> None: ...
    def open(
        self, paths: Sequence[str], prefix_bytes: int = 0
    ) -> list[tuple[int, str, bytes, Exception | None]]:
        """Size, version and first bytes of each file, or its error."""
    def read(self, ranges: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Bytes of (file, offset, size), now."""
    def submit(
        self,
        entries: Sequence[_Entry],
        device_type: int = 0,
        device_ordinal: int = 0,
        device_stream: int = 0,
    ) -> int: ...
    def next(self, timeout_ms: int = -1) -> tuple[list[_Ready], bool]:
        """What is ready, and whether everything submitted was delivered."""
    def deliver(
        self,
        on_ready: Callable[[list[_Ready]], object],
        on_end: Callable[[Exception | None], object],
    ) -> None:
        """Calls back from a thread of its own instead of next(): on_ready with what is ready, and
        once on_end, with None or with what ended it early."""
    def check(self, file: int) -> None:
        """Raises where `file` is not what it was when it was opened, or the stream is closed."""
    def cancel(self) -> None: ...
    def close(self) -> None: ...
    def stats(self) -> dict[str, Any]: ...

sticky_device_hint: str
"""What to do where a GPU can't be used any more."""

def plain_header(
    blob: bytes, data_size: int, bits: Mapping[str, int], type: type[_Tensor]
) -> tuple[list[_Tensor], dict[str, str]] | None:
    """Tensors by place, and metadata, of a common safetensors header; None for any other: one with
    an error, escapes, letters beyond ASCII. `bits` are those of each dtype; `type` makes a tensor's
    description and has the attributes name, shape, dtype, start and end."""

def version() -> str: ...
def shown_path(path: str) -> str: ...
def shown_text(text: str) -> str: ...
def set_error_factory(factory: Callable[[str, str, dict[str, Any]], Exception]) -> None: ...
def settings_table() -> list[dict[str, str]]: ...
def setting(name: str) -> Any: ...
def azure_settings_sign(container: str) -> bool: ...
def list_objects(
    prefix: str,
    recursive: bool = True,
    credentials: _Provider | None = None,
    source: Mapping[str, str] = ...,
) -> list[tuple[str, int]]: ...
def cached_fraction(path: str) -> float:
    """The part of a file that is in the page cache, from 0 to 1."""

def source_kind(path: str) -> str: ...
