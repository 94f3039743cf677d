"""Safetensors files, streamed as tensors."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import torch

from runai_model_streamer._device.placement import Placement
from runai_model_streamer._distributed.streamer import DistributedStreamer
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata
from runai_model_streamer._formats.safetensors.into import Into, resolve
from runai_model_streamer._formats.safetensors.selection import TensorNames, select
from runai_model_streamer._formats.safetensors.tensor_slice import TensorSlice
from runai_model_streamer._formats.safetensors.tensors import (
    SafetensorsMetadata,
    check_dtypes,
    make_request,
    tensors_of_run,
)
from runai_model_streamer._gc import collection_spaced
from runai_model_streamer._load import Load
from runai_model_streamer._logging import logger
from runai_model_streamer._paths import Path, to_text
from runai_model_streamer._session import Run
from runai_model_streamer._stats import StreamStats

Progress = Callable[[int, int], None]


@dataclasses.dataclass(slots=True)
class _Wanted:
    """What tensors a load makes of its runs: fixed when it begins, whatever the streamer does
    next. It does not refer to the load, which owns a generator that refers to it."""

    files: dict[int, list[SafetensorMetadata]]
    """Of each request, by its id."""
    device: torch.device
    into: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    written: bool = True
    """Whether the engine writes to the destinations itself."""
    progress: Progress | None = None
    total_size: int = 0
    logged: bool = False


class SafetensorsStreamer:
    """Streams the tensors of safetensors files, in file order.

    A context manager; one thread at a time. Every yielded tensor is the caller's: it stays valid
    for as long as it is held, also after the streamer is closed, and its memory is never written
    again. ``files_to_tensors_metadata`` maps the index of each file to its tensors; it is complete
    when stream_files() returns. ``total_size`` is the number of bytes to stream.
    """

    def __init__(self) -> None:
        self.file_streamer = DistributedStreamer()
        self.files_to_tensors_metadata: dict[int, list[SafetensorMetadata]] = {}
        self.total_size = 0
        self.device_str = "cpu"
        self.start_time = 0.0
        self.unaligned_copies = 0
        self._files: list[SafetensorsMetadata] = []
        self._credentials: Any = None
        self._begun: tuple[Load, _Wanted] | None = None

    def __enter__(self) -> SafetensorsStreamer:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.file_streamer.__exit__(kind, error, traceback)
        self._begun = None

    def stream_file(
        self,
        path: Path,
        s3_credentials: Any = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: TensorNames | None = None,
        owned: bool = True,
        *,
        into: Into | None = None,
        progress: Progress | None = None,
        process_group: Any = None,
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
        )

    def stream_files(
        self,
        paths: Sequence[Path],
        s3_credentials: Any = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: TensorNames | None = None,
        owned: bool = True,
        *,
        into: Into | None = None,
        progress: Progress | None = None,
        process_group: Any = None,
    ) -> None:
        """Reads the headers of `paths` and starts reading the tensors.

        Args:
            paths: files, or URIs of objects. No mixture of both.
            s3_credentials: an S3Credentials, or None for the environment's.
            device: where tensors go: "cpu" (or None), "cuda:0", ...
            is_distributed: share the reading with the other ranks of torch.distributed; every rank
                must call with the same paths. See docs/guides/distributed.md.
            tensor_names: only these: names and glob patterns, or a function from a name to a bool.
                What is not wanted is not read.
            owned: accepted; tensors are the caller's either way.
            into: a mapping of names to tensors, or a module: their bytes are read straight into
                that memory, which is then what get_tensors() yields. Tensors without a destination
                are yielded as ever.
            progress: called with (bytes so far, total_size) after each delivery.
            process_group: the ranks that share the reading; without, those of
                RUNAI_STREAMER_DIST_GLOBAL.

        Raises:
            StreamerError: (a ValueError) a file is missing, can't be read, or is no valid
                safetensors file; an argument or a setting can't be used.
        """
        names = [to_text(path) for path in _as_list(paths)]
        self.start_time = time.monotonic()
        self.device_str = "cpu" if device is None else str(device)
        self._credentials = s3_credentials
        self._begun = None
        placement = self.file_streamer.join(names, device, is_distributed, process_group)
        try:
            self._prepare(names, s3_credentials, placement, tensor_names, into, progress)
        except BaseException as error:
            self.file_streamer.fail(error)  # other ranks wait for this one
            raise

    def _prepare(
        self,
        names: list[str],
        s3_credentials: Any,
        placement: Placement,
        tensor_names: TensorNames | None,
        into: Into | None,
        progress: Progress | None,
    ) -> None:
        everything = into is None and tensor_names is None and len(names) > 0
        host = type(placement) is Placement
        if everything and host and self.file_streamer.takes_single_requests():
            self._prepare_one_by_one(names, s3_credentials)
            self._begin({}, True, progress)
            return
        self._files = SafetensorsMetadata.from_files(self.file_streamer, names, s3_credentials)
        wanted = select([file.tensors_metadata for file in self._files], tensor_names)
        for tensors in wanted:
            check_dtypes(tensors)  # before anything is read
        targets = {} if into is None else resolve(into, wanted, placement.device)
        written = placement.writes_destinations
        self.files_to_tensors_metadata = dict(enumerate(wanted))
        requests = []
        for index, (name, file) in enumerate(zip(names, self._files, strict=True)):
            request = make_request(index, name, file.offset, wanted[index])
            if targets and written:
                request.destinations = [
                    targets[tensor.name].data_ptr() if tensor.name in targets else 0
                    for tensor in wanted[index]
                ]
                request.keep = targets
            requests.append(request)
        self.total_size = sum(request.total_size() for request in requests)
        self.file_streamer.stream_joined(requests, s3_credentials, placement)
        self._begin(targets, written, progress)

    def _begin(
        self, into: dict[str, torch.Tensor], written: bool, progress: Progress | None
    ) -> None:
        load = self.file_streamer.load()
        files = self.files_to_tensors_metadata
        wanted = _Wanted(files, load.device, into, written, progress, self.total_size)
        self._begun = load, wanted

    def _prepare_one_by_one(self, names: list[str], s3_credentials: Any) -> None:
        """Everything, into host memory: the first file is read while the next header is parsed."""
        self._files, self.files_to_tensors_metadata, self.total_size = [], {}, 0
        streamer = self.file_streamer
        try:
            for file in SafetensorsMetadata.each_of(streamer, names, s3_credentials):
                tensors = list(file.tensors_metadata)
                check_dtypes(tensors)
                request = make_request(len(self._files), file.path, file.offset, tensors)
                self.files_to_tensors_metadata[len(self._files)] = tensors
                self._files.append(file)
                self.total_size += request.total_size()
                streamer.add(request)
        except BaseException:
            streamer.abandon()
            raise

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(name, tensor) of everything that stream_files() asked for, in file order.

        Each tensor is yielded once: a second call goes on where the iterators before it stand,
        after a `break`, too.

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
            self._begun = load, _Wanted(self.files_to_tensors_metadata, load.device)
        wanted = self._begun[1]
        return self._take(load, wanted, load.view("tensors", partial(_tensors, wanted=wanted)))

    def _take(
        self, load: Load, wanted: _Wanted, tensors: Iterator[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """`self` stays alive, and with it what reads, as long as the consumer iterates."""
        count = sum(map(len, wanted.files.values()))
        with collection_spaced(count, wanted.total_size), load.taking("tensors"):
            yield from tensors
        if not wanted.logged:
            wanted.logged = True
            self._log_summary(wanted.total_size)

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

    def open_files(self, paths: Sequence[Path], s3_credentials: Any = None) -> None:
        """Reads only the headers of `paths`: for keys(), metadata() and get_slice()."""
        names = [to_text(path) for path in _as_list(paths)]
        self._begun = None
        self.file_streamer.close()  # what was streamed so far ends, also for an empty list
        self._credentials = s3_credentials
        self._files = SafetensorsMetadata.from_files(self.file_streamer, names, s3_credentials)
        self.files_to_tensors_metadata = {
            index: list(file.tensors_metadata) for index, file in enumerate(self._files)
        }

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor whose parts are read on demand: ``get_slice(name)[10:20]``.

        KeyError where the files have no such tensor.
        """
        for file in self._files:
            for tensor in file.tensors_metadata:
                if tensor.name == name:
                    return TensorSlice(file.path, file.offset, tensor, self._credentials)
        raise KeyError(name)

    def stats(self) -> StreamStats:
        """Counters of the load under way, or of the last one."""
        return self.file_streamer.stats()

    def _file(self, path: str) -> SafetensorsMetadata:
        for file in self._files:
            if file.path == path:
                return file
        raise KeyError(path)

    def _log_summary(self, total_size: int) -> None:
        if not logger.isEnabledFor(20):
            return
        try:
            import humanize
        except OSError:  # connections may hold every descriptor; everything was streamed
            return
        seconds = time.monotonic() - self.start_time
        size = humanize.naturalsize(total_size, binary=True)
        rate = humanize.naturalsize(total_size / seconds if seconds > 0 else 0, binary=True)
        logger.info(
            "[RunAI Streamer] Overall time to stream %s of all files to %s: %ss, %s/s",
            size,
            self.device_str,
            round(seconds, 2),
            rate,
        )


