"""The conditions of tests: servers, and rights that a sandbox may withhold.

A test that needs a server is skipped without it, with the reason. If CI or STREAMER_REQUIRE_SERVERS
is set it fails instead, so that a server that cannot be fetched is noticed. A test that needs a
right of CAPABILITIES is marked with needs("..."), and is skipped if an attempt fails.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import NoReturn, Protocol, TypeVar

import pytest

from tests.support.processes import PACKAGE
from tests.support.servers import Unavailable

ANOTHER_USER = 65534

# The attempt for each capability: a command that succeeds if the tests that need it can run.
CAPABILITIES: dict[str, list[str]] = {
    "mount namespaces": ["unshare", "--mount", "mount", "--bind", "/tmp", "/tmp"],
    "network namespaces": [
        *("unshare", "--net", "--uts", "sh", "-c"),
        "hostname streamer && ip link add name first type veth peer name second",
    ],
    "pid namespaces": ["unshare", "--pid", "--fork", "--mount-proc", "true"],
    "user namespaces": ["unshare", "--user", "--map-root-user", "true"],
    "dropping capabilities": ["setpriv", "--inh-caps=-all", "--bounding-set=-all", "true"],
    # Processes become this user after their start, and import the package and the rest as that.
    "another user": [
        *(sys.executable, "-c"),
        "import os, sys\n"
        f"os.setgid({ANOTHER_USER}); os.setuid({ANOTHER_USER})\n"
        "for directory in sys.argv[1:]: os.listdir(directory)",
        *(PACKAGE, os.path.dirname(os.__file__)),
    ],
}


@functools.cache
def obstacle(capability: str) -> str | None:
    """Why this process lacks the capability, in one line; None if it does not."""
    command = CAPABILITIES[capability]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    except OSError as error:
        return f"needs {capability}: {error}"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return f"needs {capability}: {lines[-1]}"


def servers_are_required() -> bool:
    """Whether CI or STREAMER_REQUIRE_SERVERS is set to anything but 0 and false."""
    values = [os.environ.get(name, "") for name in ("CI", "STREAMER_REQUIRE_SERVERS")]
    return any(value.lower() not in ("", "0", "false") for value in values)


def missing(name: str, reason: object) -> NoReturn:
    """Ends the test that needs the server `name`."""
    line = " ".join(str(reason).split())
    if servers_are_required():
        pytest.fail(f"{name} is missing, and servers are required: {line}", pytrace=False)
    pytest.skip(f"{name} missing: {line[:200]}")


@contextlib.contextmanager
def available(name: str) -> Iterator[None]:
    """Skips or fails the test if the body cannot fetch the program or package `name`."""
    try:
        yield
    except Unavailable as reason:
        missing(name, reason)


class _Server(Protocol):
    def __enter__(self) -> object: ...

    def stop(self) -> None: ...


S = TypeVar("S", bound=_Server)


@contextlib.contextmanager
def running(server: S) -> Iterator[S]:
    """The server, started; skips or fails the test if this machine cannot run it."""
    with available(type(server).__name__):
        server.__enter__()
    try:
        yield server
    finally:
        server.stop()
