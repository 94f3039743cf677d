"""Streaming that several ranks share."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from runai_model_streamer import _logging as logs
from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._distributed import membership
from runai_model_streamer._distributed.agreement import pack_headers, unpack_headers
from runai_model_streamer._distributed.peer_errors import located
from runai_model_streamer._distributed.processes import host_name
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._distributed.shared_stream import SharedStream
from runai_model_streamer._distributed.staging import PrivateStaging
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerError
from runai_model_streamer._file_streamer import FileHeader, FileStreamer, ReadHeaders
from runai_model_streamer._load import Load
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from runai_model_streamer._stats import StreamStats

if TYPE_CHECKING:
    from runai_model_streamer._device.placement import Placement

logger = logging.getLogger(__name__)


class _distributedStreamerParams:  # the name that hosts know
    """Which ranks share the reading of one stream."""

    def __init__(
        self,
        settings: DistSettings | None = None,
        group: Any = None,
        prefix: str = "runai_model_streamer",
    ) -> None:
        self.settings = settings or DistSettings.read()
        self.group = group
        self.prefix = prefix
        """The stream's part of the key-value store."""

    def find_local_ranks(self) -> tuple[int, int, list[list[int]]]:
        """(ranks of this node, first of them, the ranks of every node).

        Hosts replace this method to decide by themselves who shares: a list of one rank reads
        alone, and nothing is sent.
        """
        rank, world = dist.get_rank(), dist.get_world_size()
        groups = membership.nodes(
            membership.default_store(), self.prefix, rank, world, self.settings.timeout
        )
        mine = next(group for group in groups if rank in group)
        return len(mine), mine[0], groups

    def ranks(self) -> list[int]:
        """The global ranks that share this rank's reading, itself included."""
        if self.group is not None:
            return list(dist.get_process_group_ranks(self.group))
        rank = dist.get_rank()
        if self.settings.everywhere:
            membership.announce_everywhere(membership.default_store(), self.prefix, rank)
            return list(range(dist.get_world_size()))
        _, _, groups = self.find_local_ranks()
        return next((list(group) for group in groups if rank in group), [rank])


