"""A SOCKS proxy: versions 4 and 4a, and 5 (RFC 1928) with a user and a password (RFC 1929)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct

from .connect_proxy import relay
from .listener import Listener

GRANTED4, REFUSED4 = 90, 91
IPV4, NAME, IPV6 = 1, 3, 4


class SocksProxy:
    """Connects to where `hosts` (name or address -> port on loopback) says, and to nowhere if there
    is a `refusal`, the code of SOCKS5 for it. `asked` lists what clients ask for: the version, the
    host as it is told, and the port. Clients of SOCKS5 need the `login` if there is one. `users`
    lists those of SOCKS4, and the logins."""

    def __init__(
        self,
        hosts: dict[str, int],
        login: tuple[str, str] | None = None,
        refusal: int | None = None,
    ) -> None:
        self.hosts, self.login, self.refusal = hosts, login, refusal
        self.asked, self.users = list[tuple[int, str, int]](), list[tuple[str, ...]]()
        self._listener = Listener(self._serve)
        self.address = f"127.0.0.1:{self._listener.port}"

    def __enter__(self) -> SocksProxy:
        self._listener.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError):
            version = _take(client, 1)[0]
            asked = self._asked4(client) if version == 4 else self._asked5(client)
            if asked is None:
                return
            self.asked.append((version, *asked))
            port = self.hosts.get(asked[0]) if self.refusal is None else None
            if version == 4:
                client.sendall(bytes([0, GRANTED4 if port else REFUSED4, *bytes(6)]))
            else:
                code = 0 if port else self.refusal or 4
                client.sendall(bytes([5, code, 0, NAME, 5]) + b"local" + bytes(2))
            if port:
                with socket.create_connection(("127.0.0.1", port)) as server:
                    relay(client, server)

    def _asked4(self, client: socket.socket) -> tuple[str, int]:
        _, port, address = struct.unpack(">BH4s", _take(client, 7))
        self.users.append((_text(client),))
        if address[:3] == bytes(3) and address[3]:
            return _text(client), port
        return socket.inet_ntoa(address), port

    def _asked5(self, client: socket.socket) -> tuple[str, int] | None:
        methods = _take(client, _take(client, 1)[0])
        method = 2 if self.login else 0
        if method not in methods:
            client.sendall(b"\x05\xff")
            return None
        client.sendall(bytes([5, method]))
        if self.login:
            _take(client, 1)
            user = _take(client, _take(client, 1)[0]).decode()
            password = _take(client, _take(client, 1)[0]).decode()
            self.users.append((user, password))
            right = (user, password) == self.login
            client.sendall(bytes([1, not right]))
            if not right:
                return None
        kind = _take(client, 4)[3]
        size = {IPV4: 4, IPV6: 16}.get(kind) or _take(client, 1)[0]
        host = _take(client, size)
        port = int.from_bytes(_take(client, 2), "big")
        return host.decode() if kind == NAME else str(ipaddress.ip_address(host)), port


def _take(client: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = client.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _text(client: socket.socket) -> str:
    """What a zero byte ends."""
    data = b""
    while (byte := _take(client, 1)) != b"\0":
        data += byte
    return data.decode()
