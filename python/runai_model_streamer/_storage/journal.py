"""The record of a pull in its directory, so that the next one continues after it was killed.

The journal lies in the directory while a pull runs. Each line is a JSON object: the boot of the
machine first, then the files that were begun, with the name of their part, and those that are
complete. A part is written from its front, so that its size is its progress. After a power loss,
a file may have its size without its data: then everything is pulled anew.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
from typing import Any

JOURNAL = ".streamer-pull"


@dataclasses.dataclass(frozen=True)
class Copy:
    """A file of one version of an object."""

    name: str
    """Of the file, relative to the directory."""
    path: str
    version: str
    size: int


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


class Journal:
    """The journal of `directory`, which exists. Without a lock, which another pull may hold, it
    remembers nothing."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, JOURNAL)
        self._complete: set[Copy] = set()
        self._parts: dict[Copy, str] = {}
        self._fd = -1
        boot = _boot()
        if not boot:
            return
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if self._fd >= 0 and not isinstance(error, BlockingIOError):  # there are no locks
                with contextlib.suppress(OSError):
                    os.unlink(self._path)
            self._forget()
            return
        try:
            self._read(boot)
        except BaseException:
            self._forget()
            raise

    def _read(self, boot: str) -> None:
        with open(self._fd, "rb", closefd=False) as file:
            lines = file.read().splitlines()
        entries: list[dict[str, Any]] = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last one may be cut
                entry = json.loads(line)
                if isinstance(entry, dict):
                    entries.append(entry)
        same = bool(entries) and entries[0].get("boot") == boot
        for entry in entries[1:]:
            try:
                copy = Copy(entry["name"], entry["path"], entry["version"], int(entry["size"]))
                part = entry.get("part")
            except (KeyError, TypeError, ValueError):
                continue
            if part is None:
                self._parts.pop(copy, None)
                self._complete.add(copy)
            elif isinstance(part, str) and _is_part(part):
                self._drop_part(self._parts.pop(copy, None), keep=part)
                self._parts[copy] = part
        if not same:
            for part in self._parts.values():
                self._drop_part(part)
            self._parts.clear()
            self._complete.clear()
            os.ftruncate(self._fd, 0)
            self._append({"boot": boot})

    def _append(self, entry: dict[str, Any]) -> None:
        if self._fd >= 0:
            os.lseek(self._fd, 0, os.SEEK_END)
            # A line break at the front, too: the line before it may be cut.
            os.write(self._fd, b"\n" + json.dumps(entry).encode() + b"\n")

    def _drop_part(self, part: str | None, keep: str = "") -> None:
        if part and part != keep:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self._directory, part))

    def is_complete(self, copy: Copy) -> bool:
        """True if the file is there as an earlier pull left it."""
        if copy not in self._complete or not copy.version:
            return False
        try:
            return os.stat(os.path.join(self._directory, copy.name)).st_size == copy.size
        except OSError:
            return False

    def part_of(self, copy: Copy) -> str:
        """The name of the file to write to, relative to the directory. It may have a front."""
        part = self._parts.get(copy)
        if part is None or not copy.version:
            self._drop_part(part)
            directory = os.path.dirname(copy.name)
            part = os.path.join(directory, f".streamer-{secrets.token_hex(8)}.part")
            self._parts[copy] = part
            self._append({**dataclasses.asdict(copy), "part": part})
        return part

    def finished(self, copy: Copy) -> None:
        """The part has the name of the file now."""
        self._parts.pop(copy, None)
        self._complete.add(copy)
        self._append(dataclasses.asdict(copy))

    def discarded(self, copy: Copy) -> None:
        """The part was removed."""
        self._parts.pop(copy, None)

    def bytes_of_parts(self) -> int:
        """The bytes in the parts that an earlier pull left."""
        held = 0
        for part in self._parts.values():
            with contextlib.suppress(OSError):
                held += os.stat(os.path.join(self._directory, part)).st_size
        return held

    def end(self) -> None:
        """Removes the journal and the parts of files that are no longer wanted."""
        if self._fd < 0:
            return
        for part in self._parts.values():
            self._drop_part(part)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._forget()

    def _forget(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _is_part(name: str) -> bool:
    """True if a name is one of ours: a journal of another program removes nothing."""
    base = os.path.basename(name)
    inside = not os.path.isabs(name) and ".." not in name.split("/")
    return inside and base.startswith(".streamer-") and base.endswith(".part")
