"""Every fault above every operation of every protocol: the right bytes, or the right error."""

from __future__ import annotations

import re
import time

import pytest
import torch

from runai_model_streamer import (
    SafetensorsStreamer,
    StreamerError,
    list_files,
    list_safetensors,
    pull_files,
)
from tests.python.object_storage.faults import FAULTS, OPERATIONS, TWICE
from tests.support.models import check_same, make_model, save
from tests.support.needs import available
from tests.support.processes import python
from tests.support.servers import process
from tests.support.servers.canned import Answer, Canned
from tests.support.servers.compiler import build
from tests.support.servers.process import free_port

pytestmark = pytest.mark.servers

SHARED_DIRECTORY = True
MODEL = make_model(20)
BYTES = save(MODEL)
NAME = "model.safetensors"
CASES = [
    pytest.param(fault, operation, id=f"{operation}: {fault.name}")
    for operation in OPERATIONS
    for fault in FAULTS
    if operation in fault.operations
]


def stream(uri, tmp_path):
    found: dict[str, torch.Tensor] = {}
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        found = dict(streamer.get_tensors())
        check_same(MODEL, found)


def header(uri, tmp_path):
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([f"{uri}/{NAME}"])
        names = [tensor.name for tensor in streamer.files_to_tensors_metadata[0]]
    assert sorted(names) == sorted(MODEL)


def listing(uri, tmp_path):
    assert list_safetensors(uri) == [f"{uri}/{NAME}"]


def pull(uri, tmp_path):
    pull_files(uri, str(tmp_path / "pulled"))
    assert (tmp_path / "pulled" / NAME).read_bytes() == BYTES


RUN = {"stream": stream, "header": header, "list": listing, "pull": pull}


def requests_of(operation, storage):
    """A Lua pattern of the requests of an operation."""
    return {
        "stream": storage.read_match + ".* bytes=[1-9]",
        "header": storage.read_match + ".* bytes=0",
        "list": storage.list_match,
        "pull": storage.read_match,
    }[operation]


@pytest.mark.parametrize(("fault", "operation"), CASES)
def test_a_fault_ends_in_the_right_bytes_or_the_right_error(
    storage, use, tmp_path, fault, operation
):
    if fault.checksum and not storage.checksums:
        pytest.skip("the server keeps no checksum")
    storage.put(NAME, BYTES)
    use(storage.proxied)
    use({"RUNAI_STREAMER_CHUNK_BYTESIZE": str(5 << 20), "RUNAI_STREAMER_MAX_ATTEMPTS": "3"})
    use(fault.settings)
    if fault.anonymous:
        use(storage.anonymous)
    storage.nginx.fault(match=requests_of(operation, storage), **fault.details)
    if fault.code is None:
        RUN[operation](storage.uri, tmp_path)
    else:
        with pytest.raises(StreamerError) as caught:
            RUN[operation](storage.uri, tmp_path)
        error = caught.value
        assert error.code in fault.code.split("|"), error
        assert re.search(fault.says, str(error)), error
        assert storage.uri in error.path
        for secret in storage.secrets:
            assert secret not in str(error)
        if operation == "pull":
            assert not [f for f in (tmp_path / "pulled").rglob("*") if f.is_file()]
    hits = storage.nginx.fault_hits()
    assert hits > 0, "the fault was never tried"
    if fault.at_once and operation != "stream":  # there, several connections may meet it
        if operation == "list":
            told = "status" in fault.details
            assert hits == (storage.list_refusals if told else 1)
        else:
            refused = fault.details.get("status") in (403, 404)
            assert hits == (storage.refusals if refused else 1)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_redirect_to_another_server_carries_no_secret(storage, use, tmp_path, operation):
    storage.put(NAME, BYTES)
    use(storage.proxied | TWICE)
    with Canned(lambda seen: Answer(404)) as other:
        match = requests_of(operation, storage)
        storage.nginx.fault("redirect", match=match, to=other.url)
        with pytest.raises(StreamerError):
            RUN[operation](storage.uri, tmp_path)
    assert storage.nginx.fault_hits() > 0
    for seen in other.seen:
        assert "authorization" not in seen.headers
        for secret in storage.secrets:
            assert secret not in str(seen)


@pytest.mark.parametrize("operation", ["stream", "list", "pull"])
def test_a_dead_proxy_is_named(storage, use, tmp_path, operation):
    storage.put(NAME, BYTES)
    use(storage.env | TWICE)
    address = f"127.0.0.1:{free_port()}"
    use({"http_proxy": f"http://me:hidden@{address}", "NO_PROXY": ""})
    with pytest.raises(StreamerError, match=f"the proxy {address}") as caught:
        RUN[operation](storage.uri, tmp_path)
    assert "hidden" not in str(caught.value)


