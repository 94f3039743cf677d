"""Variables that name authorities: what each does to requests of each protocol."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from runai_model_streamer import StreamerError, list_files
from tests.python.object_storage.canned_s3 import DATA, read
from tests.python.object_storage.storages.s3 import S3_ENV
from tests.support.servers.canned import Answer, Canned, Seen, ranged
from tests.support.servers.tls import Authority

COMMIT = "c" * 40
EMPTY_LISTS = {
    "s3": b"<ListBucketResult/>",
    "gcs": b"{}",
    "azure": b"<EnumerationResults><Blobs/></EnumerationResults>",
    "web": b"<html><a href='../'>..</a></html>",
    "hf": b"[]",
}
PROTOCOLS = list(EMPTY_LISTS)


def serve(protocol: str, seen: Seen) -> Answer:
    if protocol == "hf" and "/revision/" in seen.path:
        return Answer(200, {}, json.dumps({"sha": COMMIT}).encode())
    if seen.path.partition("?")[0].endswith("key"):
        return ranged(seen, DATA, **{"X-Repo-Commit": COMMIT, "X-Goog-Generation": "1"})
    kind = {"Content-Type": "text/html"} if protocol == "web" else {}
    return Answer(200, {"X-Repo-Commit": COMMIT, **kind}, EMPTY_LISTS[protocol])


@pytest.fixture(params=PROTOCOLS)
def protocol(request):
    return request.param


@pytest.fixture
def directory_path(protocol, certificate, use):
    """The path of a directory with an object `key`, on a server of TLS."""
    with Canned(lambda seen: serve(protocol, seen), certificate) as server:
        account = f"AccountName=a;AccountKey=a2V5;BlobEndpoint={server.url}/a"
        use({"AWS_ENDPOINT_URL": server.url, **S3_ENV})
        use({"RUNAI_STREAMER_GCS_ENDPOINT": server.url, "HF_ENDPOINT": server.url})
        use({"RUNAI_STREAMER_GCS_USE_ANONYMOUS_CREDENTIALS": "1"})
        use({"AZURE_STORAGE_CONNECTION_STRING": account, "RUNAI_STREAMER_MAX_ATTEMPTS": "1"})
        yield {
            "s3": "s3://bucket/d",
            "gcs": "gs://bucket/d",
            "azure": "az://container/d",
            "web": f"{server.url}/d",
            "hf": "hf://org/repo/d",
        }[protocol]


@pytest.fixture(scope="module")
def places(authority, tmp_path_factory):
    """Where authorities are: the server's, and others."""
    directory = tmp_path_factory.mktemp("authorities")
    hashed = directory / "hashed"
    hashed.mkdir()
    ask = ["openssl", "x509", "-hash", "-noout", "-in", str(authority.ca)]
    name = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(authority.ca, hashed / f"{name}.0")
    return {
        "file": str(authority.ca),
        "directory": str(hashed),
        "other": str(Authority(directory / "other", "another test CA").ca),
        "impostor": str(Authority(directory / "impostor").ca),  # of the same name
        "absent": str(directory / "absent.pem"),
    }


def reaches(path: str) -> bool:
    """Whether a read and a list, which are sent by two clients, trust the server."""
    results = []
    for call in (lambda: read(f"{path}/key") == DATA, lambda: list_files(path) == []):
        try:
            assert call()
            results.append(True)
        except StreamerError as error:
            assert error.code == "network", error
            assert "certificate is not accepted" in str(error)
            assert "AWS_CA_BUNDLE or SSL_CERT_FILE" in str(error)
            results.append(False)
    assert len(set(results)) == 1
    return results[0]


# The variables and the places that they name; whether the server is trusted then.
ROWS = [
    ({}, False),
    ({"SSL_CERT_FILE": "file"}, True),
    ({"SSL_CERT_FILE": "other"}, False),
    ({"SSL_CERT_FILE": "impostor"}, False),
    ({"SSL_CERT_DIR": "directory"}, True),
    ({"SSL_CERT_FILE": "other", "SSL_CERT_DIR": "directory"}, True),
    ({"REQUESTS_CA_BUNDLE": "file"}, True),
    ({"REQUESTS_CA_BUNDLE": "directory"}, True),
    ({"CURL_CA_BUNDLE": "file"}, True),
    ({"SSL_CERT_FILE": "other", "REQUESTS_CA_BUNDLE": "file"}, False),
    ({"SSL_CERT_DIR": "directory", "REQUESTS_CA_BUNDLE": "other"}, True),
    ({"REQUESTS_CA_BUNDLE": "other", "CURL_CA_BUNDLE": "file"}, False),
]


@pytest.mark.parametrize(
    ("variables", "trusted"),
    ROWS,
    ids=[" ".join(map("=".join, row.items())) or "none" for row, _ in ROWS],
)
def test_a_variable_names_authorities(directory_path, places, use, variables, trusted):
    use({name: places[place] for name, place in variables.items()})
    assert reaches(directory_path) is trusted


@pytest.mark.parametrize("place", ["file", "other"])
def test_the_bundle_of_aws_comes_first_and_is_for_s3_only(
    directory_path, protocol, places, use, place
):
    use({"AWS_CA_BUNDLE": places[place], "SSL_CERT_FILE": places["file"]})
    assert reaches(directory_path) is (protocol != "s3" or place == "file")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_that_is_not_there_is_named(directory_path, places, use, name):
    use({name: places["absent"]})
    with pytest.raises(StreamerError, match=name) as caught:
        read(f"{directory_path}/key")
    assert caught.value.code == "invalid"
