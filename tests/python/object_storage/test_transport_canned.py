"""Servers that answer oddly, and what the transport does: by canned answers."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from runai_model_streamer import (
    FileStreamer,
    SafetensorsStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from tests.python.object_storage.canned_s3 import DATA, error, listed, read, serve
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.models import check_same, make_model, save
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.connect_proxy import ConnectProxy
from tests.support.servers.gate import Gate


def serve_and_list(seen):
    if "list-type" in seen.path:
        return listed({"f/m.safetensors": len(DATA)})
    return serve(seen)


class TestOddServers:
    def test_another_etag_is_a_change(self, canned):
        count = iter(range(100))

        def handler(seen):
            answer = serve(seen)
            answer.headers["ETag"] = f'"{next(count)}"'
            return answer

        canned(handler)
        with pytest.raises(OSError) as caught:
            read()
        assert caught.value.code == "changed"

    @pytest.mark.parametrize("status", [200, 206])
    def test_a_page_of_the_right_size_is_no_part_of_the_object(self, canned, status):
        """The object has an ETag, and the page that takes its place in mid-load has none."""
        count = iter(range(100))

        def handler(seen):
            answer = serve(seen)
            if next(count) > 0:
                answer.status = status
                answer.headers["Content-Type"] = "text/html"
                del answer.headers["ETag"]
            return answer

        canned(handler)
        with pytest.raises(OSError, match=r"sent a page .* instead of the object"):
            read()

    @pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/xml"])
    def test_a_page_in_the_place_of_the_object_is_named(self, canned, kind):
        """By whoever wants to know who asks; of a load that has begun, and of one that begins."""
        page = Answer(200, {"Content-Type": kind}, b"<html>Sign in</html>")
        pages = [False, True]
        canned(lambda seen: page if pages.pop(0) else serve(seen))
        with pytest.raises(OSError, match=r"sent a page .* instead of the object") as caught:
            read()
        assert caught.value.code == "io"
        pages[:] = [True]
        with pytest.raises(OSError, match="sent a page"):
            read()

    @pytest.mark.parametrize(("code", "kind"), [("ExpiredToken", "credentials"), ("X", "io")])
    def test_an_error_with_a_status_of_success(self, canned, code, kind):
        """What a server finds out late it tells in the body."""
        told = error(200, code, **{"Content-Type": "application/xml"})
        canned(lambda seen: told)
        with pytest.raises(OSError) as caught:
            read()
        assert (caught.value.code, caught.value.server_code) == (kind, code)

    def test_a_passing_error_with_a_status_of_success(self, canned):
        answers = [error(200, "InternalError", **{"Content-Type": "application/xml"})]
        canned(lambda seen: answers.pop() if answers else serve(seen))
        assert read() == DATA

    def test_ranges_are_pinned(self, canned):
        server = canned(serve)
        assert read() == DATA
        assert all(seen.headers.get("if-match") == '"1"' for seen in server.seen[1:])

    def test_missing_bytes_are_requested_again(self, canned):
        """A server may send less at a time; what is missing is asked for again."""

        def handler(seen):
            first, last = re.findall(r"\d+", seen.headers["range"])
            seen.headers["range"] = f"bytes={first}-{min(int(last), int(first) + 2999)}"
            return serve(seen)

        server = canned(handler)
        assert read() == DATA
        assert len(server.seen) >= 4

    def test_a_retry_asks_only_for_what_is_missing(self, canned, no_aborts):
        def handler(seen):
            answer = serve(seen)
            if len(server.seen) == 2:
                size = str(len(answer.body))
                answer.headers |= {"Content-Length": size, "Connection": "close"}
                answer.body = answer.body[:4321]
            return answer

        server = canned(handler)
        assert read() == DATA
        ranges = [seen.headers["range"] for seen in server.seen[1:]]
        assert ranges == [f"bytes={first}-{len(DATA) - 1}" for first in (0, 4321)]

    def test_chunks_have_a_least_size(self, canned, use, no_aborts):
        data = bytes(12 << 20)
        server = canned(lambda seen: serve(seen, data))
        use({"RUNAI_STREAMER_CHUNK_BYTESIZE": "65536", "RUNAI_STREAMER_CONCURRENCY": "1"})
        assert read(size=len(data)) == data
        # The one that opens, the first of a connection (1 MiB), and 5 MiB each.
        assert len(server.seen) <= 5

    def test_a_list_that_never_ends(self, canned):
        body = (
            b"<ListBucketResult><IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>t</NextContinuationToken></ListBucketResult>"
        )
        canned(lambda seen: Answer(200, {}, body))
        with pytest.raises(OSError, match="repeats"), FileStreamer() as streamer:
            streamer.list_files("s3://bucket/x")

    def test_a_list_that_is_none(self, canned):
        canned(lambda seen: Answer(200, {}, b"<html>welcome</html>"))
        with pytest.raises(OSError, match="understood"), FileStreamer() as streamer:
            streamer.list_files("s3://bucket/x")

    def test_headers_without_end(self, canned):
        many = {f"x-{index}": "y" * 900 for index in range(400)}
        canned(lambda seen: Answer(200, many, b""))
        with pytest.raises(OSError):
            read()


class TestBodiesWithoutALength:
    """They end with the connection."""

    @pytest.fixture(params=["direct", "by a proxy"])
    def start(self, request, canned, use):
        def start(handler):
            server = canned(handler)
            if request.param == "by a proxy":
                use({"http_proxy": server.url, "AWS_ENDPOINT_URL": "http://s3.store.invalid"})
                use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            return server

        return start

    def handler(self, cut: int, times: int):
        """Cuts so many bodies off."""
        left = [times]

        def answer(seen):
            answer = serve(seen)
            answer.length = False
            if len(answer.body) > cut and left[0] > 0:
                left[0] -= 1
                answer.body = answer.body[:cut]
            return answer

        return answer

    def test_whole_ones_are_read(self, start):
        start(self.handler(0, 0))
        assert read() == DATA

    @pytest.mark.parametrize("cut", [1, 5000])
    def test_what_is_missing_is_asked_for_again(self, start, cut):
        start(self.handler(cut, 2))
        assert read() == DATA

    def test_ones_that_are_always_cut_off_are_an_error(self, start):
        start(self.handler(40, 10**9))
        with pytest.raises(StreamerError) as caught:
            read()
        assert (caught.value.code, caught.value.attempts) == ("short_read", 3)


class TestRoundTrips:
    def test_first_tensor_takes_one_after_the_header(self, canned):
        """Every range behind the first tensor waits until that is there."""
        model = make_model(48, tensors=12)
        data = save(model)
        start = 8 + int.from_bytes(data[:8], "little")
        ends = [t["data_offsets"][1] for n, t in json.loads(data[8:start]).items() if n in model]
        end = start + min(ends)
        there = threading.Event()
        answered = []

        def handler(seen):
            first = int(seen.headers["range"].removeprefix("bytes=").split("-")[0])
            if first >= end:
                there.wait(60)
            answered.append(first)
            return serve(seen, data)

        canned(handler)
        with SafetensorsStreamer() as streamer:
            streamer.stream_files(["s3://bucket/m.safetensors"])
            tensors = streamer.get_tensors()
            name, tensor = next(tensors)
            assert answered[:1] == [0] and start in answered
            assert max(answered) < end
            there.set()
            check_same(model, {name: tensor, **dict(tensors)})

    def test_a_long_header_takes_one_more(self, canned):
        model = {f"layer.{i:05}.weight": torch.ones(1) for i in range(6000)}
        data = save(model)
        start = 8 + int.from_bytes(data[:8], "little")
        server = canned(lambda seen: serve(seen, data))
        with SafetensorsStreamer() as streamer:
            streamer.open_files(["s3://bucket/m.safetensors"])
            assert len(streamer.keys()) == len(model)
        ranges = [seen.headers["range"] for seen in server.seen]
        assert start > 256 << 10
        assert ranges == [f"bytes=0-{(32 << 10) - 1}", f"bytes={32 << 10}-{start - 1}"]


class TestTransport:
    def test_the_trace_has_each_request_and_no_secret(self, canned, use, no_aborts, tmp_path):
        server = canned(serve)
        use({"RUNAI_STREAMER_S3_TRACE": "1", "RUNAI_STREAMER_TRACE_FILE": str(tmp_path / "trace")})
        assert read() == DATA
        lines = (tmp_path / "trace").read_text().splitlines()
        assert len(lines) == len(server.seen)
        for line in lines:
            assert re.search(r" GET http://127\.0\.0\.1:\d+/bucket/key range=bytes=\d+-\d+ ", line)
            assert re.search(r"status=206 bytes=\d+ ms=[\d.]+ .*retry=0 request_id=-$", line)
            assert S3_ENV["AWS_SECRET_ACCESS_KEY"] not in line
            assert "Signature" not in line

    def test_a_trace_shows_a_retry(self, canned, use, tmp_path):
        def handler(seen):
            return serve(seen) if len(server.seen) > 1 else error(503, "SlowDown")

        server = canned(handler)
        use({"RUNAI_STREAMER_S3_TRACE": "1", "RUNAI_STREAMER_TRACE_FILE": str(tmp_path / "trace")})
        assert read() == DATA
        first, second, *_ = (tmp_path / "trace").read_text().splitlines()
        assert re.search(r"status=503 .* connection=\d+\(new\) retry=0 request_id=ID42", first)
        assert re.search(r"status=206 .* connection=\d+ retry=1 request_id=-", second)

    def test_a_trace_goes_to_the_working_directory(self, canned, use, tmp_path, monkeypatch):
        canned(serve)
        monkeypatch.chdir(tmp_path)
        use({"RUNAI_STREAMER_S3_TRACE": "1"})
        read()
        (log,) = tmp_path.glob("runai_streamer_trace.*.log")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600

    def test_a_trace_whose_name_can_be_guessed_follows_no_link(
        self, canned, use, tmp_path, monkeypatch
    ):
        canned(serve)
        monkeypatch.chdir(tmp_path)
        (tmp_path / "precious").write_text("mine")
        (tmp_path / f"runai_streamer_trace.{os.getpid()}.log").symlink_to("precious")
        use({"RUNAI_STREAMER_S3_TRACE": "1"})
        assert read() == DATA
        assert (tmp_path / "precious").read_text() == "mine"

    def test_the_deadline_ends_the_attempts(self, canned, use):
        canned(lambda seen: error(503, "SlowDown"))
        use({"RUNAI_STREAMER_DEADLINE_SECONDS": "1", "RUNAI_STREAMER_MAX_ATTEMPTS": "100"})
        with pytest.raises(TimeoutError, match="RUNAI_STREAMER_DEADLINE_SECONDS"):
            read()

    def test_loads_share_the_bandwidth_limit(self, canned, use):
        """Of the process: two loads share it."""
        canned(serve)
        use({"RUNAI_STREAMER_MAX_BANDWIDTH": "20000"})
        start = time.monotonic()
        with ThreadPoolExecutor() as threads:
            assert list(threads.map(lambda _: read(), range(2))) == [DATA] * 2
        # 20 kB at 20 kB/s, less what may pass at once; being slower is no failure.
        assert time.monotonic() - start > 0.8

    def test_a_server_that_names_a_time_is_left_alone_for_so_long(self, canned):
        asked = []

        def handler(seen):
            asked.append(time.monotonic())
            return (
                error(503, "SlowDown", **{"Retry-After": "1"}) if len(asked) == 1 else serve(seen)
            )

        canned(handler)
        assert read() == DATA
        assert asked[1] - asked[0] >= 1

    def test_a_proxy_gets_the_whole_url_unless_no_proxy_names_the_host(self, canned, use):
        """HTTP through a proxy carries the whole URL in the request line."""
        with Canned(serve) as proxy:
            canned(lambda seen: error(500, "NotThroughTheProxy"))
            use({"http_proxy": proxy.url, "AWS_ENDPOINT_URL": "http://s3.example.invalid"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            assert read() == DATA
            assert proxy.seen[0].path == "http://s3.example.invalid/bucket/key"
            use({"NO_PROXY": "s3.example.invalid", "no_proxy": "s3.example.invalid"})
            with pytest.raises(OSError) as caught:
                read()
            assert caught.value.code == "network"

    def test_tls_runs_to_a_proxy_and_through_its_tunnel(self, use, authority):
        """With a name and a password for the proxy, which the server does not see."""
        name, data = "s3.store.invalid", os.urandom(24 << 20)
        certificate = authority.issue("tunnelled", [name], [])
        with (
            Canned(lambda seen: serve(seen, data), certificate) as server,
            ConnectProxy({name: server.port}, authority.issue("proxy")) as proxy,
        ):
            use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca)})
            use({"https_proxy": f"https://me:p%40ss@127.0.0.1:{proxy.port}"})
            use({"AWS_ENDPOINT_URL": f"https://{name}:{server.port}"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            assert read(size=len(data)) == data
            basic = base64.b64encode(b"me:p@ss").decode()
            assert all(f"Proxy-Authorization: Basic {basic}" in text for text in proxy.headers)
            assert not any("proxy-authorization" in seen.headers for seen in server.seen)
            use({"AWS_CA_BUNDLE": "", "SSL_CERT_FILE": "", "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
            with pytest.raises(OSError, match=f"by the proxy 127.0.0.1:{proxy.port}.*certificate"):
                read()

    @pytest.mark.parametrize(
        ("response", "text"),
        [
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "response 407.*https_proxy"),
            (b"HTTP/1.1 102 Processing\r\n\r\n" * 2 + b"HTTP/1.1 403 No\r\n\r\n", "response 403"),
            (b"HTTP/1.1 102 Processing\r\n\r\nSSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
            (b"SSH-2.0-OpenSSH_9\r\n\r\n", "not HTTP"),
            (b"HTTP/1.1 200 OK\r\n\r\nmore", "before the server's"),
            (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000, "too long"),
            (b"HTTP/1.1 200", "closed the connection"),
        ],
    )
    def test_a_proxy_that_makes_no_tunnel(self, use, response, text):
        tunnels = []

        def refuse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, peer = listener.accept()
                    tunnels.append(peer)
                    with client:
                        client.recv(1 << 16)
                        client.sendall(response)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            thread = threading.Thread(target=refuse)
            thread.start()
            use({**S3_ENV, "AWS_ENDPOINT_URL": "https://s3.store.invalid"})
            use({"https_proxy": f"http://127.0.0.1:{listener.getsockname()[1]}"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "" if b" 407 " in response else "1"})
            try:
                with pytest.raises(OSError, match=text) as caught:
                    read()
            finally:
                listener.shutdown(socket.SHUT_RDWR)
                thread.join()
        assert caught.value.code == "network"
        assert "no connection by the proxy" in str(caught.value)
        assert len(tunnels) == 1, "a wrong password is told once"

    @pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
    def test_tls_goes_through_the_tunnel_of_a_proxy(self, use, authority, variable):
        """TLS through a proxy: it knows the name, which does not resolve here."""
        name = "s3.store.invalid"
        certificate = authority.issue(f"tunnel-{variable}", [name], [])
        with Canned(serve, certificate) as server, ConnectProxy({name: server.port}) as proxy:
            use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca), variable: proxy.url})
            use({"AWS_ENDPOINT_URL": f"https://{name}:{server.port}"})
            use({"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0"})
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
            assert read() == DATA
            assert set(proxy.asked) == {f"CONNECT {name}:{server.port} HTTP/1.1"}
            tunnels = len(proxy.asked)
            use({"NO_PROXY": f"other.invalid,{name}"})
            with pytest.raises(OSError) as caught:
                read()
            assert caught.value.code == "network"
            assert len(proxy.asked) == tunnels
            use({"NO_PROXY": "other.invalid"})
            proxy.hosts.clear()
            with pytest.raises(OSError, match=f"The proxy of {variable} refuses") as caught:
                read()
            assert caught.value.code == "network"

    @pytest.mark.parametrize("operation", ["read", "list", "pull"])
    def test_handshakes_that_fail_at_first(self, use, authority, certificate, tmp_path, operation):
        with Canned(serve_and_list, certificate) as server, Gate(server.port, losses=2) as gate:
            use({**S3_ENV, "AWS_CA_BUNDLE": str(authority.ca)})
            use({"AWS_ENDPOINT_URL": f"https://127.0.0.1:{gate.port}"})
            if operation == "read":
                assert read() == DATA
            elif operation == "list":
                assert list_safetensors("s3://bucket/f") == ["s3://bucket/f/m.safetensors"]
            else:
                pull_files("s3://bucket/f", str(tmp_path))
                assert (tmp_path / "m.safetensors").read_bytes() == DATA
            assert gate.arrivals > 2

    def test_a_server_that_is_away_for_a_while_is_retried(self, canned, use, no_aborts):
        """The server goes away for the time of a restart, with its connections."""
        data = save(make_model(24))

        def answer(seen):
            if len(server.seen) != 2:
                return serve(seen, data)
            gate.shut()
            threading.Timer(0.3, gate.open).start()
            return Answer(503, {"Connection": "close"})

        server = canned(answer)
        with Gate(server.port) as gate:
            use({"AWS_ENDPOINT_URL": f"http://127.0.0.1:{gate.port}"})
            use({"RUNAI_STREAMER_MAX_ATTEMPTS": "100", "RUNAI_STREAMER_CONCURRENCY": "1"})
            use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20)})
            assert read(size=len(data)) == data
            assert gate.arrivals == 2

    @pytest.mark.parametrize(
        ("name", "value"),
        [("RUNAI_STREAMER_MAX_ATTEMPTS", "0"), ("RUNAI_STREAMER_MAX_BANDWIDTH", "fast")],
    )
    def test_settings_are_checked(self, canned, use, name, value):
        canned(serve)
        use({name: value})
        with pytest.raises(ValueError, match=name):
            read()
