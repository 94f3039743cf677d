"""Servers that demand a client certificate: every protocol says so, however they refuse."""

from __future__ import annotations

import ssl

import pytest

from runai_model_streamer import FileChunks, FileStreamer, StreamerError
from tests.python.object_storage.storages import OPERATIONS
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.servers.azurite import connection_string
from tests.support.servers.canned import Canned, ranged

DEMANDS = "demands a client certificate"
ASKED = "asked for a client certificate, and ended"
# How a server refuses, by which version, and what the error says. TLS 1.3 ends the handshake before
# the client knows what the server thinks of it; the alert is lost if the server closes the
# connection before it has read the request.
REFUSALS = {
    "after the handshake": ("alert", ssl.TLSVersion.TLSv1_3, f"{DEMANDS}|{ASKED}"),
    "in the handshake": ("alert", ssl.TLSVersion.TLSv1_2, DEMANDS),
    "by a reset": ("reset", ssl.TLSVersion.TLSv1_3, ASKED),
    "by a reset, TLS 1.2": ("reset", ssl.TLSVersion.TLSv1_2, ASKED),
}
# The path of a file, and the settings to reach a server.
PROTOCOLS = {
    "s3": lambda url: ("s3://models/f/m.bin", {**S3_ENV, "AWS_ENDPOINT_URL": url}),
    "gcs": lambda url: ("gs://models/f/m.bin", {"STORAGE_EMULATOR_HOST": url}),
    "azure": lambda url: (
        "az://models/f/m.bin",
        {"AZURE_STORAGE_CONNECTION_STRING": connection_string(url)},
    ),
    "web": lambda url: (f"{url}/f/m.bin", {}),
    "hf": lambda url: ("hf://org/repo/m.bin", {"HF_ENDPOINT": url}),
}


@pytest.fixture
def server(certificate, authority, use):
    use({"SSL_CERT_FILE": str(authority.ca), "RUNAI_STREAMER_MAX_ATTEMPTS": "2"})
    with Canned(lambda seen: ranged(seen, b"x" * 1000), certificate) as server:
        yield server


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("refusal", REFUSALS)
def test_the_error_names_the_cause(server, authority, use, tmp_path, refusal, protocol, operation):
    how, newest, says = REFUSALS[refusal]
    server.ask_for_client_certificates(authority.ca, how, newest)
    path, settings = PROTOCOLS[protocol](server.url)
    use(settings)
    with pytest.raises(StreamerError, match=says) as caught:
        OPERATIONS[operation](path, tmp_path / "pulled")
    assert caught.value.code == "network"
    assert server.url in str(caught.value)
    assert not server.seen


def test_a_server_that_only_asks_for_one_serves_without(server, authority):
    server.ask_for_client_certificates(authority.ca, refusal="none")
    with FileStreamer() as streamer:
        streamer.stream_files([FileChunks(0, f"{server.url}/f/m.bin", 0, [1000])])
        assert [chunk.numel() for _, _, chunk in streamer.get_chunks()] == [1000]
