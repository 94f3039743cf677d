"""A proxy that does nothing but CONNECT: what HTTPS_PROXY names in networks without a way out."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl

from .listener import Listener, read_header
from .process import free_port
from .tls import Certificate


class ConnectProxy:
    """Tunnels to where `hosts` (name -> port on loopback) says. `asked` lists the request lines,
    `headers` the rest of the headers; other names are answered with 403. Clients reach it by TLS
    where there is a certificate."""

    def __init__(self, hosts: dict[str, int], certificate: Certificate | None = None) -> None:
        self.hosts, self.asked, self.headers = hosts, list[str](), list[str]()
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate.chain, certificate.key)
        self.port = free_port()
        self._listener = Listener(self._serve, self.port)

    @property
    def url(self) -> str:
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self) -> ConnectProxy:
        self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.ExitStack() as open_sockets, contextlib.suppress(OSError):
            open_sockets.enter_context(client)
            if self._context:
                client = open_sockets.enter_context(self._context.wrap_socket(client, True))
            head = read_header(client)
            if not head:
                return
            line, headers = head.decode().split("\r\n", 1)
            self.asked.append(line)
            self.headers.append(headers)
            host = line.split()[1].rpartition(":")[0]
            if not line.startswith("CONNECT ") or host not in self.hosts:
                client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", self.hosts[host])) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                relay(client, server)


def relay(client: socket.socket, server: socket.socket) -> None:
    """By one thread: a socket of TLS is for one at a time. A test process may have more descriptors
    than select() takes."""
    with selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, (client, server))
        ready.register(server, selectors.EVENT_READ, (server, client))
        while True:
            for key, _ in ready.select():
                source, target = key.data
                while True:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    target.sendall(data)
                    if not isinstance(source, ssl.SSLSocket) or source.pending() == 0:
                        break


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
