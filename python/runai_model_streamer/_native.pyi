"""Native engine of runai_model_streamer. Use runai_model_streamer._native_api."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

# (kind, container, refresh) -> values, expiry in seconds since the epoch (0: never), identity
_Provider = Callable[[str, str, bool], tuple[dict[str, str], int, str] | None]

# (path, the attempt that failed, seconds until the next one, the reason); called on the thread
# that waits for the engine
_Retried = Callable[[str, int, float, Exception], object]

_Tensor = TypeVar("_Tensor", bound=TensorDescription)

class Buffer:
    """Writable memory that holds ranges; alive until its last view is dropped."""

    view: bool
    """True if it is the file's own pages."""

    positions: list[int]
    """The start of each range, in bytes."""

    @staticmethod
    def allocate(sizes: Sequence[int]) -> Buffer:
        """Memory for ranges of `sizes` bytes, each aligned to 64 bytes."""
    def put(self, start: int, address: int, size: int) -> None:
        """Copies `size` bytes at `address` to their place: `start` is the sum of the sizes of all
        bytes before them, in the order of the ranges."""

    def __buffer__(self, flags: int, /) -> memoryview: ...

class TensorFactory:
    """Makes tensors over Buffers. Each has a storage of its own, exactly as large as the tensor."""

    def __init__(
        self,
        take: Callable[[Any], Any],
        make_empty: Callable[[str, tuple[int, ...]], Any] | None,
    ) -> None:
        """`take` makes a tensor of a DLPack capsule; `make_empty` one without elements, of the name
        of a type and a shape. Without `make_empty`, `take` makes those, too."""
    def add_type(
        self,
        name: str,
        code: int,
        bits: int,
        lanes: int,
        packed: int,
        convert: Callable[[Any, tuple[int, ...]], Any] | None = None,
    ) -> None:
        """`code`, `bits` and `lanes` as DLPack defines them; `packed` elements of the last
        dimension of a shape are one element of torch. If there is `convert`, `take` gets flat
        bytes, and `convert` makes the tensor of them and of the shape."""
    def tensor(self, buffer: Buffer, position: int, type: str, shape: tuple[int, ...]) -> Any:
        """The tensor whose bytes start at `position` of `buffer`."""
    def tensors(self, buffer: Buffer, descriptions: list[Any], first: int) -> list[tuple[str, Any]]:
        """Name and tensor of each range of `buffer`, the last one first. The ranges are described
        by `descriptions`, from `first` on: their attributes are name, dtype and shape."""

class DeviceType:
    """The kind of memory that ranges are written to."""

    HOST: DeviceType
    CUDA: DeviceType

class Ownership:
    """The kind of memory of ranges without a destination: streamer::Ownership."""

    OWNED: Ownership
    """Views of a file only until the stream is done with it."""
    SHARED: Ownership
    """Views of a file for as long as they are held."""
    COPIED: Ownership
    """Never a view."""

class MemoryLimit:
    """The most bytes that an engine holds: streamer::MemoryLimit."""

    setting: int | None
    """As RUNAI_STREAMER_MEMORY_LIMIT: -1 unlimited, 0 the least; None: automatic."""
    initial: int
    """The limit in bytes before any block is known: 0 if the engine raises it."""

    @staticmethod
    def automatic() -> MemoryLimit: ...
    @staticmethod
    def unlimited() -> MemoryLimit: ...
    @staticmethod
    def least() -> MemoryLimit: ...
    @staticmethod
    def bytes(bytes: int) -> MemoryLimit: ...
    @staticmethod
    def from_setting(value: int | None) -> MemoryLimit:
        """Raises RunaiStreamerInvalidInputException for a negative number other than -1."""
    def share(self, processes: int) -> MemoryLimit:
        """The share of one of `processes` that divide the limit. Only bytes are divided."""

class FileRanges:
    """Ranges of one file, in bytes. Alignments default to 1. Without destinations (addresses) the
    engine provides the memory; `keep` owns them."""

    def __init__(
        self,
        file: int,
        offsets: Sequence[int],
        sizes: Sequence[int],
        alignments: Sequence[int] | None = None,
        destinations: Sequence[int] | None = None,
        keep: object = None,
        strides: Mapping[int, tuple[int, Sequence[tuple[int, int]]]] = ...,
    ) -> None:
        """`strides` of ranges, by their index: consecutive bytes, and the count and the stride of
        each level, the outermost first."""

class OpenedFile:
    """A file that was opened, or its error."""

    size: int
    """Of the file, in bytes."""
    version: str
    prefix: bytes
    """Its first bytes."""
    error: Exception | None

class Ready:
    """Consecutive ranges that are ready together, or their error."""

    submission: int
    """The number that submit() returned."""
    entry: int
    """The index of their FileRanges in the submission."""
    file: int
    first_range: int
    """The index of the first range in its FileRanges."""
    count: int
    memory: Buffer | None
    """Holds them all. None if they have destinations, or no bytes."""
    positions: list[int]
    """Of each range in the memory, in bytes."""
    error: Exception | None

