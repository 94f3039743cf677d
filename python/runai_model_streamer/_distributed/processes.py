"""The node of a process, and whether a process of the same node lives."""

from __future__ import annotations

import os
import socket
from typing import Any


def host_name() -> str:
    return socket.gethostname()


def node_identity() -> str:
    """Equal for processes of one node: its name, and the boot that they share."""
    return f"{host_name()}/{_read('/proc/sys/kernel/random/boot_id')}"


def process_identity() -> dict[str, Any]:
    """A description by which other ranks of this node see whether this process lives."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {"pid": os.getpid(), "namespace": namespace, "started": _started(os.getpid())}


def lives(process: dict[str, Any]) -> bool:
    """True if the process with this process_identity(), of this node, still runs."""
    started = _started(process["pid"])
    if started is None:  # /proc can hide the processes of other users
        return _exists(process["pid"])
    return started != "" and started == process["started"]


def _started(pid: int) -> str | None:
    """The start of the process, as the kernel counts; empty if it is ending, None if it
    is not to be seen."""
    stat = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(stat) <= 19:
        return None
    return stat[19] if stat[0] not in "ZX" else ""


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
