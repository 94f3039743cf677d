"""Servers that send without an end, or claim what nobody has."""

from __future__ import annotations

import errno
import itertools
import signal
import subprocess
import sys
import threading

import pytest

from runai_model_streamer import FileStreamer, StreamerError, list_safetensors, pull_files
from runai_model_streamer import _native_api as native
from runai_model_streamer._credentials import make_provider
from tests.python.object_storage.canned_s3 import error, listed, read, serve
from tests.support.servers.canned import Answer, Canned


def page(token: str) -> Answer:
    body = (
        "<ListBucketResult><Contents><Key>f/x</Key><Size>1</Size></Contents><IsTruncated>true"
        f"</IsTruncated><NextContinuationToken>{token}</NextContinuationToken></ListBucketResult>"
    )
    return Answer(200, {}, body.encode())


@pytest.mark.parametrize("period", [1, 2, 5])
def test_tokens_that_come_again(canned, period):
    tokens = itertools.cycle(str(n) for n in range(period))
    server = canned(lambda seen: page(next(tokens)))
    with pytest.raises(OSError, match="repeats a page"):
        list_safetensors("s3://bucket/f")
    assert len(server.seen) == period + 1


def test_pages_that_are_too_long(canned):
    body = b"<ListBucketResult>" + b" " * (17 << 20) + b"</ListBucketResult>"
    server = canned(lambda seen: Answer(200, {}, body))
    with pytest.raises(StreamerError, match="more than 16777216 bytes"):
        list_safetensors("s3://bucket/f")
    assert len(server.seen) == 1


def test_tokens_that_are_too_long(canned, use):
    use({"AWS_ACCESS_KEY_ID": "", "RUNAI_STREAMER_NO_BOTO3_SESSION": "1"})
    with Canned(lambda seen: Answer(200, {}, b" " * (2 << 20))) as service:
        canned(serve)
        use({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})
        use({"AWS_CONTAINER_CREDENTIALS_FULL_URI": service.url + "/c"})
        with pytest.raises(StreamerError, match="more than 1048576 bytes"):
            read()
        assert len(service.seen) == 1


def test_a_list_without_an_answer_is_given_up_like_a_read(canned, use):
    """By time without progress, though its first attempts may take longer than those of reads."""
    over = threading.Event()
    server = canned(lambda seen: over.wait(60) and listed({}))
    use({"RUNAI_STREAMER_LOW_SPEED_SECONDS": "1", "RUNAI_STREAMER_RETRY_SECONDS": "2"})
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "100"})
    try:
        with pytest.raises(StreamerError, match="stalled") as caught:
            list_safetensors("s3://bucket/f")
    finally:
        over.set()
    assert caught.value.code == "timeout"
    assert len(server.seen) <= 2


@pytest.mark.parametrize("call", ["list_safetensors('s3://b/f')", "pull_files('s3://b/f', 'out')"])
def test_an_interrupt_ends_a_list(canned, tmp_path, call):
    """The server is silent until the test ends."""
    asked, over = threading.Event(), threading.Event()

    def handler(seen):
        asked.set()
        over.wait(60)
        return listed({})

    canned(handler)
    code = f"from runai_model_streamer import *\ntry: {call}\nexcept KeyboardInterrupt: print('ok')"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            assert asked.wait(60)
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=240)[0] == "ok\n"
        finally:
            child.kill()
            over.set()


@pytest.mark.parametrize("use_of", ["a list", "a stream"])
def test_interrupt_in_the_log_of_retries(canned, use, use_of):
    """Python runs the handlers of signals in whatever function of Python comes next."""
    canned(lambda seen: error(503, "SlowDown"))
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "3"})

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        if use_of == "a list":
            native.list_objects("s3://bucket/f", True, make_provider(), {}, interrupt)
        else:
            stream = native.Stream({}, make_provider(), interrupt)
            stream.opened(stream.open_begin(["s3://bucket/f"], 1, []))


@pytest.mark.parametrize("size", [2**50, 2**60, 2**63 - 1])
@pytest.mark.parametrize("honest_list", [True, False])
def test_pull_of_more_than_the_disk_has(canned, tmp_path, size, honest_list):
    def handler(seen):
        if "list-type" in seen.path:
            return listed({"f/m.bin": size if honest_list else 0})
        last = int(seen.headers["range"].rpartition("-")[2])
        headers = {"ETag": '"1"', "Content-Range": f"bytes 0-{last}/{size}"}
        return Answer(206, headers, bytes(last + 1))

    canned(handler)
    with pytest.raises(StreamerError, match="bytes free") as caught:
        pull_files("s3://bucket/f", str(tmp_path / "out"))
    assert caught.value.errno == errno.ENOSPC
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pull_of_another_size_than_the_list_says(canned, tmp_path):
    def handler(seen):
        return listed({"f/m.bin": 7}) if "list-type" in seen.path else serve(seen, b"12345678")

    canned(handler)
    with pytest.raises(StreamerError, match="8 bytes, the list says 7") as caught:
        pull_files("s3://bucket/f", str(tmp_path / "out"))
    assert caught.value.code == "changed"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_names_that_are_not_utf8(canned, tmp_path):
    def handler(seen):
        if "list-type" not in seen.path:
            return serve(seen)
        keys = (b"f/a.safetensors", b"f/\xff\xfe.txt", b"f/\xed\xa0\x80.txt")
        entries = (b"<Contents><Key>%b</Key><Size>0</Size></Contents>" % key for key in keys)
        return Answer(200, {}, b"<ListBucketResult>%b</ListBucketResult>" % b"".join(entries))

    canned(handler)
    assert list_safetensors("s3://bucket/f") == ["s3://bucket/f/a.safetensors"]
    assert len(FileStreamer().list_files("s3://bucket/f")) == 3
    with pytest.raises(StreamerError, match="not UTF-8"):
        pull_files("s3://bucket/f", str(tmp_path))


@pytest.mark.parametrize("operation", ["read", "list", "pull"])
def test_texts_of_servers_stay_on_their_line(canned, tmp_path, operation):
    evil = "denied\n[INFO] root\x1b[2J\u202e X-Amz-Signature=SECRET"
    canned(lambda seen: Answer(403, {}, error(403, "No", f"<Message>{evil}</Message>").body))
    key = "s3://bucket/f\n[ERROR] forged?X-Amz-Signature=SECRET"
    with pytest.raises(StreamerError) as caught:
        if operation == "read":
            read(key)
        elif operation == "list":
            list_safetensors(key)
        else:
            pull_files(key, str(tmp_path))
    for text in (str(caught.value), repr(caught.value)):
        assert "[ERROR] forged" in text
        assert "SECRET" not in text
        assert not set(text) & set("\n\x1b\u202e")
    assert "SECRET" not in repr(vars(caught.value))


def test_texts_of_python_stay_on_their_line():
    text = "a\n\x1b https://me:SECRET@h/m?x=SECRET access_token=SECRET \udcff"
    made = StreamerError(text, path="s3://b/m?sig=SECRET", hint=text, identity=text)
    for shown in (str(made), repr(made), made.path, made.hint, made.identity):
        assert "SECRET" not in shown
        assert "\n" not in shown and "\x1b" not in shown
