"""A way to a server that can be shut, or that loses whoever comes first."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from .connect_proxy import copy
from .process import free_port


class Gate:
    """Forwards connections to a port on loopback; the first `losses` of them are closed after
    their first bytes. `arrivals` counts. `watch` is called with what clients send, before that is
    passed on; several connections call it at once."""

    def __init__(
        self, target: int, losses: int = 0, watch: Callable[[bytes], None] = lambda data: None
    ) -> None:
        self.target, self.losses, self.arrivals = target, losses, 0
        self.watch = watch
        self.port = free_port()
        self._clients: set[socket.socket] = set()

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

    def cut(self) -> None:
        """Ends the connections that there are."""
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

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
                self._clients.add(client)
                while data := client.recv(1 << 16):
                    self.watch(data)
                    server.sendall(data)
                self._clients.discard(client)
                server.shutdown(socket.SHUT_WR)
                back.join()
