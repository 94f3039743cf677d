"""The storages that the tests of all protocols run over."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tests.servers.nginx import Nginx


@dataclasses.dataclass
class Storage:
    """One protocol, served by a real server, and by a proxy in front of it that can fail."""

    name: str
    uri: str
    """Of an empty folder, without a slash at its end."""
    put: Callable[[str, bytes], None]
    """Stores an object below that folder; replaces what is there."""
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
    error_body: Callable[[str, str], dict[str, str]] = lambda code, message: {}
    """Details of fault(mode="status") for an error of this protocol with a code and a message."""
