"""Reads by way of SOCKS proxies."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest

from runai_model_streamer import StreamerError, list_safetensors
from tests.python.object_storage.canned_s3 import DATA, listed, read, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.needs import available
from tests.support.processes import python
from tests.support.servers import process
from tests.support.servers.canned import Canned
from tests.support.servers.compiler import build
from tests.support.servers.socks_proxy import SocksProxy

NAME = "s3.store.invalid"
SCHEMES = ["socks4", "socks4a", "socks5", "socks5h"]
READ = """
from tests.python.object_storage.canned_s3 import DATA, read
print(read() == DATA)
"""


@pytest.fixture
def through(use):
    """through(proxy, endpoint) sets both, and a single attempt unless `once` is false."""

    def apply(proxy: str, endpoint: str, once: bool = True) -> None:
        use({**S3_ENV, "AWS_ENDPOINT_URL": endpoint, "ALL_PROXY": proxy, "NO_PROXY": ""})
        use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
        if once:
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1"})

    return apply


@contextlib.contextmanager
def replying(replies: bytes, pause: float = 0, ends: bool = True):
    """A proxy that sends this, whatever it is told, and its address."""

    def serve_one(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(1)
            for byte in replies:
                client.sendall(bytes([byte]))
                time.sleep(pause)
            while not ends and client.recv(1 << 16):
                pass
            client.shutdown(socket.SHUT_WR)  # no reset, which could overtake the replies
            while client.recv(1 << 16):
                pass

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve_one, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_bytes_are_those_of_the_server(through, use, authority, scheme, tls):
    """The proxy is told a name or an address, as its scheme says, and resolves the name."""
    far = scheme in ("socks4a", "socks5h")
    host = NAME if far else "127.0.0.1"
    data = os.urandom(24 << 20)
    certificate = authority.issue("by-socks", [NAME], ["127.0.0.1"]) if tls else None

    def handler(seen):
        if "list-type" in seen.path:
            return listed({"f/m.safetensors": len(data)})
        return serve(seen, data)

    with Canned(handler, certificate) as server, SocksProxy({host: server.port}) as proxy:
        endpoint = f"{server.scheme}://{host}:{server.port}"
        through(f"{scheme}://me@{proxy.address}", endpoint, once=False)
        use({"AWS_CA_BUNDLE": str(authority.ca)})
        assert read(size=len(data)) == data
        assert set(proxy.asked) == {(4 if "4" in scheme else 5, host, server.port)}
        assert all(seen.path.startswith("/bucket/") for seen in server.seen)
        assert not any("proxy-authorization" in seen.headers for seen in server.seen)
        if "4" in scheme:
            assert set(proxy.users) == {("me",)}
        assert list_safetensors("s3://bucket/f") == ["s3://bucket/f/m.safetensors"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_hosts_that_need_no_resolver(through, scheme, host):
    with Canned(serve) as server:
        hosts = {"127.0.0.1": server.port, "localhost": server.port}
        with SocksProxy(hosts) as proxy:
            through(f"{scheme}://{proxy.address}", f"http://{host}:{server.port}", once=False)
            assert read() == DATA
            told = {told for _, told, _ in proxy.asked}
            assert told == {host if scheme in ("socks4a", "socks5h") else "127.0.0.1"}


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
def test_ipv6_addresses_reach_the_proxy(through, scheme):
    with Canned(serve) as server, SocksProxy({"fd00::7": server.port}) as proxy:
        through(f"{scheme}://{proxy.address}", "http://[fd00::7]:9000", once=False)
        assert read() == DATA
        assert set(proxy.asked) == {(5, "fd00::7", 9000)}


def test_socks4_has_no_ipv6(through):
    with SocksProxy({}) as proxy:
        through(f"socks4://{proxy.address}", "http://[fd00::7]:9000")
        with pytest.raises(StreamerError, match=r"SOCKS4 has no IPv6.*socks5://") as caught:
            read()
    assert caught.value.code == "invalid"


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a_name_is_resolved_here(scheme):
    with available("a C++ compiler"):
        names = build(process.HERE / "names.cc", "-shared", "-fPIC")
    with Canned(serve) as server, SocksProxy({"10.9.8.7": server.port}) as proxy:
        env = S3_ENV | {
            "AWS_ENDPOINT_URL": f"http://s3.store.test:{server.port}",
            "RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0",
            "all_proxy": f"{scheme}://{proxy.address}",
            "LD_PRELOAD": str(names),
            "NAME": "s3.store.test",
            "NAME_ADDRESSES": "10.9.8.7",
        }
        assert python(READ, **env) == "True"
        assert {told for _, told, _ in proxy.asked} == {"10.9.8.7"}


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
def test_a_name_that_does_not_resolve_here(through, scheme):
    with SocksProxy({}) as proxy:
        through(f"{scheme}://{proxy.address}", f"http://{NAME}")
        with pytest.raises(OSError, match=f"Could not resolve host: {NAME}"):
            read()
        assert proxy.asked == []


class TestLogin:
    @pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
    def test_is_accepted(self, through, scheme):
        login = ("me", "p@ss:w/rd")
        with Canned(serve) as server, SocksProxy({"127.0.0.1": server.port}, login) as proxy:
            proxy_url = f"{scheme}://me:p%40ss%3Aw%2Frd@{proxy.address}"
            through(proxy_url, server.url, once=False)
            assert read() == DATA
            assert set(proxy.users) == {login}

    def test_is_not_accepted(self, through):
        with SocksProxy({}, ("me", "right")) as proxy:
            through(f"socks5://me:hidden@{proxy.address}", "http://127.0.0.1:9", once=False)
            text = f"by the proxy {proxy.address}: .*does not accept the user and the password"
            with pytest.raises(StreamerError, match=text) as caught:
                read()
            assert len(proxy.users) == 1, "it was tried again"
        assert caught.value.code == "network"
        assert "hidden" not in str(caught.value)

    def test_is_demanded(self, through):
        with SocksProxy({}, ("me", "right")) as proxy:
            through(f"socks5://{proxy.address}", "http://127.0.0.1:9")
            with pytest.raises(StreamerError, match="demands a user and a password") as caught:
                read()
        assert caught.value.code == "network"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    ("code", "text"),
    [(1, "general failure"), (2, "not allowed"), (4, "host unreachable"), (5, "refused")],
)
def test_a_proxy_that_refuses(through, scheme, code, text):
    with SocksProxy({}, refusal=code) as proxy:
        through(f"{scheme}://{proxy.address}", "http://127.0.0.1:9")
        text = rf"reply {code} \(.*{text}" if "5" in scheme else r"reply 91 \(refused or failed"
        text = f"by the proxy {proxy.address}: .*{text}"
        with pytest.raises(StreamerError, match=text) as caught:
            read()
    assert caught.value.code == "network"


@pytest.mark.parametrize(
    ("scheme", "replies", "text"),
    [
        ("socks5", b"HTTP/1.1 400 Bad Request\r\n\r\n", "reply is not SOCKS5"),
        ("socks4", b"HTTP/1.1 400 Bad Request\r\n\r\n", "reply is not SOCKS4"),
        ("socks5", b"\x05\x00\x05\x00\x00\x09", "reply is not SOCKS5"),
        ("socks5", b"\x05\x01", "demands another way to authenticate"),
        ("socks5", b"", "closed the connection"),
        ("socks4", b"\x00\x5a\x00\x00", "closed the connection"),
        ("socks5h", b"\x05\x00\x05\x00\x00\x03\x05loc", "closed the connection"),
    ],
)
def test_a_proxy_that_makes_no_connection(through, scheme, replies, text):
    with replying(replies) as address:
        through(f"{scheme}://me:hidden@{address}", "http://127.0.0.1:9")
        with pytest.raises(StreamerError, match=f"by the proxy {address}: .*{text}") as caught:
            read()
    assert caught.value.code == "network"
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "replies"),
    [("socks4", b"\x00\x5a"), ("socks5h", b"\x05\x00\x05\x00\x00\x03\xff" + bytes(200))],
)
def test_a_proxy_that_trickles(through, use, scheme, replies):
    with replying(replies, 0.1, ends=False) as address:
        through(f"{scheme}://{address}", "http://127.0.0.1:9")
        use({"RUNAI_STREAMER_CONNECT_TIMEOUT_MS": "1500"})
        with pytest.raises(StreamerError, match=r"no tunnel to 127.0.0.1:9 in time") as caught:
            read()
    assert caught.value.code == "timeout"


def test_the_deadline_ends_a_handshake(through, use):
    with replying(b"", ends=False) as address:
        through(f"socks5://{address}", "http://127.0.0.1:9")
        use({"RUNAI_STREAMER_CONNECT_TIMEOUT_MS": "600000"})
        use({"RUNAI_STREAMER_DEADLINE_SECONDS": "1"})
        with pytest.raises(StreamerError, match="the deadline of the whole load has passed"):
            read()


def test_a_proxy_where_nobody_listens(through):
    port = process.free_port()
    through(f"socks5://me:hidden@127.0.0.1:{port}", "http://127.0.0.1:9")
    with pytest.raises(StreamerError, match=f"the proxy 127.0.0.1:{port}.*NO_PROXY") as caught:
        read()
    assert "hidden" not in str(caught.value)