class DistributedStreamer(FileStreamer):
    """A FileStreamer whose reading the ranks of torch.distributed may share.

    All ranks of the group call the same methods with the same files. Whatever fails on one rank is
    raised on all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._shared: SharedStream | None = None
        self._alone = ""

    def __del__(self) -> None:
        try:
            self._leave()
        except Exception:  # the interpreter may be on its way out
            pass

    def close(self) -> None:
        """Stops reading. Ranks that still need this one are told, and fail."""
        shared = self._shared
        ended = shared is not None and shared.pump is not None and self._session is not None
        stats = self._current_stats() if ended else None
        self._leave()
        super().close()
        if stats is not None:
            self._stats = stats

    def _leave(self) -> None:
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.leave()

    def join(
        self,
        paths: Sequence[str],
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        process_group: Any = None,
    ) -> Placement:
        """Finds out who shares the reading of `paths`, for the stream_joined() that follows.

        `process_group`: those who share, instead of the ranks of a node or of the default group.
        Without `is_distributed`, nothing is sent to anybody.
        """
        self.close()
        self._alone = ""
        if not is_distributed or not dist.is_available() or not dist.is_initialized():
            return _placement_of(device)
        logs.configure()
        rank = dist.get_rank()
        if process_group is not None and dist.get_rank(process_group) < 0:
            raise RunaiStreamerInvalidInputException(
                f"process_group: rank {rank} is not one of its ranks"
            )
        if dist.get_world_size(process_group) <= 1:
            return _placement_of(device)
        store = membership.default_store()
        group_ranks = (
            None if process_group is None else list(dist.get_process_group_ranks(process_group))
        )
        prefix = membership.next_stream(group_ranks)
        try:
            settings, placement = DistSettings.read(), _placement_of(device)
        except StreamerError as error:
            membership.announce_absence(store, prefix, rank, f"it failed: {error}")
            located(error, rank, host_name())
            raise
        memory = placement.memory
        reason = _reason_against(settings, process_group, memory)
        if reason:
            membership.announce_absence(store, prefix, rank, reason)
            self._read_alone(reason)
            return placement
        ranks = _distributedStreamerParams(settings, process_group, prefix).ranks()
        if len(ranks) <= 1:
            self._read_alone("no other rank shares this one's reading")
            return placement
        channel = Channel(store, prefix, ranks, rank, settings.timeout)
        try:
            hellos = membership.greet(channel, membership.hello(settings, memory, paths))
        except StreamerError as error:
            channel.abort(error)
            raise
        # The greatest of all nodes, so that every rank comes to the same sizes.
        local = max(Counter(one["host"] for one in hellos).values())
        size = settings.round_bytes(len(ranks), local, memory.native_type != 0)
        alone = membership.reason_to_read_alone(settings, hellos, PrivateStaging.buffers * size)
        if alone:
            self._read_alone(alone)
            return placement
        self._shared = SharedStream(
            channel, settings, membership.on_one_node(hellos), prefix, store, memory, local
        )
        logger.info(
            "[RunAI Streamer][Distributed] Using distributed streaming between %d processes",
            len(ranks),
        )
        return placement

    def _read_alone(self, reason: str) -> None:
        self._alone = reason
        logger.debug("[RunAI Streamer][Distributed] Not shared: %s", reason)

    def fail(self, error: BaseException) -> None:
        """Makes the other ranks raise `error`, which happened here before the stream began."""
        if self._shared is not None:
            self._shared.fail(error)

    def load_headers(
        self, paths: Sequence[str], credentials: Any, read: ReadHeaders
    ) -> list[FileHeader]:
        """As FileStreamer's; where the reading is shared, one rank reads each header."""
        shared = self._shared
        if shared is None:
            return super().load_headers(paths, credentials, read)
        channel = shared.channel
        count = len(channel.ranks)
        mine = list(paths[channel.index :: count])
        self._close_session()
        session = self._session = Session(paths, credentials=credentials, memory_limit=-1)
        headers = read(session, mine)
        values = channel.exchange("headers", pack_headers(headers))
        found = {header.path: header for value in values for header in unpack_headers(value)}
        return [found[path] for path in paths]

    def takes_single_requests(self) -> bool:
        return self._shared is None

    def stream_files(  # type: ignore[override]
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: Any = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        owned: bool = True,
        process_group: Any = None,
    ) -> None:
        """FileStreamer.stream_files(), of bytes that each rank may want others of.

        With `is_distributed`, every rank of the group calls this with requests for the same files;
        each byte is read by one of the ranks that want it, and goes to the others of them.
        """
        requests = list(file_stream_requests)
        paths = list(dict.fromkeys(request.path for request in requests))
        placement = self.join(paths, device, is_distributed, process_group)
        self.stream_joined(requests, credentials, placement)

    def stream_joined(
        self, requests: list[FileChunks], credentials: Any, placement: Placement
    ) -> None:
        """stream_files() behind join(), which returned `placement`."""
        shared = self._shared
        if shared is None:
            self._start(requests, credentials, placement)
            return
        try:
            if self._session is None:
                paths = list(dict.fromkeys(request.path for request in requests))
                self._session = Session(paths, credentials=credentials, memory_limit=-1)
            pump = shared.begin(self._session, requests)
            ranges = sum(len(request.sizes) for request in requests)
            self._load = Load(pump.runs(), shared.device, ranges)
        except BaseException as error:
            self.fail(error)
            raise

    @property
    def device(self) -> torch.device:
        """Of the tensors that are streamed."""
        return super().device if self._shared is None else self._shared.device

    def ring_info(self) -> tuple[int, int, int] | None:
        """(rank, buffers, bytes of a buffer) of the staging memory; None where there is none."""
        if self._shared is None or self._shared.pump is None:
            return None
        pump = self._shared.pump
        return self._shared.channel.rank, pump.buffers, pump.buffer_bytes

    def _current_stats(self) -> StreamStats:
        stats = super()._current_stats()
        if self._alone:
            stats = dataclasses.replace(stats, notes={**stats.notes, "distributed": self._alone})
        return stats if self._shared is None else self._shared.stats(stats)


def _placement_of(device: str | torch.device | None) -> Placement:
    from runai_model_streamer._device.placement import parse_device  # which imports FileStreamer

    return parse_device(device)


def _reason_against(settings: DistSettings, group: Any, memory: HostMemory) -> str:
    """Why this rank does not share, as far as it knows by itself; empty where it may."""
    if settings.mode == "0":
        return "RUNAI_STREAMER_DIST=0"
    needed, kind = memory.backend, memory.device.type
    backend = membership.backend_of(group, kind)
    if needed is None or backend != needed:
        return f"the process group has {backend} for {kind}, not {needed}"
    if settings.mode == "auto" and needed != "nccl":
        return "RUNAI_STREAMER_DIST is auto, and the process group is not NCCL"
    return ""
