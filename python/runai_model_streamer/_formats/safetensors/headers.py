"""Reading the headers of files, and the requests for their tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._errors import StreamerChangedError
from runai_model_streamer._formats.safetensors.dtypes import ELEMENT_BYTES
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.slices import TensorPart
from runai_model_streamer._gc import collection_paused
from runai_model_streamer._native_api import safetensors_header, safetensors_header_end
from runai_model_streamer._paths import Path, to_text
from runai_model_streamer._prefixes import Prefix, PrefixEnd, read_prefixes
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session

if TYPE_CHECKING:
    from runai_model_streamer._file_streamer import ByteStreamer
    from runai_model_streamer._reader import Reader

# Most headers fit into the first read of a file. A new connection sends as much in two round trips,
# and 256 KiB in five.
_FIRST_BYTES = 32 << 10


class SafetensorsMetadata:
    """The header of one file.

    ``offset`` is the position of its data section, in bytes; ``tensors_metadata`` its tensors in
    the order of their offsets; ``read_sizes`` their sizes in bytes; ``metadata`` its
    ``__metadata__``. ``size`` (bytes) and ``version`` identify the file that was read.
    """

    def __init__(
        self,
        tensors: list[SafetensorMetadata],
        offset: int,
        metadata: dict[str, str] | None = None,
        path: str = "",
        size: int = 0,
        version: str = "",
        head: bytes = b"",
    ) -> None:
        self.offset = offset
        self.tensors_metadata = tensors
        self.metadata = metadata or {}
        self.path = path
        self.size = size
        self.version = version
        self.head = head
        """The bytes before the data section, if they were asked for."""

    @property
    def read_sizes(self) -> list[int]:
        return [tensor.end - tensor.start for tensor in self.tensors_metadata]

    @staticmethod
    def from_files(
        file_streamer: ByteStreamer,
        filenames: Sequence[Path],
        credentials: S3Credentials | None = None,
    ) -> list[SafetensorsMetadata]:
        """Reads and checks the headers of `filenames`, concurrently, in one request each if they
        are small. The files stay open in `file_streamer` for the stream_files() that follows.

        Other ranks take no part, also if the last load of `file_streamer` was shared.
        """
        reader = file_streamer.open_local(credentials)
        return list(read_headers(reader, [to_text(name) for name in filenames]))


def read_headers(
    reader: Reader, paths: Sequence[str], keep_heads: bool = False
) -> Iterator[SafetensorsMetadata]:
    """The headers of `paths`, which may be equal, in this order.

    The iterator reads many at a time, parses them one by one, and raises the error of a wrong one.
    `keep_heads` keeps the bytes of each header.
    """
    return _headers(reader.read_prefixes, paths, keep_heads)


def read_headers_in(session: Session, paths: Sequence[str]) -> Iterator[SafetensorsMetadata]:
    """read_headers() in a session of this process alone."""
    return _headers(partial(read_prefixes, session, soon=True), paths, False)


class _ReadPrefixes(Protocol):
    def __call__(
        self, paths: Sequence[str], first_bytes: int, end_of: PrefixEnd
    ) -> Iterator[Prefix]: ...


def _headers(
    read: _ReadPrefixes, paths: Sequence[str], keep_heads: bool
) -> Iterator[SafetensorsMetadata]:
    different = list(dict.fromkeys(paths))
    found = read(different, _FIRST_BYTES, safetensors_header_end) if different else iter(())
    return _parsed(paths, found, keep_heads)


def _parsed(
    paths: Sequence[str], prefixes: Iterator[Prefix], keep_heads: bool
) -> Iterator[SafetensorsMetadata]:
    parsed: dict[str, SafetensorsMetadata] = {}
    for path in paths:
        if path not in parsed:
            parsed[path] = _parse(next(prefixes), keep_heads)
        yield parsed[path]


def _parse(prefix: Prefix, keep_head: bool) -> SafetensorsMetadata:
    with collection_paused():
        header = safetensors_header(prefix.data, prefix.path, prefix.size, SafetensorMetadata)
    return SafetensorsMetadata(
        header.tensors,
        header.data_offset,
        header.metadata,
        prefix.path,
        prefix.size,
        prefix.version,
        prefix.data[: header.data_offset] if keep_head else b"",
    )


def check_unchanged(session: Session, file: SafetensorsMetadata) -> None:
    """Raises StreamerChangedError if `session` opened another version of `file`."""
    size, version = session.sizes[file.path], session.versions[file.path]
    if size != file.size or (file.version and version != file.version):
        raise StreamerChangedError(
            f"{file.path}: the file changed after its header was read: it had {file.size} bytes, "
            f"{file.version!r}, now it has {size}, {version!r}",
            code="changed",
            path=file.path,
        )


class _HasFileStreamer(Protocol):
    @property
    def file_streamer(self) -> ByteStreamer: ...


def prepare_request(
    streamer: _HasFileStreamer | ByteStreamer,
    paths: Sequence[Path],
    s3_credentials: S3Credentials | None = None,
) -> list[tuple[int, list[SafetensorMetadata], list[int]]]:
    """(position of the data section, tensors, their sizes in bytes) of each file.

    `streamer` is a streamer of this package; see SafetensorsMetadata.from_files().
    """
    file_streamer = cast("ByteStreamer", getattr(streamer, "file_streamer", streamer))
    return [
        (file.offset, file.tensors_metadata, file.read_sizes)
        for file in SafetensorsMetadata.from_files(file_streamer, paths, s3_credentials)
    ]


def make_request(
    request_id: int, path: str, data_start: int, tensors: Sequence[SafetensorMetadata]
) -> FileChunks:
    """The request for `tensors` of the file at `path`."""
    # Few sizes are different: a model of 200,000 tensors has that many numbers less.
    same = dict[int, int]().setdefault
    sizes = [same(size := tensor.end - tensor.start, size) for tensor in tensors]
    offsets = [data_start + tensor.start for tensor in tensors]
    alignments = [ELEMENT_BYTES[tensor.dtype] for tensor in tensors]
    strides = None
    if TensorPart in set(map(type, tensors)):
        strides = {
            index: tensor.strides
            for index, tensor in enumerate(tensors)
            if type(tensor) is TensorPart and tensor.strides is not None
        }
    request = FileChunks(request_id, path, offsets, sizes, alignments=alignments, strides=strides)
    request.describe = lambda index: (
        tensors[index].get_torch_shape(),
        tensors[index].get_torch_dtype(),
    )
    return request
