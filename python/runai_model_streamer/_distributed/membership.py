"""The ranks that share the reading: settings, nodes, and the greeting of each rank."""

from __future__ import annotations

import json
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
from runai_model_streamer._distributed.store_client import Limit
from runai_model_streamer._errors import (
    RunaiStreamerInvalidInputException,
    StreamerError,
)


def default_store() -> Any:
    """The key-value store that the default process group was made with; None if it has none."""
    from torch.distributed import distributed_c10d

    return distributed_c10d._get_default_store()


def group_of(process_group: Any) -> Any:
    """The process group of a DeviceMesh; anything else as it is."""
    if not hasattr(process_group, "get_group"):
        return process_group
    if process_group.ndim != 1:
        raise RunaiStreamerInvalidInputException(
            f"process_group: a DeviceMesh of one dimension, not of {process_group.ndim}: for "
            'instance mesh["tp"]'
        )
    return process_group.get_group()


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


def hello(settings: DistSettings, memory: HostMemory, paths: Sequence[str]) -> dict[str, Any]:
    """The greeting of this rank."""
    return {
        "host": host_name(),
        "node": node_identity(),
        "process": process_identity(),
        "version": native.version(),
        "settings": settings.shared(),
        "device": memory.device.type,
        "cached": cached_fraction(paths) if settings.mode == "auto" else 0.0,
        "free": memory.free_bytes(),
    }


def greet(channel: Channel, mine: dict[str, Any], limit: Limit) -> list[dict[str, Any]]:
    """The greetings of all ranks of `channel`, within `limit`; raises if their settings differ."""
    values = channel.exchange("hello", json.dumps(mine).encode(), limit)
    hellos = [json.loads(value) for value in values]
    for rank, one in zip(channel.ranks, hellos, strict=True):
        channel.introduce(one["host"], rank, one["process"])
    _check_equal(channel, hellos)
    return hellos


def _check_equal(channel: Channel, hellos: Sequence[dict[str, Any]]) -> None:
    """The same error on every rank: all of them look at the same list in the same order."""

    def who(index: int) -> str:
        return f"rank {channel.ranks[index]} on {hellos[index]['host']}"

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


def reason_to_read_alone(
    settings: DistSettings, hellos: Sequence[dict[str, Any]], needed_device_bytes: int
) -> str:
    """The reason for which no rank shares the reading; empty if they share it."""
    if any(one["free"] is not None and one["free"] < needed_device_bytes for one in hellos):
        return f"a rank has less than {needed_device_bytes} bytes of device memory left for staging"
    if settings.mode == "auto" and all(one["cached"] >= CACHED_THRESHOLD for one in hellos):
        return "the files are in the page cache of every rank"
    return ""


def on_one_node(hellos: Sequence[dict[str, Any]]) -> bool:
    """True if the ranks can see each other's processes."""
    places = {(one["node"], one["process"]["namespace"]) for one in hellos}
    return len(places) == 1 and all(namespace for _, namespace in places)
