"""The store that ranks share, behind a link of a known rate."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

NAMESPACE = "streamer-bench-dist"
_CLIENT, _SERVER = "10.213.7.1", "10.213.7.2"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextlib.contextmanager
def slow_link(megabytes_per_second: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """A network namespace behind a link of that rate: (address in it, command to run there).

    Needs root.
    """
    near, far = "strbench0", "strbench1"
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip("netns", "del", NAMESPACE)
    _ip("netns", "add", NAMESPACE)
    try:
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", NAMESPACE)
        _ip("addr", "add", f"{_CLIENT}/30", "dev", near)
        _ip("link", "set", near, "up")
        _ip("-n", NAMESPACE, "addr", "add", f"{_SERVER}/30", "dev", far)
        _ip("-n", NAMESPACE, "link", "set", far, "up")
        _ip("-n", NAMESPACE, "link", "set", "lo", "up")
        run_there = ("ip", "netns", "exec", NAMESPACE)
        rate = f"{megabytes_per_second * 8}mbit"
        subprocess.run(
            [
                *(*run_there, "tc", "qdisc", "add", "dev", far, "root"),
                *("tbf", "rate", rate, "burst", "512kb", "latency", "50ms"),
            ],
            check=True,
            capture_output=True,
        )
        yield _SERVER, run_there
    finally:
        _ip("netns", "del", NAMESPACE)  # takes the link with it
