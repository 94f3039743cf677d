"""One stream that ranks share, once they have found each other."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._distributed.agreement import (
    agree_on_plan,
    check_objects,
    wanted_of,
)
from runai_model_streamer._distributed.assembler import Assembler
from runai_model_streamer._distributed.exchange_thread import ExchangeThread
from runai_model_streamer._distributed.peer_errors import located
from runai_model_streamer._distributed.plan import Plan
from runai_model_streamer._distributed.processes import host_name
from runai_model_streamer._distributed.reader import PieceReader
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._distributed.staging import PrivateStaging, Staging
from runai_model_streamer._distributed.transport import (
    GlooTransport,
    NcclTransport,
    Transport,
)
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerError
from runai_model_streamer._logging import logger
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._session import Session
from runai_model_streamer._stats import StreamStats


@dataclasses.dataclass
class SharedStream:
    """From the requests of the ranks to the thread that carries them out."""

    channel: Channel
    settings: DistSettings
    on_one_node: bool
    store: Any
    memory: HostMemory
    local_ranks: int
    exchange: ExchangeThread | None = None
    _members: list[int] = dataclasses.field(default_factory=list)
    _read_bytes: int = 0
    _asked_bytes: int = 0

    @property
    def device(self) -> torch.device:
        """That the tensors say."""
        return self.memory.device

    def fail(self, error: BaseException) -> None:
        """Makes the other ranks raise `error`. The thread of a stream that has begun does so."""
        if self.exchange is None:
            if isinstance(error, StreamerError):
                located(error, self.channel.rank, host_name())
            self.channel.abort(error)

    def leave(self) -> None:
        """Ends this rank's part. Ranks that still need it are told, and fail."""
        if self.exchange is not None:
            self.exchange.stop()
        else:
            self.channel.abort(StreamerError("left before the stream began", code="timeout"))
            self.channel.retire()

    def begin(self, session: Session, requests: Sequence[FileChunks]) -> ExchangeThread:
        """Agrees with the other ranks on who reads what, and starts to."""
        channel, settings, memory = self.channel, self.settings, self.memory
        paths = list(dict.fromkeys(request.path for request in requests))
        wanted = self._selections(session, requests, paths)
        active = [index for index, selected in enumerate(wanted) if any(selected)]
        ranks = [channel.ranks[index] for index in active]
        on_device = memory.on_device
        plan = Plan(
            [wanted[index] for index in active],
            settings.round_bytes(len(channel.ranks), self.local_ranks, on_device),
            settings.policy,
        )
        common = agree_on_plan(channel, plan, active, self.on_one_node and not on_device)
        member = active.index(channel.index) if channel.index in active else 0
        if channel.index not in active:
            plan = Plan([], 1, settings.policy)
        staging: Staging = common or PrivateStaging(plan, member, memory)
        exchange = ExchangeThread(
            plan,
            member,
            ranks,
            channel,
            PieceReader(session, paths, member, memory.native_type, memory.ordinal),
            staging,
            Assembler(requests, {path: number for number, path in enumerate(paths)}, memory),
            settings.memory_share(self.local_ranks).initial,
            session.stream.cancel,
        )
        self._members = ranks
        self._asked_bytes = sum(request.total_size() for request in requests)
        self._read_bytes = plan.read_bytes(member) if plan.rounds else 0
        logger.info(
            "[RunAI Streamer] Rank %d: %s ring %d x %d = %d for %d in %d file(s)",
            channel.rank,
            self.device.type.upper(),
            exchange.buffers,
            exchange.buffer_bytes,
            exchange.buffers * exchange.buffer_bytes,
            self._asked_bytes,
            len(paths),
        )
        exchange.start(partial(self._make_transport, ranks, member))
        self.exchange = exchange
        return exchange

    def _selections(
        self, session: Session, requests: Sequence[FileChunks], paths: Sequence[str]
    ) -> list[list[list[tuple[int, int]]]]:
        """The selection of each rank in each of `paths`. Raises if objects of ranks differ."""
        missing = [path for path in paths if path not in session.files]
        if missing:
            session.open(missing)
        wanted = [wanted_of(requests, path) for path in paths]
        described = {
            "wanted": wanted,
            "objects": [[session.sizes[path], session.versions[path]] for path in paths],
        }
        packed = zlib.compress(json.dumps(described).encode(), 1)
        answers = [
            json.loads(zlib.decompress(value)) for value in self.channel.exchange("wanted", packed)
        ]
        check_objects(self.channel, paths, [answer["objects"] for answer in answers])
        for path, intervals in zip(paths, wanted, strict=True):
            if intervals and intervals[-1][1] > session.sizes[path]:
                raise RunaiStreamerInvalidInputException(
                    f"{path}: a range ends at byte {intervals[-1][1]}, the file has "
                    f"{session.sizes[path]}",
                    path=path,
                )
        return [answer["wanted"] for answer in answers]

    def _make_transport(
        self, ranks: Sequence[int], member: int, stopped: Callable[[], bool]
    ) -> Transport:
        # Groups of the same stream differ in their first rank.
        store = self.store.clone() if hasattr(self.store, "clone") else self.store
        part = dist.PrefixStore(f"{self.channel.prefix}/data/{ranks[0]}", store)
        timeout = self.settings.timeout
        if self.memory.backend == "nccl":
            return NcclTransport(part, member, len(ranks), timeout, self.device, stopped)
        return GlooTransport(part, member, len(ranks), timeout)

    def stats(self, stats: StreamStats) -> StreamStats:
        """`stats` of this rank's reading, with what was shared."""
        exchange = self.exchange
        if exchange is None:
            return stats
        notes = {
            **stats.notes,
            "distributed": f"{len(self._members)} ranks, {self._read_bytes} bytes read here",
            "distributed_way": "shared memory" if exchange.shared else self.memory.backend or "",
            "distributed_seconds": (
                f"waited {exchange.read_seconds:.3f} for reading, "
                f"{exchange.peer_seconds:.3f} for other ranks; "
                f"{exchange.exchange_seconds:.3f} in exchanges, "
                f"{exchange.copy_seconds:.3f} in handing over"
            ),
        }
        return dataclasses.replace(
            stats,
            bytes=exchange.bytes,
            bytes_asked=self._asked_bytes,
            device=str(self.device),
            notes=notes,
            peak_memory=stats.peak_memory + exchange.buffers * exchange.buffer_bytes,
        )
