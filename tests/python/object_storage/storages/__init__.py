"""The storages that the tests of all protocols run over."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

from runai_model_streamer import list_safetensors, pull_files
from tests.support.models import load
from tests.support.servers.nginx import Nginx

_stored: dict[tuple[str, str], bytes] = {}  # what objects hold: a digest

# What may be done with a file: each gets its path, and a local directory.
OPERATIONS: dict[str, Callable[[str, Path], object]] = {
    "load": lambda path, _directory: load(path),
    "list": lambda path, _directory: list_safetensors(path.rpartition("/")[0]),
    "pull": lambda path, directory: pull_files(path.rpartition("/")[0], str(directory)),
}


@dataclasses.dataclass
class Storage:
    """One protocol, served by a real server, and by a proxy in front of it that can fail."""

    name: str
    uri: str
    """Of an empty directory, without a slash at its end."""
    put: Callable[[str, bytes], None]
    """Stores an object below that directory; replaces what is there, unless it is the same: servers
    keep what was replaced for hours."""
    env: dict[str, str]
    """Settings to reach the server."""
    proxied: dict[str, str]
    """Settings to reach it through the proxy."""
    nginx: Nginx
    """The proxy."""
    list_match: str
    """A Lua pattern of faults.lua that matches requests for lists."""
    read_match: str
    """The same for reads; a space, a range and the like may follow."""
    anonymous: dict[str, str]
    """Settings for reading without a signature."""
    identity: str = ""
    """A part of what errors say about who asked; empty: nobody."""
    secrets: tuple[str, ...] = ()
    """What no error and no trace may contain."""
    source: str = ""
    """What statistics call it; empty: the name."""
    knows_directories: bool = True
    """Whether an empty directory is told apart from a wrong address."""
    hosts: int = 1
    """How many hosts a load speaks to."""
    refusals: int = 1
    """How often it meets 403 and 404 before they are an error."""
    list_refusals: int = 1
    """How often a list meets a status that is an error at once."""
    checksums: bool = False
    """Whether the server keeps a checksum of the whole object."""
    error_body: Callable[[str, str], dict[str, str]] = lambda code, message: {}
    """Details of fault(mode="status") for an error of this protocol with a code and a message."""

    def __post_init__(self) -> None:
        self.source = self.source or self.name
        store = self.put

        def put(key: str, data: bytes) -> None:
            digest = hashlib.sha256(data).digest()
            if _stored.get((self.uri, key)) != digest:
                store(key, data)
                _stored[self.uri, key] = digest

        self.put = put
