"""Which ranks share the reading: settings, nodes, and what each rank says about itself."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

from runai_model_streamer import _native_api as native
from runai_model_streamer._device.host import HostMemory
from runai_model_streamer._distributed.probe import CACHED_THRESHOLD, cached_fraction
from runai_model_streamer._distributed.processes import (
    host_name,
    node_identity,
    process_identity,
)
from runai_model_streamer._distributed.rendezvous import Channel
from runai_model_streamer._distributed.settings import DistSettings
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
    shown_path,
)

logger = logging.getLogger(__name__)

# Streams that a group of ranks began, by the group's part of the store. It never starts again,
# since the store may outlive the default group.
_streams: dict[str, int] = {}


def default_store() -> Any:
    """The key-value store that the default process group was made with."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def backend_of(group: Any, device_type: str) -> str:
    """The backend of `group` (None: the default one) for tensors on such a device."""
    config = ""
    try:
        from torch.distributed import distributed_c10d

        config = str(distributed_c10d.get_backend_config(group))
    except (AttributeError, RuntimeError, ValueError, KeyError):
        pass
    for part in config.lower().split(","):
        kind, _, name = part.partition(":")
        if kind == device_type and name:
            return name
    return str(dist.get_backend(group)).lower()


def next_stream(ranks: Sequence[int] | None) -> str:
    """The part of the store for the next stream of the default group, or of `ranks`."""
    name = "world"
    if ranks is not None:
        name = hashlib.sha256(repr(sorted(ranks)).encode()).hexdigest()[:16]
    number = _streams[name] = _streams.get(name, -1) + 1
    return f"runai_model_streamer/{name}/{number}"


def hello(settings: DistSettings, memory: HostMemory, paths: Sequence[str]) -> dict[str, Any]:
    """What a rank tells about itself."""
    digest = hashlib.sha256("\0".join(paths).encode(errors="surrogateescape")).hexdigest()[:16]
    return {
        "host": host_name(),
        "node": node_identity(),
        "process": process_identity(),
        "off": "",
        "version": native.version(),
        "settings": settings.shared(),
        "device": memory.device.type,
        "files": {
            "count": len(paths),
            "first": shown_path(paths[0]) if paths else "",
            "digest": digest,
        },
        "cached": cached_fraction(paths) if settings.mode == "auto" else 0.0,
        "free": memory.free_bytes(),
    }


def greet(channel: Channel, mine: dict[str, Any]) -> list[dict[str, Any]]:
    """What every rank of `channel` says; raises where they differ."""
    hellos = [json.loads(data) for data in channel.exchange("hello", json.dumps(mine).encode())]
    for rank, one in zip(channel.ranks, hellos, strict=True):
        channel.introduce(one["host"], rank, one["process"])
    _check_equal(channel, hellos)
    return hellos


def _check_equal(channel: Channel, hellos: Sequence[dict[str, Any]]) -> None:
    """The same error on every rank: all of them look at the same list in the same order."""

    def who(index: int) -> str:
        return f"rank {channel.ranks[index]} on {hellos[index]['host']}"

    for index, one in enumerate(hellos):
        if one["off"]:
            raise RunaiStreamerInvalidInputException(
                f"distributed streaming: {who(index)} does not take part ({one['off']}), others do"
            )
    first = hellos[0]
    for index, one in enumerate(hellos):
        differences = []
        if one["version"] != first["version"]:
            differences.append(("the version of this package", first["version"], one["version"]))
        for name, value in first["settings"].items():
            other = one["settings"].get(name)
            if other != value:
                differences.append((name, value, other))
        if one["device"] != first["device"]:
            differences.append(("the kind of device", first["device"], one["device"]))
        if one["files"] != first["files"]:
            differences.append(("the list of files", _files(first["files"]), _files(one["files"])))
        if differences:
            raise _difference(who(0), who(index), differences[0])


def _difference(one: str, other: str, difference: tuple[str, Any, Any]) -> StreamerError:
    what, left, right = difference
    return RunaiStreamerInvalidInputException(
        f"distributed streaming: {one} and {other} differ in {what}: "
        f"{_value(left)} and {_value(right)}"
    )


def _value(value: object) -> str:
    return "unset" if value is None else str(value)


def _files(files: dict[str, Any]) -> str:
    return f"{files['count']} files from {files['first']!r} (digest {files['digest']})"


def reason_to_read_alone(
    settings: DistSettings, hellos: Sequence[dict[str, Any]], needed_device_bytes: int
) -> str:
    """Why the ranks agree not to share the reading; empty where they do share it."""
    if any(one["free"] is not None and one["free"] < needed_device_bytes for one in hellos):
        return f"a rank has less than {needed_device_bytes} bytes of device memory left for staging"
    if settings.mode == "auto" and all(one["cached"] >= CACHED_THRESHOLD for one in hellos):
        return "the files are in the page cache of every rank"
    return ""


def on_one_node(hellos: Sequence[dict[str, Any]]) -> bool:
    """Whether the ranks can see each other's processes."""
    places = {(one["node"], one["process"]["namespace"]) for one in hellos}
    return len(places) == 1 and all(namespace for _, namespace in places)


def announce_absence(store: Any, prefix: str, rank: int, reason: str) -> None:
    """Tells those who wait for this rank that it does not take part. Never waits."""
    mine = {"host": host_name(), "process": process_identity(), "off": reason}
    _say(store, f"{prefix}/node/{rank}", _place(None))
    _say(store, f"{prefix}/hello/{rank}", json.dumps(mine).encode())


def announce_everywhere(store: Any, prefix: str, rank: int) -> None:
    """Tells ranks that look for those of their node that this one divides with all. Never waits."""
    _say(store, f"{prefix}/node/{rank}", _place(True))


def _say(store: Any, key: str, value: bytes) -> None:
    try:
        store.set(key, b"1|" + value)
    except (RuntimeError, ValueError, OSError) as error:
        logger.debug("the store did not take a message: %s", error)


def _place(everywhere: bool | None) -> bytes:
    """Where this rank is, and whether it divides with all ranks; None where it does not share."""
    place = {"host": host_name(), "node": node_identity(), "everywhere": everywhere}
    return json.dumps(place).encode()


def nodes(store: Any, prefix: str, rank: int, world: int, timeout: float) -> list[list[int]]:
    """Ranks of the default group by node, each in order, nodes by their first rank."""
    channel = Channel(store, prefix, range(world), rank, timeout)
    try:
        places = [json.loads(value) for value in channel.exchange("node", _place(False))]
        modes = [place["everywhere"] for place in places]
        if True in modes:
            left, right = modes.index(False), modes.index(True)
            raise _difference(
                f"rank {left} on {places[left]['host']}",
                f"rank {right} on {places[right]['host']}",
                ("RUNAI_STREAMER_DIST_GLOBAL", 0, 1),
            )
    except StreamerError as error:
        channel.abort(error)
        raise
    groups: dict[str, list[int]] = {}
    for other, place in enumerate(places):
        groups.setdefault(place["node"], []).append(other)
    return list(groups.values())
