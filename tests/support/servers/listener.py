"""Connections to a port on loopback, each served by a thread of its own, and their headers."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class Listener:
    """Listens from the begin on, accepts from start() until close()."""

    def __init__(self, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", port), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        # A thread in accept() does not notice that its socket is closed.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()


def read_header(client: socket.socket) -> bytes:
    """To the end of the header and not behind it; empty if the client closes before."""
    header = b""
    while not header.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        if not piece:
            return b""
        header += piece
    return header
