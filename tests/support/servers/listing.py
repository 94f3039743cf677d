"""A web server that lists directories."""

from __future__ import annotations

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path


class _Listing(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None: ...


@contextlib.contextmanager
def serve_directory(directory: Path) -> Iterator[str]:
    """The URL of `directory`, at an address of loopback."""
    handler = functools.partial(_Listing, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
