"""Streaming that several ranks share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Union

import torch
import torch.distributed as dist

from runai_model_streamer import _logging as logs
from runai_model_streamer._credentials.s3_credentials import S3Credentials
from runai_model_streamer._device import registry
from runai_model_streamer._device.base import DeviceSink
from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._distributed import membership
from runai_model_streamer._distributed.meeting import Call
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._distributed.shared_reader import SharedReader
from runai_model_streamer._distributed.shared_stream import SharedStream
from runai_model_streamer._distributed.staging import PrivateStaging
from runai_model_streamer._errors import RunaiStreamerInvalidInputException
from runai_model_streamer._file_streamer import ByteStreamer
from runai_model_streamer._logging import logger
from runai_model_streamer._reader import LocalReader, Reader
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Ownership

# As text: a torch may be built without these.
Group = Union["torch.distributed.ProcessGroup", "torch.distributed.device_mesh.DeviceMesh"]


class _distributedStreamerParams:  # the name that hosts know
    """The ranks that share the reading of one stream."""

    def __init__(
        self,
        settings: DistSettings | None = None,
        group: Any = None,
        call: Call | None = None,
    ) -> None:
        self.settings = settings or DistSettings.read()
        self.group = group
        self.call = call
        """The call of stream_files() that asks."""

    def find_local_ranks(self) -> tuple[int, int, list[list[int]]]:
        """(ranks of this node, first of them, the ranks of every node).

        Hosts replace this method to decide by themselves who shares: a list of one rank reads
        alone, and nothing is sent.
        """
        rank = dist.get_rank()
        call = self.call or Call(membership.default_store(), None, rank, [])
        groups = call.nodes(dist.get_world_size(), self.settings.join_limit)
        mine = next(group for group in groups if rank in group)
        return len(mine), mine[0], groups

    def ranks(self) -> list[int]:
        """The global ranks that share this rank's reading, itself included."""
        if self.group is not None:
            return list(dist.get_process_group_ranks(self.group))
        rank = dist.get_rank()
        if self.settings.everywhere:
            if self.call is not None:
                self.call.share_everywhere()
            return list(range(dist.get_world_size()))
        _, _, groups = self.find_local_ranks()
        return next((list(group) for group in groups if rank in group), [rank])


def find_reader(
    paths: Sequence[str],
    credentials: S3Credentials | None = None,
    device: str | torch.device | None = "cpu",
    is_distributed: bool = False,
    process_group: Group | None = None,
) -> Reader:
    """The reader of a load of `paths`: finds out which ranks share the reading.

    `process_group`: the ranks that share, instead of those of a node or of the default group; a
    process group, or a DeviceMesh of one dimension.
    Without `is_distributed`, nothing is sent to any rank.
    """
    if not is_distributed or not dist.is_available() or not dist.is_initialized():
        return LocalReader(credentials, registry.sink_for(device))
    logs.configure()
    rank = dist.get_rank()
    group = membership.group_of(process_group)
    if group is not None and dist.get_rank(group) < 0:
        raise RunaiStreamerInvalidInputException(
            f"process_group: rank {rank} is not one of its ranks"
        )
    if dist.get_world_size(group) <= 1:
        return LocalReader(credentials, registry.sink_for(device))
    store = membership.default_store()
    if store is None:  # as MPI leaves it
        reason = "the default process group has no key-value store"
        return _read_alone(reason, credentials, registry.sink_for(device))
    group_ranks = None if group is None else list(dist.get_process_group_ranks(group))
    with Call(store, group_ranks, rank, paths) as call:
        return _meet(call, store, paths, credentials, device, group)


