"""What a proxy is told, and what is said of one that can't be used."""

from __future__ import annotations

import contextlib
import socket

import pytest

from runai_model_streamer import FileChunks, FileStreamer, StreamerError, list_safetensors
from tests.python.object_storage.canned_s3 import read, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.listener import Listener, read_header
from tests.support.servers.process import free_port
from tests.support.servers.socks_proxy import SocksProxy

VARIABLES = {
    "http://store.invalid": ["http_proxy", "all_proxy", "ALL_PROXY"],
    "https://store.invalid": ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"],
}
OF_SCHEME = [(endpoint, name) for endpoint, names in VARIABLES.items() for name in names]


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch):
    for name in ("ALL_PROXY", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


@contextlib.contextmanager
def http_proxy(response: bytes):
    """The address of a proxy that responds so to everything, and the logins that it is told."""
    told = list[str]()

    def respond(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            header = read_header(client)
            if not header:
                return
            lines = header.decode().split("\r\n")
            told.extend(line for line in lines if line.lower().startswith("proxy-authorization"))
            client.sendall(response)
            client.shutdown(socket.SHUT_WR)
            client.recv(1)

    listener = Listener(respond)
    listener.start()
    try:
        yield f"127.0.0.1:{listener.port}", told
    finally:
        listener.close()


def ask(operation: str) -> None:
    if operation == "list":
        list_safetensors("s3://bucket/f")
    else:
        with FileStreamer() as streamer:
            streamer.stream_files([FileChunks(i, f"s3://bucket/{i}", 0, [9]) for i in range(9)])
            list(streamer.get_chunks())


class TestVariable:
    """Errors name the variable that was used."""

    @pytest.mark.parametrize(("endpoint", "variable"), OF_SCHEME)
    @pytest.mark.parametrize("operation", ["read", "list"])
    def test_of_a_dead_proxy(self, use, endpoint, variable, operation):
        use({**S3_ENV, "AWS_ENDPOINT_URL": endpoint, "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
        use({variable: f"http://me:hidden@127.0.0.1:{free_port()}"})
        with pytest.raises(StreamerError, match=f"Check {variable} and NO_PROXY") as caught:
            ask(operation)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize(("endpoint", "variable"), OF_SCHEME)
    @pytest.mark.parametrize(
        ("value", "why"),
        [
            ("ftp://me:hidden@h:1", "scheme"),
            ("socks9://me:hidden@h:1", "scheme"),
            ("me:hidden@bad host", "spaces"),
            ("http://me:hidden@h:99999", "port"),
            ("http://me:hidden@h:x", "port"),
            ("http://me:hidden@[::1", "bracket"),
            ("http://me:hidden@[x]:1", "IPv6"),
            ("http://me:hidden@:3128", "no host"),
            ("socks5://", "no host"),
            ("me:hid/den@h:1", "percent-encoded"),
        ],
    )
    def test_of_a_value_that_names_no_proxy(self, use, endpoint, variable, value, why):
        use({**S3_ENV, "AWS_ENDPOINT_URL": endpoint, variable: value})
        for operation in ("read", "list"):
            with pytest.raises(StreamerError, match=f"{variable} does not name a proxy") as caught:
                ask(operation)
            text = str(caught.value)
            assert why in text
            assert f"Set {variable} to" in text
            assert "hid" not in text
            assert caught.value.code == "invalid"
            assert not caught.value.attempts

    def test_of_no_concern(self, canned, use):
        canned(serve)
        use({"ALL_PROXY": "ftp://h:1", "NO_PROXY": "127.0.0.1"})
        assert read()


class TestRefusedLogin:
    """The proxy is told the password once: accounts are locked after some wrong ones."""

    @pytest.fixture(autouse=True)
    def virtual_hosts(self, use):
        """Another host could be tried for the bucket."""
        use({**S3_ENV, "RUNAI_STREAMER_CONCURRENCY": "8"})

    @pytest.mark.parametrize("endpoint", VARIABLES)
    @pytest.mark.parametrize("operation", ["read", "list"])
    def test_by_http(self, use, endpoint, operation):
        response = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with http_proxy(response) as (address, told):
            use({"AWS_ENDPOINT_URL": endpoint, "ALL_PROXY": f"http://me:hidden@{address}"})
            with pytest.raises(StreamerError, match=r"407.*ALL_PROXY") as caught:
                ask(operation)
        assert len(told) == 1
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("operation", ["read", "list"])
    def test_by_socks(self, use, operation):
        with SocksProxy({}, ("me", "right")) as proxy:
            use({"AWS_ENDPOINT_URL": "http://store.invalid"})
            use({"ALL_PROXY": f"socks5h://me:hidden@{proxy.address}"})
            with pytest.raises(StreamerError, match="ALL_PROXY") as caught:
                ask(operation)
            assert len(proxy.users) == 1
        assert "hidden" not in str(caught.value)

    def test_that_is_accepted_is_told_by_all(self, use):
        with Canned(serve) as proxy:
            use({"AWS_ENDPOINT_URL": "http://store.invalid"})
            use({"http_proxy": proxy.url.replace("//", "//me:word@")})
            ask("read")
        assert all("proxy-authorization" in seen.headers for seen in proxy.seen)

    def test_after_a_failure_of_another_kind_the_next_request_tries(self, use):
        failed = []

        def handler(seen):
            if not failed:
                failed.append(seen)
                return Answer(502, {"Connection": "close"})
            return serve(seen)

        with Canned(handler) as proxy:
            use({"AWS_ENDPOINT_URL": "http://store.invalid"})
            use({"http_proxy": proxy.url.replace("//", "//me:word@")})
            ask("read")
        assert failed
