"""torch.distributed.checkpoint over safetensors files, local or remote.

>>> import torch.distributed.checkpoint as dcp
>>> from runai_model_streamer.dcp import SafetensorsReader
>>> dcp.load(state_dict, storage_reader=SafetensorsReader("s3://bucket/model"))
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.distributed.checkpoint import StorageReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device import registry
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    SafetensorsHeaderError,
)
from runai_model_streamer._formats.safetensors.dtypes import torch_dtype
from runai_model_streamer._formats.safetensors.header import SafetensorMetadata, check_tensors
from runai_model_streamer._formats.safetensors.headers import (
    SafetensorsMetadata,
    check_unchanged,
    make_request,
    read_headers,
)
from runai_model_streamer._formats.safetensors.into import (
    copy_converted,
    has_plain_memory,
    note_writes,
)
from runai_model_streamer._formats.safetensors.selection import by_name, lacking
from runai_model_streamer._formats.safetensors.slices import part_of
from runai_model_streamer._formats.safetensors.tensors import tensors_of_run
from runai_model_streamer._logging import logger
from runai_model_streamer._paths import Path
from runai_model_streamer._reader import LocalReader
from runai_model_streamer._session import Ownership, Run
from runai_model_streamer._spans import Along
from runai_model_streamer._stats import StreamStats
from runai_model_streamer._storage.checkpoint import Checkpoint, find_checkpoint

__all__ = ["SafetensorsReader"]

# The key by which torch's HuggingFaceStorageWriter tells the part of a tensor that a file has.
_SHARDING = "DCP_SHARDING_INFO"
_OFFSETS = "saved_offsets"


@dataclasses.dataclass(frozen=True)
class _Stored:
    """A tensor of a file, which is a chunk of one of the checkpoint."""

    file: SafetensorsMetadata
    tensor: SafetensorMetadata
    offsets: tuple[int, ...]


class SafetensorsReader(StorageReader):  # type: ignore[misc]
    """Reads safetensors files for ``torch.distributed.checkpoint.load()``, with any load planner.

    Each rank reads only the bytes that its plan asks for: the shards of its DTensors, of any mesh.
    Reads go straight into the tensors of the state dict if these are contiguous and have the
    dtype of the file. The files may be sharded ones of torch's HuggingFaceStorageWriter. One thread
    at a time.
    """

    def __init__(
        self,
        path: Path,
        s3_credentials: S3Credentials | None = None,
        *,
        variant: str | None = None,
    ) -> None:
        """`path` and `variant` are those of list_checkpoint(). Nothing is read yet."""
        super().__init__()
        self._path: Path = path
        self._credentials = s3_credentials
        self._variant = variant
        self._stored: dict[MetadataIndex, _Stored] = {}
        # Has the files open, from read_metadata() to read_data().
        self._reader: LocalReader | None = None
        self._stats = StreamStats()

    def reset(self, checkpoint_id: Any = None) -> None:
        """`checkpoint_id` takes the place of the path."""
        if checkpoint_id is not None:
            self._path = checkpoint_id
        self._stored = {}
        self._take_reader().close()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: Any) -> bool:
        return isinstance(checkpoint_id, str) or hasattr(checkpoint_id, "__fspath__")

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Reads the headers. Raises StreamerError for what can't be read, or is not valid.

        The files stay open for read_data(), until reset() or the end of this object.
        """
        checkpoint = find_checkpoint(self._path, self._credentials, self._variant)
        self._take_reader().close()
        reader = LocalReader(self._credentials, ownership=Ownership.COPIED)
        try:
            files = list(read_headers(reader, checkpoint.files))
        except BaseException:
            reader.close()
            raise
        self._reader = reader
        tensors: dict[str, TensorStorageMetadata] = {}
        stored: dict[MetadataIndex, _Stored] = {}
        for one in _chunks(files, checkpoint):
            name, shape = one.tensor.name, one.tensor.get_torch_shape()
            chunk = ChunkStorageMetadata(torch.Size(one.offsets), torch.Size(shape))
            ends = map(sum, zip(one.offsets, shape, strict=True))
            known = tensors.get(name)
            if known is None:
                tensors[name] = TensorStorageMetadata(
                    # Without a dtype of torch: read_data() refuses the tensor, if it is wanted.
                    TensorProperties(dtype=torch_dtype(one.tensor.dtype) or torch.uint8),
                    torch.Size(ends),
                    [chunk],
                )
            else:
                known.chunks.append(chunk)
                known.size = torch.Size(map(max, known.size, ends))
            stored[MetadataIndex(name, one.offsets)] = one
        metadata = Metadata(state_dict_metadata=dict(tensors), storage_data=stored)
        _note_load(metadata, getattr(self, "load_id", None))
        return metadata

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        self._stored = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Reads what `plan` asks for into the tensors of `planner`. Done when it returns."""
        by_file: dict[str, list[_Item]] = defaultdict(list)
        items = [self._item(request, planner) for request in plan.items]
        for item in items:
            by_file[item.file.path].append(item)
        for group in by_file.values():
            group.sort(key=lambda item: item.part.start)
        devices = {item.target.device for item in items}
        device = devices.pop() if len(devices) == 1 else torch.device("cpu")
        reader = self._take_reader()
        try:
            reader.sink = registry.sink_for(device)
            self._read(reader, by_file, device, planner)
        finally:
            reader.close()
            self._stats = reader.stats()
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def stats(self) -> StreamStats:
        """Counters of the last read_data()."""
        return self._stats

    def _take_reader(self) -> LocalReader:
        """The one that has the files open, or one that has none. Belongs to the caller."""
        reader, self._reader = self._reader, None
        return reader or LocalReader(self._credentials, ownership=Ownership.COPIED)

    def _item(self, request: ReadItem, planner: LoadPlanner) -> _Item:
        if request.type != LoadItemType.TENSOR:
            raise RunaiStreamerInvalidInputException(
                f"{request.storage_index.fqn!r} is no tensor: safetensors files have nothing else"
            )
        stored = self._stored[request.storage_index]
        check_tensors([stored.tensor], stored.file.path)
        part = [
            Along(start, width)
            for start, width in zip(request.storage_offsets, request.lengths, strict=True)
        ]
        target = planner.resolve_tensor(request).detach()
        chosen = part_of(stored.tensor, part)
        if tuple(target.shape) != chosen.get_torch_shape():
            raise RunaiStreamerInvalidInputException(
                f"{stored.file.path}: the planner gives a tensor of shape {list(target.shape)} for "
                f"a part of {chosen.name!r} of shape {list(chosen.get_torch_shape())}",
                path=stored.file.path,
            )
        return _Item(request, stored.file, chosen, target)

    def _read(
        self,
        reader: LocalReader,
        by_file: dict[str, list[_Item]],
        device: torch.device,
        planner: LoadPlanner,
    ) -> None:
        groups = list(by_file.values())
        if not groups:
            return
        session = reader.session
        if session is None or not by_file.keys() <= session.files.keys():
            session, _ = reader.open(list(by_file))
        requests = []
        for number, group in enumerate(groups):
            file = group[0].file
            check_unchanged(session, file)
            request = make_request(number, file.path, file.offset, [item.part for item in group])
            if reader.sink.writes_destinations:
                request.destinations = [
                    item.target.data_ptr() if item.is_direct(device) else 0 for item in group
                ]
                request.keep = [item.target for item in group]
            requests.append(request)
        reader.start(requests)
        load = reader.load
        assert load is not None
        runs = load.view("plan", _each)
        with load.taking("plan"):
            for run in runs:
                group = groups[run.request_id]
                done = group[run.first : run.first + run.count]
                if run.data is None:  # in the targets, or without bytes
                    note_writes(item.target for item in done)
                else:
                    made = tensors_of_run(run, [item.part for item in group], device)
                    for item, (name, tensor) in zip(done, made, strict=True):
                        copy_converted(item.file.path, name, item.target, tensor)
                for item in done:
                    planner.commit_tensor(item.request, item.target)


@dataclasses.dataclass(frozen=True)
class _Item:
    """One thing that a plan asks for."""

    request: ReadItem
    file: SafetensorsMetadata
    part: SafetensorMetadata
    target: torch.Tensor

    def is_direct(self, device: torch.device) -> bool:
        """True if the engine can write to the target itself."""
        target = self.target
        return (
            target.dtype == self.part.get_torch_dtype()
            and target.device == device
            and target.is_contiguous()
            and has_plain_memory(target)
            and target.numel() > 0
        )


def _each(runs: Iterator[Run]) -> Generator[Run, None, None]:
    yield from runs


def _note_load(metadata: Metadata, load_id: str | None) -> None:
    """As torch's own readers do, in the versions that have it."""
    made = getattr(torch.distributed.checkpoint.metadata, "StorageMeta", None)
    if made is not None and hasattr(metadata, "storage_meta"):
        metadata.storage_meta = made(load_id=load_id)


