"""Messages of ranks before any data: headers, selections, plan, and memory to share."""

from __future__ import annotations

import json
import operator
import zlib
from collections.abc import Iterable, Sequence

from runai_model_streamer._distributed.plan import Plan, coalesce
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.staging import SharedMemory, SharedStaging
from runai_model_streamer._errors import RunaiStreamerInvalidInputException, StreamerChangedError
from runai_model_streamer._paths import is_remote
from runai_model_streamer._prefixes import Prefix
from runai_model_streamer._requests import FileChunks
from runai_model_streamer._spans import Spans

# Rows of different ranks take turns in a file: one read of all of them costs less than one of each.
_GAP = 64 << 10


def wanted_of(requests: Sequence[FileChunks], path: str) -> list[tuple[int, int]]:
    return coalesce(
        interval
        for request in requests
        if request.path == path
        for interval in _wanted_intervals(request)
    )


def _wanted_intervals(request: FileChunks) -> Iterable[tuple[int, int]]:
    """Of strides, with the gaps that are read once for all ranks: mostly another one wants them."""
    if not request.strides:
        return _intervals(request.offsets, request.sizes)
    found: list[tuple[int, int]] = []
    for index, (start, size) in enumerate(zip(request.offsets, request.sizes, strict=True)):
        if index in request.strides:
            run, levels = request.strides[index]
            found += Spans(start, run, tuple(levels)).intervals(_GAP)
        else:
            found.append((start, start + size))
    return found


def _intervals(starts: list[int], sizes: list[int]) -> list[tuple[int, int]]:
    ends = list(map(operator.add, starts, sizes))
    if starts[1:] == ends[:-1]:  # the usual case, of many ranges
        return [(starts[0], ends[-1])] if starts else []
    return list(zip(starts, ends, strict=True))


def check_objects(
    channel: Channel, paths: Sequence[str], objects: Sequence[Sequence[tuple[int, str]]]
) -> None:
    """Raises if ranks opened different versions of an object."""
    for number, path in enumerate(paths):
        first = objects[0][number]
        for rank, one in zip(channel.ranks, objects, strict=True):
            size, version = one[number]
            if size != first[0] or (is_remote(path) and version != first[1]):
                raise StreamerChangedError(
                    f"{path}: rank {channel.ranks[0]} opened another version than rank {rank}: "
                    f"{first[0]} bytes, {first[1]!r}, and {size} bytes, {version!r}",
                    code="changed",
                    path=path,
                )


def pack_prefixes(prefixes: Sequence[Prefix]) -> bytes:
    index = [(one.path, one.size, one.version, len(one.data)) for one in prefixes]
    described = json.dumps(index).encode()
    data = b"".join(one.data for one in prefixes)
    return len(described).to_bytes(8, "little") + zlib.compress(described + data, 1)


def unpack_prefixes(packed: bytes) -> list[Prefix]:
    position = int.from_bytes(packed[:8], "little")
    plain = zlib.decompress(packed[8:])
    prefixes = []
    for path, size, version, length in json.loads(plain[:position]):
        prefixes.append(Prefix(path, size, version, plain[position : position + length]))
        position += length
    return prefixes


def agree_on_plan(
    channel: Channel, plan: Plan, active: Sequence[int], share: bool
) -> SharedStaging | None:
    """Raises if ranks came to different plans.

    Returns the staging memory that they share, if `share` says that they may, and all of them can.
    `active` are the indices of the plan's members in the channel.
    """
    member = active.index(channel.index) if channel.index in active else None
    memory = None
    if share and member is not None:
        memory = SharedStaging.offer(plan, member, len(active))
    try:
        return _agree(channel, plan, active, member, memory)
    finally:
        if memory is not None:
            memory.withdraw()


def _agree(
    channel: Channel,
    plan: Plan,
    active: Sequence[int],
    member: int | None,
    memory: SharedMemory | None,
) -> SharedStaging | None:
    mine = {"plan": plan.digest(), "memory": memory.address if memory else None}
    answers = [json.loads(v) for v in channel.exchange("plan", json.dumps(mine).encode())]
    if len({answer["plan"] for answer in answers}) != 1:
        raise RunaiStreamerInvalidInputException(
            "distributed streaming: ranks came to different plans for "
            + ", ".join(
                f"rank {rank}: {answer['plan']}"
                for rank, answer in zip(channel.ranks, answers, strict=True)
            )
        )
    offers = [answers[index]["memory"] for index in active]
    if not offers or None in offers:
        return None
    staging = None
    if memory is not None and member is not None:
        try:
            staging = SharedStaging(plan, member, memory, offers)
        except OSError:
            pass  # e.g. /proc does not show the others' files
    can = channel.exchange("staging", b"1" if staging is not None or member is None else b"0")
    return staging if all(one == b"1" for one in can) else None
