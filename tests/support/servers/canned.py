"""An HTTP server whose answers a test writes."""

from __future__ import annotations

import dataclasses
import http.server
import os
import pathlib
import re
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from typing import Literal

from .process import free_port
from .tls import Certificate


@dataclasses.dataclass
class Seen:
    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case
    body: bytes


@dataclasses.dataclass
class Answer:
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    interim: bytes = b""  # sent as it is before the answer
    length: bool = True  # False: none is told, and the end of the connection is that of the body


def ranged(seen: Seen, data: bytes, etag: str = '"1"', **headers: str) -> Answer:
    """`data`, or the range of it that the request asks for; an empty `etag` is not sent."""
    headers = {"ETag": etag, **headers} if etag else headers
    found = re.fullmatch(r"bytes=(\d+)-(\d+)", seen.headers.get("range", ""))
    if found is None:
        return Answer(200, headers, data)
    first, last = int(found[1]), min(int(found[2]), len(data) - 1)
    span = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
    return Answer(206, {**headers, **span}, data[first : last + 1])


class HttpServer(http.server.ThreadingHTTPServer):
    """A server in threads that is silent about clients that leave early, as those of tests do."""

    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class Canned:
    """Calls `handler(Seen) -> Answer` for every request, in threads. `seen` lists the requests.
    Speaks TLS if there is a certificate.
    """

    def __init__(
        self,
        handler: Callable[[Seen], Answer],
        certificate: Certificate | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.scheme = "https" if certificate else "http"
        self.handler, self.seen = handler, list[Seen]()
        self.host, self.port = host, port or free_port(host)
        self._resets = False
        canned = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle(self) -> None:
                if canned._resets:
                    end = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, end)
                    os.close(self.connection.detach())
                else:
                    super().handle()

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                headers = {name.lower(): value for name, value in self.headers.items()}
                seen = Seen(self.command, self.path, headers, self.rfile.read(size))
                canned.seen.append(seen)
                answer = canned.handler(seen)
                self.wfile.write(answer.interim)
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if not answer.length:
                    self.close_connection = True
                    self.send_header("Connection", "close")
                elif "Content-Length" not in answer.headers:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = HttpServer((host, self.port), Handler)
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.chain, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.02,), daemon=True
        )

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def speak_at_most(self, newest: ssl.TLSVersion) -> None:
        """Refuses newer versions of TLS from now on, and accepts all older ones."""
        context = self._server.socket.context  # type: ignore[attr-defined]
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest

    def ask_for_client_certificates(
        self,
        ca: pathlib.Path,
        refusal: Literal["alert", "reset", "none"] = "alert",
        newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    ) -> None:
        """Asks for a certificate of this authority, from now on, and refuses clients without one:
        by TLS, or by a reset after the handshake, before anything is read."""
        context = self._server.socket.context  # type: ignore[attr-defined]
        context.load_verify_locations(ca)
        context.maximum_version = newest
        context.verify_mode = ssl.CERT_REQUIRED if refusal == "alert" else ssl.CERT_OPTIONAL
        self._resets = refusal == "reset"

    def __enter__(self) -> Canned:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
