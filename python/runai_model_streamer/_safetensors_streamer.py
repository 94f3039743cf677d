"""Safetensors files, streamed as tensors."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType

import torch
from typing_extensions import Self  # of torch's own needs

from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device import registry
from runai_model_streamer._distributed.streamer import DistributedStreamer, Group
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerChangedError,
    StreamerError,
    shown_path,
)
from runai_model_streamer._formats.safetensors.header import (
    SafetensorMetadata,
    unaligned,
)
from runai_model_streamer._formats.safetensors.headers import (
    SafetensorsMetadata,
    read_headers,
)
from runai_model_streamer._formats.safetensors.into import Into, Resolved, note_writes, resolve
from runai_model_streamer._formats.safetensors.selection import (
    Selection,
    TensorNames,
    select,
)
from runai_model_streamer._formats.safetensors.slices import Parts, Slices, take_slices
from runai_model_streamer._formats.safetensors.tensor_slice import (
    SliceReader,
    TensorSlice,
    TorchTensors,
)
from runai_model_streamer._gc import collection_paused, collection_spaced
from runai_model_streamer._load import Load
from runai_model_streamer._logging import logger
from runai_model_streamer._options import StreamOptions
from runai_model_streamer._paths import Path, to_native, to_text, to_texts
from runai_model_streamer._progress import Progress, to_callback
from runai_model_streamer._reader import LocalReader, Reader
from runai_model_streamer._session import Ownership
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._telemetry import report
from runai_model_streamer._tensor_load import Times, WantedTensors, tensors_of_load
from runai_model_streamer._tensor_requests import TensorRequests
from runai_model_streamer._units import size_text
from runai_model_streamer._verify.load import LoadCheck
from runai_model_streamer._verify.manifest import Verify, to_manifest

_TENSORS = TorchTensors()


@dataclasses.dataclass(frozen=True)
class _Opened:
    """Files whose headers open_files() has read, and that are still open."""

    reader: LocalReader
    paths: list[str]
    credentials: S3Credentials | None
    process: int = dataclasses.field(default_factory=os.getpid)

    def serves(self, paths: list[str], credentials: S3Credentials | None) -> bool:
        return (
            (self.paths, self.credentials, self.process) == (paths, credentials, os.getpid())
            and self.reader.session is not None
            and self.reader.load is None
        )


class SafetensorsStreamer:
    """Streams the tensors of safetensors files, in file order.

    A context manager; one thread at a time. Every yielded tensor is the caller's: it stays valid
    for as long as it is held, also after the streamer is closed, its memory is never written again,
    and changes of its file after the load do not affect it. ``files_to_tensors_metadata``
    maps the index of each file to its tensors; it is complete when stream_files() returns.
    ``total_size`` is the number of bytes to stream.
    """

    def __init__(
        self,
        *,
        memory_limit: int | None = None,
        concurrency: int | None = None,
        chunk_bytes: int | None = None,
        fs_strategy: str | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """Arguments replace the settings of the environment for this streamer.

        Args:
            memory_limit: RUNAI_STREAMER_MEMORY_LIMIT, in bytes. Not of loads that ranks share.
            concurrency: RUNAI_STREAMER_CONCURRENCY, for all kinds of storage.
            chunk_bytes: RUNAI_STREAMER_CHUNK_BYTESIZE.
            fs_strategy: RUNAI_STREAMER_FS_STRATEGY: "auto", "mapped", "buffered" or "direct".
            settings: other settings of docs/reference/environment.md by name, of the network and
                of the storages. The SDKs of the clouds read the environment.

        Raises RunaiStreamerInvalidInputException for a name that is not such a setting. Values are
        checked when a load starts.
        """
        self.file_streamer = DistributedStreamer()
        self.file_streamer.options = StreamOptions(
            memory_limit, concurrency, chunk_bytes, fs_strategy, dict(settings or {})
        )
        self.files_to_tensors_metadata: dict[int, list[SafetensorMetadata]] = {}
        self.total_size = 0
        self.device_str = "cpu"
        self.start_time = 0.0
        self._files: list[SafetensorsMetadata] = []
        self._credentials: S3Credentials | None = None
        self._begun: tuple[Load, WantedTensors] | None = None
        self._opened: _Opened | None = None
        self._check: LoadCheck | None = None
        self._phases: dict[str, float] = {}  # of the load before it was closed
        self._slices = SliceReader()
        self._by_name: dict[str, tuple[SafetensorsMetadata, SafetensorMetadata]] | None = None

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """close(). Raises if destinations of `into` were not filled, unless an exception is
        in progress or the load has failed."""
        unfilled = total = 0
        if kind is None and self._begun is not None:
            load, wanted = self._begun
            total = len(wanted.into)
            if not load.failed and not (load.complete and wanted.written):
                unfilled = wanted.unfilled
        try:
            self.close()
        except StreamerChangedError:
            if error is None:
                raise
        if unfilled:
            raise RunaiStreamerInvalidInputException(
                f"into: {unfilled} of {total} destinations were not filled: call wait(), or "
                "iterate over get_tensors() to its end, inside the with block"
            )

    def close(self) -> None:
        """Stops reading and releases what the engine holds. No-op when repeated.

        Tensors that were yielded stay valid. Raises StreamerChangedError, once it is closed, if a
        file was changed while it was streamed, and tensors in use may show it.
        """
        if self._begun is not None:
            self._phases = self._begun[1].phases()
        self._begun = None
        self.file_streamer.close()

    def __len__(self) -> int:
        """The number of tensors in the files: of keys()."""
        return sum(len(file.tensors_metadata) for file in self._files)

    def __bool__(self) -> bool:
        """True, also without tensors."""
        return True

    def __contains__(self, name: object) -> bool:
        """True if the files have a tensor of this name."""
        return name in self._tensors_by_name()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__}: {len(self)} tensors in {len(self._files)} files, "
            f"{self.total_size} bytes to {self.device_str}>"
        )

    def stream_file(
        self,
        path: Path,
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: TensorNames | None = None,
        owned: bool = True,
        *,
        into: Into | None = None,
        progress: Progress | bool | None = None,
        process_group: Group | None = None,
        slices: Slices | None = None,
        verify: Verify | None = None,
    ) -> None:
        """stream_files() of one file."""
        self.stream_files(
            [path],
            s3_credentials,
            device,
            is_distributed,
            tensor_names,
            owned,
            into=into,
            progress=progress,
            process_group=process_group,
            slices=slices,
            verify=verify,
        )

    def stream_files(
        self,
        paths: Sequence[Path],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: TensorNames | None = None,
        owned: bool = True,
        *,
        into: Into | None = None,
        progress: Progress | bool | None = None,
        process_group: Group | None = None,
        slices: Slices | None = None,
        verify: Verify | None = None,
    ) -> None:
        """Reads the headers of `paths` and starts reading the tensors.

        Args:
            paths: files, or URIs of objects. No mixture of both.
            s3_credentials: an S3Credentials, or None for the environment's.
            device: the device of the tensors: "cpu" (or None), "cuda:0", ...
            is_distributed: share the reading with the other ranks of torch.distributed; every rank
                must call with the same paths. See docs/guides/distributed.md.
            tensor_names: reads only these: names and glob patterns, or a function from a name to a
                bool.
            owned: True: the tensors are independent of their file once it was streamed. Those of
                local files may be views of the page cache until then; views that are still held are
                copied, in place, before the end of get_tensors() and in close(). False: they may
                stay views for as long as they are held, and are not copied. Then a
                program that overwrites the file (cp does) changes them. After a truncation, SIGBUS
                ends a process that touches them. Replace files by renaming only.
            into: a mapping of names to tensors, or a module. Reads into their memory, and
                get_tensors() yields them. They are filled when get_tensors() or wait() has come to
                the end. Tensors without a destination are yielded as usual.
            progress: called with (bytes so far, total_size) after each delivery; or True: a bar on
                standard error or in the notebook, by tqdm if it is installed, once for each node.
            process_group: the ranks that share the reading; without, those of
                RUNAI_STREAMER_DIST_GLOBAL.
            slices: reads only parts of tensors: a mapping of names and glob patterns to indices, or
                a function (name, shape, dtype) to an index. An index is a slice or a tuple of
                slices of the leading dimensions, with steps of 1, and is clipped as numpy does.
                None: the tensor is not wanted; a tensor without an entry is read as a whole.
                Tensors of get_tensors() and of `into` have the shape of the part. See
                docs/guides/slices.md.
            verify: the path of a manifest (SHA256SUMS, or of OpenSSF model-signing), "auto" for
                the one beside the files or of the hub, or a mapping of names to SHA-256. None:
                RUNAI_STREAMER_VERIFY. Each file that is read as a whole must be listed and have
                this SHA-256; else get_tensors() raises StreamerDigestError before the last tensor
                of the file. Earlier tensors of it stay the caller's, and must not be used. Tensors
                of several files alternate. `unverified` names files of which only a part is read.
                The tensors of local files are copies then.

        Raises:
            StreamerError: (a ValueError) a file is missing, can't be read, or is no valid
                safetensors file; an argument or a setting can't be used.
        """
        names = to_texts(paths, "; stream_file() takes one")
        self._stream(
            names,
            s3_credentials,
            device,
            tensor_names,
            into,
            progress,
            is_distributed=is_distributed,
            process_group=process_group,
            ownership=Ownership.OWNED if owned else Ownership.SHARED,
            slices=slices,
            verify=verify,
        )

    def _stream(
        self,
        names: list[str],
        s3_credentials: S3Credentials | None,
        device: str | torch.device | None,
        selection: Selection | None,
        into: Into | None = None,
        progress: Progress | bool | None = None,
        *,
        is_distributed: bool = False,
        process_group: Group | None = None,
        ownership: Ownership = Ownership.OWNED,
        slices: Slices | Parts | None = None,
        verify: Verify | None = None,
    ) -> None:
        """stream_files(), also of a selection by files, and of tensors that are never views."""
        self.start_time = time.monotonic()
        self.device_str = "cpu" if device is None else str(device)
        opened = self._opened
        self._forget(s3_credentials)
        wanted = native.setting("RUNAI_STREAMER_VERIFY") if verify is None else verify
        if wanted is not None:
            manifest = to_manifest(wanted, names, s3_credentials)
            if selection is None and slices is None:
                for name in names:
                    manifest.digest_of(name)  # raises before anything is read
            self._check = LoadCheck(manifest)
            ownership = Ownership.COPIED  # the hashed bytes must be the yielded ones
            opened = None
        if opened is not None and not is_distributed and opened.serves(names, s3_credentials):
            reader: Reader = opened.reader
            opened.reader.sink = registry.sink_for(device)
            opened.reader.ownership = ownership
            found: Sequence[SafetensorsMetadata] | None = self._files
        else:
            reader = self.file_streamer.open_reader(
                names, s3_credentials, device, is_distributed, process_group, ownership
            )
            found = None
        try:
            keep = self._check is not None
            headers = read_headers(reader, names, keep) if found is None else iter(found)
            source = native.source_kind(to_native(names[0])) if names else ""
            self._start(reader, headers, selection, into, to_callback(progress, source), slices)
        except BaseException as error:
            self.file_streamer.end(error)  # other ranks wait for this one
            raise

    def _forget(self, credentials: S3Credentials | None) -> None:
        """Forgets the files of the last load; the next one uses `credentials`."""
        self._credentials = credentials
        self._begun = None
        self._opened = None
        self._check = None
        self._phases = {}
        self._by_name = None
        self._slices = SliceReader(credentials, self.file_streamer.options)

    def _start(
        self,
        reader: Reader,
        headers: Iterator[SafetensorsMetadata],
        selection: Selection | None,
        into: Into | None,
        progress: Progress | None,
        slices: Slices | Parts | None,
    ) -> None:
        made = TensorRequests(self._check)
        self._files, self.files_to_tensors_metadata, self.total_size = made.files, made.tensors, 0
        written = reader.sink.writes_destinations
        into_: Resolved | None = None
        chosen = made.checked(select(headers, selection))
        if into is not None or slices is not None:
            # Every index and every destination is checked before a byte of data is read.
            pairs = list(chosen)
            places = [file.path for file, _ in pairs]
            wanted = take_slices([tensors for _, tensors in pairs], places, slices)
            if into is not None:
                into_ = resolve(into, wanted, places, reader.sink.device)
                wanted = into_.files
            chosen = zip((file for file, _ in pairs), wanted, strict=True)
        targets = {} if into_ is None else into_.targets
        distributed = {} if into_ is None else into_.distributed
        if written:
            note_writes(targets.values())  # also if the load fails half way
            note_writes(distributed.values())
        # Made while they are submitted: the first file is read while the next header is parsed.
        requests = made.requests(chosen, targets if written else {})
        files = made.tensors
        numbers: list[int] | None = None
        if self._check is not None and isinstance(reader, LocalReader):
            files, numbers = {}, []
            requests = made.pieces(requests, files, numbers)
        reader.start(requests)
        self.total_size = made.total_size
        for file in self._files:
            file.head = b""  # it was hashed
        self._warn_unverified()
        load = self.file_streamer.load()
        times = Times(self.start_time, time.monotonic())
        self._begun = (
            load,
            WantedTensors(
                files,
                load.device,
                targets,
                distributed,
                written,
                progress,
                self.total_size,
                len(targets),
                check=self._check,
                numbers=numbers,
                times=times,
            ),
        )

    def _warn_unverified(self) -> None:
        for path in self.unverified:
            logger.warning("%s: only a part is read, so that it is not verified", shown_path(path))

    @property
    def unverified(self) -> list[str]:
        """The files that the load in progress, or the last one, does not verify since it reads only
        a part of them. Empty without verify=."""
        return [] if self._check is None else list(self._check.unverified)

    @property
    def unaligned_copies(self) -> int:
        """The number of tensors to stream that are not aligned to their elements in their file.
        They are read to aligned memory, also if others are views of the file."""
        files = self.files_to_tensors_metadata
        return sum(
            len(unaligned(files.get(index, ()), file.offset))
            for index, file in enumerate(self._files)
        )

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of all tensors that stream_files() requested, in file order.

        Each tensor is yielded once: a second call continues behind the iterators before it, also
        after a `break`.

        Raises:
            StreamerError: a read fails; tensors that were yielded before stay valid. Later calls
                raise it again.
            RunaiStreamerInvalidInputException: nothing is being streamed, or an iterator has come
                to the end of the load. A load without tensors yields nothing, any number of times.
            StreamerClosedError: the streamer was closed, or streams other files, since the iterator
                was made.
        """
        load = self.file_streamer.load()
        if self._begun is None or self._begun[0] is not load:
            # The caller has started file_streamer, and filled files_to_tensors_metadata.
            self._begun = load, WantedTensors(self.files_to_tensors_metadata, load.device)
        wanted = self._begun[1]
        return self._take(
            load, wanted, load.view("tensors", partial(tensors_of_load, wanted=wanted))
        )

    async def get_tensors_async(self) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """get_tensors() for ``async for``: the event loop (asyncio) runs while the load waits.

        Waiting happens in the loop's executor, everything else in the thread of the loop. A task
        that is cancelled loses no tensor: the next iterator, of either kind, continues there.
        Raises the errors of get_tensors().
        """
        tensors, load = self.get_tensors(), self.file_streamer.load()
        loop = asyncio.get_running_loop()
        while True:
            while not load.fetched:  # another task may have taken it
                await loop.run_in_executor(None, load.fetch, self.file_streamer.scope())
            try:
                pair = next(tensors)
            except StopIteration:
                return
            yield pair
            del pair

    def wait(self) -> None:
        """Reads the load to its end, so that every destination of `into` is filled.

        Drops the tensors without a destination that were not taken. No-op at the end of the load.
        Raises the errors of get_tensors().
        """
        if not self.file_streamer.load().complete:
            for _ in self.get_tensors():
                pass

    def _take(
        self, load: Load, wanted: WantedTensors, tensors: Iterator[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Keeps `self` alive, and with it the reader, while the consumer iterates."""
        count = sum(map(len, wanted.files.values()))
        try:
            with collection_spaced(count, wanted.total_size), load.taking("tensors"):
                yield from tensors
        except StreamerError as error:
            self._report(wanted, error)
            raise
        if not wanted.logged:
            self._report(wanted, None)
            self._log_summary(wanted.total_size)

    def _report(self, wanted: WantedTensors, error: StreamerError | None) -> None:
        """Once for each load, when it ends."""
        if not wanted.logged:
            wanted.logged = True
            wanted.times.ended = time.monotonic()
            if self._begun is not None and self._begun[1] is wanted:
                report(self.stats(), error)

    def keys(self) -> list[str]:
        """Names of all tensors of the files, in file order."""
        return [tensor.name for file in self._files for tensor in file.tensors_metadata]

    def metadata(self, path: Path | None = None) -> dict[str, str]:
        """``__metadata__`` of the file at `path`; without, of all files, later ones winning."""
        if path is not None:
            return dict(self._file(to_text(path)).metadata)
        merged: dict[str, str] = {}
        for file in self._files:
            merged.update(file.metadata)
        return merged

    def open_files(
        self, paths: Sequence[Path], s3_credentials: S3Credentials | None = None
    ) -> None:
        """Reads only the headers of `paths`: for keys(), metadata() and get_slice()."""
        names = to_texts(paths, "; stream_file() takes one")
        self._forget(s3_credentials)
        reader = self.file_streamer.open_local(s3_credentials)  # ends the load, without names too
        self._files = list(read_headers(reader, names))
        self._tensors_by_name()
        self._opened = _Opened(reader, names, s3_credentials)
        self.files_to_tensors_metadata = {
            index: list(file.tensors_metadata) for index, file in enumerate(self._files)
        }

    def get_slice(self, name: str) -> TensorSlice[torch.Tensor]:
        """A tensor whose parts are read on demand: ``get_slice(name)[10:20]``.

        Slices stay usable after close(). Raises KeyError if the files have no such tensor.
        """
        file, tensor = self._tensors_by_name()[name]
        return TensorSlice(self._slices, file, tensor, _TENSORS)

    def _tensors_by_name(self) -> dict[str, tuple[SafetensorsMetadata, SafetensorMetadata]]:
        if self._by_name is None:
            with collection_paused():
                self._by_name = {
                    tensor.name: (file, tensor)
                    for file in reversed(self._files)  # of equal names, the first one counts
                    for tensor in file.tensors_metadata
                }
        return self._by_name

    def stats(self) -> StreamStats:
        """Counters of the load in progress, or of the last one."""
        stats = self.file_streamer.stats()
        notes, phases = stats.notes, self._phases
        if self._check is not None:
            notes = {**notes, "verify": self._check.note()}
        if self._begun is not None:
            phases = self._begun[1].phases()
        return dataclasses.replace(stats, notes=notes, phases=phases)

    def _file(self, path: str) -> SafetensorsMetadata:
        for file in self._files:
            if file.path == path:
                return file
        raise KeyError(path)

    def _log_summary(self, total_size: int) -> None:
        seconds = time.monotonic() - self.start_time
        logger.info(
            "[RunAI Streamer] Overall time to stream %s of all files to %s: %ss, %s/s",
            size_text(total_size),
            self.device_str,
            round(seconds, 2),
            size_text(total_size / seconds if seconds > 0 else 0),
        )
