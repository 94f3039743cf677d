"""What tests need from the machine, and what becomes of them if it is missing.

A test that needs a server fails without it if CI or STREAMER_REQUIRE_SERVERS is set, so that a
server that cannot be fetched is noticed. Otherwise it is skipped with the reason.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Protocol, TypeVar

import pytest

from tests.support.servers import Unavailable


class _Server(Protocol):
    def __enter__(self) -> object: ...

    def stop(self) -> None: ...


S = TypeVar("S", bound=_Server)


def servers_are_required() -> bool:
    """Whether CI or STREAMER_REQUIRE_SERVERS is set to anything but 0 and false."""
    values = [os.environ.get(name, "") for name in ("CI", "STREAMER_REQUIRE_SERVERS")]
    return any(value.lower() not in ("", "0", "false") for value in values)


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started. If this machine cannot run it, the tests that asked for it are skipped,
    or fail if servers are required.
    """
    try:
        server.__enter__()
    except Unavailable as missing:
        if servers_are_required():
            pytest.fail(f"a server that is required is missing: {missing}", pytrace=False)
        pytest.skip(f"server missing: {missing}")
    try:
        yield server
    finally:
        server.stop()