# A page of a list that names another one, always the same, or far too many directories.
ENDLESS = {
    "s3": {
        "type": "application/xml",
        "body": "<ListBucketResult><IsTruncated>true</IsTruncated>"
        "<NextContinuationToken>again</NextContinuationToken></ListBucketResult>",
    },
    "gcs": {"type": "application/json", "body": '{"nextPageToken": "again"}'},
    "azure": {
        "type": "application/xml",
        "body": "<EnumerationResults><Blobs/><NextMarker>again</NextMarker></EnumerationResults>",
    },
    "web": {
        "type": "text/html",
        "body": "".join(f"<a href='{number}/'>" for number in range(101)),
    },
    # The first request is for the commit.
    "hf": {"body": "[]", "link": '<{endpoint}/api/models/a/b?cursor=again>; rel="next"', "skip": 1},
}


def test_a_list_without_end_is_an_error(storage, use):
    storage.put(NAME, BYTES)
    use(storage.proxied)
    page = dict(ENDLESS[storage.name])
    if "link" in page:
        page["link"] = page["link"].format(endpoint=storage.proxied["HF_ENDPOINT"])
    storage.nginx.fault("status", status=200, match=storage.list_match, **page)
    with pytest.raises(StreamerError, match=r"repeats a page|does not end"):
        list_files(storage.uri)
    assert storage.nginx.fault_hits() <= 120


# Pages that end within a document, and documents that are no list.
NO_LISTS = {
    "s3": ["<ListBucketResult><Contents><Key>f", "<ListBucketResult>", "<Other/>", "", "[]"],
    "gcs": ['{"items": [{"name": "f', '{"items": 1}', "[]", "", "<ListBucketResult/>"],
    "azure": ["<EnumerationResults><Blobs><Blob>", "<EnumerationResults>", "<Other/>", "", "[]"],
    "web": ['[{"name": "model', '{"name": 1}', "<html><a href='x.safetensors'", "", "<Other/>"],
    "hf": ['[{"path": "model', '{"path": 1}', "1", "", "<Other/>"],
}


@pytest.mark.parametrize("number", range(5))
def test_what_is_no_list_is_an_error(storage, use, number):
    """Not a list without files, which would be pulled and loaded as such."""
    storage.put(NAME, BYTES)
    use(storage.proxied)
    use({"RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
    body = NO_LISTS[storage.name][number]
    skip = 1 if storage.name == "hf" else 0  # the request for the commit
    storage.nginx.fault(
        "status", status=200, match=storage.list_match, body=body, type="", skip=skip
    )
    with pytest.raises(StreamerError) as caught:
        list_files(storage.uri)
    assert caught.value.code in ("io", "unsupported"), caught.value
    assert storage.nginx.fault_hits() > 0


LOAD = """
import sys, time
from runai_model_streamer import list_safetensors, pull_files
from runai_model_streamer.numpy import load_file
(path,) = list_safetensors(sys.argv[1])
pull_files(sys.argv[1], sys.argv[2])
print(len(load_file(path)), int(time.time()))
"""


@pytest.mark.parametrize("minutes", [-40, 40])
def test_a_clock_that_is_wrong(storage, tmp_path, minutes):
    """A server that refuses signatures for it tells its own time: they are made again by that."""
    storage.put(NAME, BYTES)
    with available("a C++ compiler"):
        clock = build(process.HERE / "shifted_clock.cc", "-shared", "-fPIC")
    shift = {"LD_PRELOAD": str(clock), "SHIFT_SECONDS": str(minutes * 60)}
    said = python(LOAD, storage.uri, tmp_path / "pulled", **storage.env, **shift)
    tensors, theirs = map(int, said.split())
    assert tensors == len(MODEL)
    assert (tmp_path / "pulled" / NAME).read_bytes() == BYTES
    assert abs(theirs - minutes * 60 - time.time()) < 600


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(
    ("scheme", "cure"), [("https", "does not speak TLS|use http://"), ("http", "use https://")]
)
def test_the_other_scheme_than_the_servers_is_said(storage, use, tmp_path, operation, scheme, cure):
    storage.put(NAME, BYTES)
    nginx = storage.nginx
    right, wrong = nginx.proxy, nginx.proxy if scheme == "https" else nginx.tls_proxy

    def mistaken(text: str) -> str:
        for name, address in right.items():
            text = text.replace(address, f"{scheme}://{wrong[name].partition('://')[2]}")
        return text.replace("DefaultEndpointsProtocol=http;", f"DefaultEndpointsProtocol={scheme};")

    use({name: mistaken(value) for name, value in storage.proxied.items()})
    with pytest.raises(StreamerError, match=f"(?i){cure}") as caught:
        RUN[operation](mistaken(storage.uri), tmp_path)
    assert caught.value.attempts in (None, 1)
    for secret in storage.secrets:
        assert secret not in str(caught.value)