def _chunks(files: Sequence[SafetensorsMetadata], checkpoint: Checkpoint) -> Iterable[_Stored]:
    sharded = [file for file in files if _SHARDING in file.metadata]
    if sharded and checkpoint.index is None:
        return itertools.chain.from_iterable(map(_sharded, files))
    by_path = {file.path: file for file in files}
    found = by_name(files, checkpoint.index)
    names = lacking(checkpoint.index, found)
    if names and checkpoint.index is not None:  # the planner refuses them if they are wanted
        logger.warning("%s", checkpoint.index.lacks(names))
    return [
        _Stored(by_path[path], tensor, (0,) * len(tensor.get_torch_shape()))
        for path, tensor in found.values()
    ]


def _sharded(file: SafetensorsMetadata) -> Iterable[_Stored]:
    text = file.metadata.get(_SHARDING)
    try:
        offsets = json.loads(text) if text is not None else {}
        places = {name: tuple(map(int, one[_OFFSETS])) for name, one in offsets.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise SafetensorsHeaderError(
            f"{file.path}: {_SHARDING} in its metadata is not what torch writes",
            code="format",
            path=file.path,
        ) from None
    for tensor in file.tensors_metadata:
        rank = len(tensor.get_torch_shape())
        place = places.get(tensor.name, (0,) * rank)
        if len(place) != rank:
            raise SafetensorsHeaderError(
                f"{file.path}: {_SHARDING} in its metadata has {len(place)} offsets for "
                f"{tensor.name!r}, which has {rank} dimensions",
                code="format",
                path=file.path,
            )
        yield _Stored(file, tensor, place)