class Stream:
    """One load. Thread-safe, except that one thread at a time may call next()."""

    def __init__(
        self,
        options: dict[str, Any] = ...,
        credentials: _Provider | None = None,
        retried: _Retried | None = None,
    ) -> None: ...
    def open_begin(
        self, paths: Sequence[str | bytes], prefix_bytes: int = 0, versions: Sequence[str] = ...
    ) -> int:
        """Begins to open each file. Returns the number of the first one."""
    def opened(self, first: int) -> list[OpenedFile]:
        """Waits for the file `first`, the next one in order. Returns it and the files behind it
        that are open by now. OpenedFile.error is the failure of one."""
    def read_begin(self, ranges: Sequence[FileRanges]) -> int:
        """Begins to read each range, whatever its destination. Returns a number for read_next()."""
    def read_next(self, reading: int) -> bytes:
        """Waits for the bytes of the next range of that number."""
    def submit(
        self,
        wanted: Sequence[FileRanges],
        device_type: DeviceType = ...,
        device_ordinal: int = 0,
        device_stream: int = 0,
        ownership: Ownership = ...,
    ) -> int:
        """Adds ranges, in this order. Returns the number of the submission. `ownership` is of all
        ranges."""
    def next(self, timeout_ms: int = -1) -> tuple[list[Ready], bool]:
        """The ready ranges, and whether everything submitted was delivered."""
    def check(self, file: int) -> None:
        """Raises if `file` was changed since it was opened, or the stream is closed."""
    def checker(self, file: int) -> Callable[[], None]:
        """check() of `file`."""
    def cancel(self) -> None: ...
    def close(self) -> None:
        """Closes the stream. Then raises if its views could not be detached from their files."""
    def stats(self) -> dict[str, Any]: ...

sticky_device_hint: str
"""The remedy for a GPU that can no longer be used."""
OBJECT_WINDOW: int
"""The first value of the automatic memory limit of objects, in bytes."""
DEVICE_AHEAD: int
"""Bytes of device memory ahead of the consumer."""
ROUND_OF_RANK: int
"""Bytes that ranks exchange in one round for each rank, in host memory; at most ROUND."""
ROUND: int
DEVICE_ROUND_OF_RANK: int
"""The same in device memory; at most DEVICE_ROUND."""
DEVICE_ROUND: int
SMALL_RANGE: int
"""Bytes: ranges that are smaller share blocks."""
GROUP_BYTES: int
"""The most bytes of a block that ranges share."""

class TensorDescription:
    """A tensor of a file. Its attributes do not change."""

    def __init__(
        self, name: str, shape: Iterable[int], dtype: str, start: int, end: int
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """As the file has it."""
    @property
    def dtype(self) -> str:
        """The name of its type in the format, for example ``BF16``."""
    @property
    def start(self) -> int:
        """The position of its first byte in the data section."""
    @property
    def end(self) -> int:
        """The position behind its last byte."""

class SafetensorsHeader(Generic[_Tensor]):
    """The header of a safetensors file."""

    data_offset: int
    """Of the data section in the file, in bytes."""
    tensors: list[_Tensor]
    """In the order of their place."""
    metadata: dict[str, str]

safetensors_dtype_bits: dict[str, int]
"""Bits of one element of each type that the format defines."""

def safetensors_header_end(first_bytes: bytes, path: str, file_size: int) -> int:
    """The end of the header of a file of `file_size` bytes, from its first 8 bytes or more.

    Raises SafetensorsHeaderError, or StreamerShortReadError if the file ends before that."""

def safetensors_header(
    first_bytes: bytes, path: str, file_size: int, type: type[_Tensor]
) -> SafetensorsHeader[_Tensor]:
    """The header of a file; `first_bytes` are at least those of the header. `type` describes a
    tensor; a subclass of TensorDescription has no attributes of its own.

    Raises SafetensorsHeaderError, or StreamerShortReadError if bytes are missing at the end."""

def version() -> str: ...
def shown_path(path: str) -> str: ...
def shown_text(text: str) -> str: ...
def shown_access_key(access_key: str) -> str: ...
def set_error_factory(factory: Callable[[str, str, dict[str, Any]], Exception]) -> None: ...
def settings_table() -> list[dict[str, str]]: ...
def setting(name: str) -> Any: ...
def settings_sign(kind: str, container: str) -> bool: ...
def list_objects(
    prefix: str | bytes,
    recursive: bool = True,
    credentials: _Provider | None = None,
    source: Mapping[str, str] = ...,
    retried: _Retried | None = None,
) -> list[tuple[str, int, str]]:
    """Path, size and version of each object."""

def list_digests(
    prefix: str | bytes,
    recursive: bool = True,
    credentials: _Provider | None = None,
    source: Mapping[str, str] = ...,
) -> dict[str, str]:
    """The SHA-256 of the objects, by path, if the list contains it (hf://)."""

def find_access(
    path: str | bytes, credentials: _Provider | None = None, source: Mapping[str, str] = ...
) -> dict[str, Any]:
    """The endpoint, proxy and identity of requests for the object or directory at `path`:
    streamer::Access. Requests only credentials. `credentials` is None, or the error of finding
    some."""

def cached_fraction(path: str | bytes) -> float:
    """The part of a file that is in the page cache, from 0 to 1."""

def source_kind(path: str | bytes) -> str: ...
def object_key(path: str) -> str: ...
def is_url(path: str | bytes) -> bool: ...
def lists_digests(path: str | bytes) -> bool: ...
def has_regions(path: str | bytes) -> bool: ...
def at_version(path: str | bytes, version: str) -> str: ...
