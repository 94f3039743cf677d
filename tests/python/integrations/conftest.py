"""A directory of a model in each kind of storage."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.needs import running
from tests.support.servers.azurite import Azurite, connection_string
from tests.support.servers.gcs_standin import GcsStandIn
from tests.support.servers.hub_standin import HubStandIn
from tests.support.servers.moto import Moto

Place = Callable[[Path], str]


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    with running(Moto()) as server:
        server.client().create_bucket(Bucket="models")
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    with running(Azurite()) as server:
        server.client().create_container("models")
        yield server


def contents(directory: Path) -> dict[str, bytes]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


@pytest.fixture(params=["file", "hf", "gs", "az", "s3"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Puts a directory there, and returns its path."""
    name = f"d{os.urandom(4).hex()}"
    if request.param == "file":
        yield str
    elif request.param == "hf":
        with HubStandIn() as hub:
            monkeypatch.setenv("HF_ENDPOINT", hub.url)

            def push(directory: Path) -> str:
                hub.push(f"org/{name}", contents(directory))
                return f"hf://org/{name}"

            yield push
    elif request.param == "gs":
        with GcsStandIn() as gcs:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs.url)
            gcs.buckets["models"] = {}

            def put(directory: Path) -> str:
                for key, data in contents(directory).items():
                    gcs.put("models", f"{name}/{key}", data)
                return f"gs://models/{name}"

            yield put
    elif request.param == "az":
        azure = request.getfixturevalue("azurite")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection_string(azure.url))
        container = azure.client().get_container_client("models")

        def upload_blobs(directory: Path) -> str:
            for key, data in contents(directory).items():
                container.upload_blob(f"{name}/{key}", data)
            return f"az://models/{name}"

        yield upload_blobs
    else:
        server = request.getfixturevalue("moto")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "testing")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        client = server.client()

        def upload(directory: Path) -> str:
            for key, data in contents(directory).items():
                client.put_object(Bucket="models", Key=f"{name}/{key}", Body=data)
            return f"s3://models/{name}"

        yield upload
