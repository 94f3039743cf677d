"""A way to a server that can be shut, or that loses whoever comes first."""

from __future__ import annotations

import contextlib
import socket
import threading

from .connect_proxy import copy
from .process import free_port


class Gate:
    """Forwards connections to a port on loopback; the first `losses` of them are closed after
    their first bytes. `arrivals` counts."""

    def __init__(self, target: int, losses: int = 0) -> None:
        self.target, self.losses, self.arrivals = target, losses, 0
        self.port = free_port()

    def open(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", self.port))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def shut(self) -> None:
        """Refuses connections from now on. Those that there are stay."""
        # A thread in accept() does not notice that its socket is closed.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def __enter__(self) -> Gate:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self.arrivals += 1
                lost = self.arrivals <= self.losses
                threading.Thread(target=self._serve, args=(client, lost), daemon=True).start()

    def _serve(self, client: socket.socket, lost: bool) -> None:
        with client, contextlib.suppress(OSError):
            if lost:
                client.recv(100)
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                back = threading.Thread(target=copy, args=(server, client), daemon=True)
                back.start()
                copy(client, server)
                back.join()