def _tensors(
    runs: Iterator[Run], wanted: _Wanted
) -> Generator[tuple[str, torch.Tensor], None, None]:
    """No frame holds a tensor that was yielded, nor memory that is only its own."""
    done = 0
    for run in runs:
        tensors = wanted.files[run.request_id]
        first, last = run.first, run.first + run.count
        pairs = tensors_of_run(run, tensors, wanted.device)
        del run
        if wanted.into:
            pairs = _filled(tensors[first:last], pairs, wanted)
        yield from pairs
        if wanted.progress is not None:
            done += sum(tensor.end - tensor.start for tensor in tensors[first:last])
            wanted.progress(done, wanted.total_size)


def _filled(
    tensors: Sequence[SafetensorMetadata],
    fresh: Iterator[tuple[str, torch.Tensor]],
    wanted: _Wanted,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Destinations where `tensors` have one, else what `fresh` makes of them."""
    into = wanted.into
    if wanted.written and all(tensor.name in into for tensor in tensors):
        return ((tensor.name, into[tensor.name]) for tensor in tensors)

    def fill(pair: tuple[str, torch.Tensor]) -> tuple[str, torch.Tensor]:
        name, own = pair
        target = into.get(name)
        if target is None:
            return pair
        if not wanted.written:
            with torch.no_grad():
                target.copy_(own)
        return name, target

    return map(fill, fresh)


def _as_list(paths: Any) -> list[Any]:
    if isinstance(paths, str | bytes) or hasattr(paths, "__fspath__"):
        raise RunaiStreamerInvalidInputException(
            "stream_files() takes a list of paths; stream_file() takes one"
        )
    return list(paths)
