"""Which trouble passes, which does not, and how long it takes to tell."""

from __future__ import annotations

import dataclasses
import email.utils
import logging
import os
import threading
import time

import pytest

from runai_model_streamer import (
    FileChunks,
    FileStreamer,
    StreamerError,
    list_safetensors,
    pull_files,
)
from tests.python.object_storage.canned_s3 import DATA, error, listed, read, serve
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.process import free_port

UNLIMITED = {"RUNAI_STREAMER_MAX_ATTEMPTS": "100"}


def read_all(paths: list[str]) -> None:
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(i, p, 0, [len(DATA)]) for i, p in enumerate(paths)])
        chunks = {i: chunk.numpy().tobytes() for i, _, chunk in streamer.get_chunks()}
    assert chunks == dict.fromkeys(range(len(paths)), DATA)


def test_one_request_may_fail_often_while_it_is_not_for_long(canned, no_aborts, monkeypatch):
    refused = []

    def handler(seen):
        if seen.path.endswith("m-3") and len(refused) < 9:
            refused.append(seen)
            return error(503, "SlowDown")
        return serve(seen)

    canned(handler)
    monkeypatch.delenv("RUNAI_STREAMER_MAX_ATTEMPTS")
    read_all([f"s3://bucket/m-{n}" for n in range(6)])
    assert len(refused) == 9


@pytest.mark.parametrize("status", [500, 503, 429])
def test_time_without_progress_ends_it(canned, use, status):
    server = canned(lambda seen: error(status, ""))
    use({**UNLIMITED, "RUNAI_STREAMER_RETRY_SECONDS": "4"})
    with pytest.raises(StreamerError, match=f"HTTP {status}") as caught:
        read()
    assert caught.value.attempts == len(server.seen) > 3


def test_attempts_that_are_set_are_the_most(canned, use):
    server = canned(lambda seen: error(503, "SlowDown"))
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
    with pytest.raises(StreamerError, match="2 attempts"):
        read()
    assert len(server.seen) == 2


class TestCuts:
    """The connection ends after so many bytes of each body."""

    @pytest.fixture
    def cut(self, canned):
        def begin(data: bytes, size: int) -> Canned:
            def handler(seen):
                answer = serve(seen, data)
                answer.headers["Content-Length"] = str(len(answer.body))
                if len(answer.body) > size:
                    answer.headers["Connection"] = "close"
                return dataclasses.replace(answer, body=answer.body[:size])

            return canned(handler)

        return begin

    @pytest.mark.parametrize("size", [16 << 10, 700_000])
    def test_a_read_goes_on_at_once(self, cut, use, caplog, size):
        """As often as it takes: an attempt that brings bytes is none of those that fail."""
        data = os.urandom(40 * size)
        server = cut(data, size)
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
        with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
            assert read(size=len(data)) == data
        assert len(server.seen) >= 40
        told = [r.getMessage() for r in caplog.records if "attempt" in r.getMessage()]
        assert told
        assert all("follows in 0.0 s" in text for text in told)

    def test_small_pieces_add_up(self, cut, use):
        """Their pauses do not grow without end: every fourth attempt completes an arrival."""
        data = os.urandom(50_000)
        server = cut(data, 5_000)
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "5"})
        assert read(size=len(data)) == data
        assert len(server.seen) >= 10

    def test_pauses_between_pieces_do_not_grow(self, cut, use, caplog):
        cut(DATA, 1_000)
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "100"})
        with caplog.at_level(logging.DEBUG, "runai_model_streamer"):
            assert read() == DATA
        told = [r.getMessage() for r in caplog.records if "attempt" in r.getMessage()]
        assert len(told) == 10
        assert all("follows in 0.1 s" in text or "in 0.0 s" in text for text in told)

    def test_hardly_anything_is_a_failure(self, cut, use):
        cut(DATA, 100)
        use({"RUNAI_STREAMER_MAX_ATTEMPTS": "5"})
        with pytest.raises(StreamerError, match="5 attempts") as caught:
            read()
        assert caught.value.code == "short_read"


@pytest.mark.parametrize("which", ["store", "credentials"])
def test_services_that_start_late(canned, use, which):
    """Nobody listens at the address when the first connection is made."""
    body = b'{"AccessKeyId":"ASIAEXAMPLEKEY01","SecretAccessKey":"s","Token":"t"}'
    service = Canned(lambda seen: Answer(200, {}, body) if which == "credentials" else serve(seen))
    canned(serve)
    use(UNLIMITED)
    if which == "store":
        use({"AWS_ENDPOINT_URL": service.url})
    else:
        use({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url + "/c"})
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    starter = threading.Timer(1.5, service.__enter__)
    starter.start()
    try:
        assert read() == DATA
    finally:
        starter.join()
        service.__exit__()
    assert service.seen


def test_credentials_services_that_are_busy(canned, use):
    body = b'{"AccessKeyId":"ASIAEXAMPLEKEY01","SecretAccessKey":"s","Token":"t"}'
    refused = []

    def busy(seen):
        if len(refused) < 5:
            refused.append(seen)
            return Answer((503, 429, 500)[len(refused) % 3])
        return Answer(200, {}, body)

    with Canned(busy) as service:
        canned(serve)
        use({**UNLIMITED, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url + "/c"})
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
        assert read() == DATA
    assert len(refused) == 5