def _meet(
    call: Call,
    store: Any,
    paths: Sequence[str],
    credentials: S3Credentials | None,
    device: str | torch.device | None,
    process_group: dist.ProcessGroup | None,
) -> Reader:
    settings, sink = DistSettings.read(), registry.sink_for(device)
    memory = sink.memory
    reason = _reason_against(settings, process_group, memory)
    if reason:
        call.read_alone(reason)
        return _read_alone(reason, credentials, sink)
    ranks = _distributedStreamerParams(settings, process_group, call).ranks()
    if len(ranks) <= 1:
        return _read_alone("no other rank shares this one's reading", credentials, sink)
    channel = call.meet(ranks, settings.join_limit, settings.timeout)
    hellos = membership.greet(
        channel, membership.hello(settings, memory, paths), settings.join_limit
    )
    # The greatest of all nodes, so that every rank comes to the same sizes.
    local = max(Counter(one["host"] for one in hellos).values())
    size = settings.round_bytes(len(ranks), local, memory.on_device)
    alone = membership.reason_to_read_alone(settings, hellos, PrivateStaging.buffers * size)
    if alone:
        channel.retire()
        return _read_alone(alone, credentials, sink)
    shared = SharedStream(channel, settings, membership.on_one_node(hellos), store, memory, local)
    logger.info(
        "[RunAI Streamer][Distributed] Using distributed streaming between %d processes",
        len(ranks),
    )
    return SharedReader(shared, sink, credentials)


def _read_alone(reason: str, credentials: S3Credentials | None, sink: DeviceSink) -> Reader:
    logger.debug("[RunAI Streamer][Distributed] Not shared: %s", reason)
    return LocalReader(credentials, sink, notes={"distributed": reason})


FindReader = Callable[
    [Sequence[str], "S3Credentials | None", "str | torch.device | None", bool, Any], Reader
]


class DistributedStreamer(ByteStreamer):
    """A ByteStreamer whose reading the ranks of torch.distributed may share.

    All ranks of the group call the same methods with the same files. What fails on one rank is
    raised on all. Only a load that stream_files() starts with `is_distributed` is shared.
    """

    def __init__(self, find_reader: FindReader = find_reader) -> None:
        """`find_reader` makes the reader of each load."""
        super().__init__()
        self._find_reader = find_reader

    def open_reader(
        self,
        paths: Sequence[str],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        process_group: Group | None = None,
        ownership: Ownership = Ownership.OWNED,
    ) -> Reader:
        """Ends the load, and finds the reader of the next one, of `paths`.

        What ranks read together is always memory of the caller, whatever `ownership`.
        """
        self.end()
        reader = self._find_reader(paths, credentials, device, is_distributed, process_group)
        if isinstance(reader, LocalReader):
            reader.ownership = ownership
        return self.use(reader)

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        owned: bool = True,
        process_group: Group | None = None,
    ) -> None:
        """FileStreamer.stream_files(), of ranges that may differ from rank to rank.

        With `is_distributed`, every rank of the group calls this with requests for the same files;
        each byte is read by one of the ranks that need it, and sent to the others of them.
        """
        requests = list(file_stream_requests)
        paths = list(dict.fromkeys(request.path for request in requests))
        ownership = Ownership.OWNED if owned else Ownership.SHARED
        self.open_reader(paths, credentials, device, is_distributed, process_group, ownership)
        self.start(requests)

    def ring_info(self) -> tuple[int, int, int] | None:
        """(rank, buffers, bytes of a buffer) of the staging memory; None if there is none."""
        return self._reader.ring_info() if isinstance(self._reader, SharedReader) else None


def _reason_against(settings: DistSettings, group: Any, memory: HostMemory) -> str:
    """A reason of this rank alone not to share the reading; empty if there is none."""
    if settings.mode == "0":
        return "RUNAI_STREAMER_DIST=0"
    needed, kind = memory.backend, memory.device.type
    backend = membership.backend_of(group, kind)
    if needed is None or backend != needed:
        return f"the process group has {backend} for {kind}, not {needed}"
    if settings.mode == "auto" and needed != "nccl":
        return "RUNAI_STREAMER_DIST is auto, and the process group is not NCCL"
    return ""