def test_credentials_that_ended_by_our_clock_are_used(canned, use):
    past = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 600))
    body = (
        f'{{"AccessKeyId":"ASIAEXAMPLE","SecretAccessKey":"s","Token":"t","Expiration":"{past}"}}'
    )
    with Canned(lambda seen: Answer(200, {}, body.encode())) as service:
        canned(serve)
        use({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url + "/c"})
        use({"RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
        read_all([f"s3://bucket/m-{n}" for n in range(20)])
        assert len(service.seen) == 1


class TestContentCodings:
    @pytest.mark.parametrize("operation", ["read", "list", "pull"])
    def test_compressed_content_is_an_error(self, canned, tmp_path, operation):
        def handler(seen):
            listing = "list-type" in seen.path
            answer = listed({"f/m": len(DATA)}) if listing else serve(seen)
            if listing == (operation == "list"):
                answer.headers["Content-Encoding"] = "gzip"
            return answer

        canned(handler)
        with pytest.raises(StreamerError, match=r"compressed.*gzip") as caught:
            if operation == "read":
                read()
            elif operation == "list":
                list_safetensors("s3://bucket/f")
            else:
                pull_files("s3://bucket/f", str(tmp_path))
        assert caught.value.code == "unsupported"
        assert not list(tmp_path.rglob("m"))

    def test_no_request_asks_for_one(self, canned, tmp_path, use):
        server = canned(
            lambda seen: listed({"f/m": len(DATA)}) if "list-type" in seen.path else serve(seen)
        )
        pull_files("s3://bucket/f", str(tmp_path))
        assert {seen.headers.get("accept-encoding") for seen in server.seen} == {"identity"}


class TestWrongAddresses:
    @pytest.mark.parametrize("scheme", ["https://", ""])
    def test_tls_to_a_plain_server_is_named(self, canned, use, scheme):
        server = canned(serve)
        use({"AWS_ENDPOINT_URL": server.url.replace("http://", scheme)})
        with pytest.raises(StreamerError, match=r"does not speak TLS.*http://") as caught:
            read()
        assert server.url.replace("http", "https") in str(caught.value)
        assert not caught.value.attempts

    def test_a_plain_request_to_a_tls_server_is_named(self, canned):
        text = b"<html><h1>400</h1>The plain HTTP request was sent to HTTPS port</html>"
        canned(lambda seen: Answer(400, {}, text))
        with pytest.raises(StreamerError, match=r"plain HTTP request.*use https://"):
            read()

    def test_a_page_of_another_service_is_quoted(self, canned):
        canned(
            lambda seen: Answer(404, {}, b"<html><title>Console</title> of <b>another</b></html>")
        )
        with pytest.raises(StreamerError, match="Console of another"):
            read()

    def test_a_proxy_that_refuses(self, canned, use):
        canned(serve)
        with Canned(lambda seen: Answer(407, {"Proxy-Authenticate": "Basic"}, b"no")) as proxy:
            use({"http_proxy": proxy.url.replace("http://", "http://me:hidden@"), "NO_PROXY": ""})
            with pytest.raises(StreamerError, match=r"the proxy refuses.*NO_PROXY") as caught:
                read()
        assert "hidden" not in str(caught.value)
        assert caught.value.http_status == 407
        assert not caught.value.attempts

    def test_a_dead_proxy_is_named(self, canned, use):
        canned(serve)
        port = free_port()
        use({"http_proxy": f"http://me:hidden@127.0.0.1:{port}", "NO_PROXY": ""})
        with pytest.raises(StreamerError, match=f"the proxy 127.0.0.1:{port}.*NO_PROXY") as caught:
            read()
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("form", ["127.0.0.1:{}", "127.0.0.0/8", "other,127.0.0.1", "*"])
    def test_no_proxy_leaves_out_a_host(self, canned, use, form):
        server = canned(serve)
        use({"http_proxy": "http://127.0.0.1:1", "NO_PROXY": form.format(server.port)})
        assert read() == DATA


@pytest.mark.parametrize("minutes", [-40, 40])
@pytest.mark.parametrize("concurrency", [None, "1", "12"])
def test_clocks_that_differ_cost_one_retry(canned, use, no_aborts, minutes, concurrency):
    """Each request that was sent with the wrong date is sent once more, and none later."""
    wrong = []

    def handler(seen):
        theirs = time.time() + minutes * 60
        sent = time.strptime(seen.headers["x-amz-date"], "%Y%m%dT%H%M%SZ")
        if abs(time.mktime(sent) - time.timezone - theirs) > 900:
            wrong.append(seen)
            date = email.utils.formatdate(theirs, usegmt=True)
            return error(403, "RequestTimeTooSkewed", Date=date)
        return listed({"f/m": 1}) if "list-type" in seen.path else serve(seen)

    canned(handler)
    if concurrency:
        use({"RUNAI_STREAMER_CONCURRENCY": concurrency})
    read_all([f"s3://bucket/m-{n}" for n in range(10)])
    assert 1 <= len(wrong) <= 12
    wrong.clear()
    FileStreamer().list_files("s3://bucket/f")
    read_all([f"s3://bucket/m-{n}" for n in range(10)])
    assert not wrong  # it is remembered


def test_clocks_that_differ_by_days_are_not_followed(canned):
    date = email.utils.formatdate(time.time() + 3 * 86400, usegmt=True)
    server = canned(lambda seen: error(403, "RequestTimeTooSkewed", Date=date))
    with pytest.raises(PermissionError, match="clock"):
        read()
    assert len(server.seen) == 1
